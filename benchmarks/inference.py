"""Texts classified a second, beside Transformers' own pipeline on the same encoder.

    python benchmarks/inference.py [--encoder FOLDER] [--data ../shared/data] [--runs 5]

No LLM is waited for: its scores come with the texts. The report, `docs/speed.md`, has medians of the runs, and their
ratios to the peer's.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accuracy_data import metadata
from labelfusion.scoring.local.embedded import resolve_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging as transformers_logging

from labelfusion import AutoFusionClassifier

PARTS = {"ag_news": 128, "reuters10": 256}  # data set: tokens kept of a text
BATCH_SIZE = 32
PEER = "`text-classification`, Transformers"
INTRO = """# Speed

Written by `python benchmarks/inference.py`. A model classifies texts that `fit` has not seen.
{threads} CPU threads, batches of {batch_size}. Figures are medians of {runs} runs; each run
measures all ways in turn. In brackets: the ratio to the peer's median. The peer is Transformers' `text-classification`
pipeline with the same encoder, batch size and truncation, and a linear head. The LLM scores are recorded and passed
with the texts. The fused model has two inner layers, a TF-IDF head and a kernel head in addition to its linear head. It
is faster on lists because texts of similar length share a batch. *One text*: milliseconds from the call to the result.
"""


def ways(name: str, args: argparse.Namespace) -> tuple[list[str], dict[str, Callable[[list[str]], Any]]]:
    """The texts, and the ways to classify them."""
    path, meta = args.data / name, metadata(args.data, name)
    names = meta["label_names"]
    llms: list[Any] = [{"model": "recorded", "name": llm} for llm in meta["providers"]]
    table = pd.read_parquet(path / "validation.parquet")
    train, rest = table.iloc[:300], table.iloc[300:]
    more = pd.read_parquet(path / "train.parquet", columns=["text"])["text"].sample(args.texts, random_state=0)
    clf = AutoFusionClassifier(
        args.encoder, llms, names, meta["multi_label"], encoder_training="probe", max_length=PARTS[name]
    ).fit(train)
    torch.manual_seed(0)
    source = str(resolve_model(args.encoder))
    model: Any = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(names))
    half: Any = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(names), dtype=torch.bfloat16)
    shared: Any = {"tokenizer": AutoTokenizer.from_pretrained(source), "device": "cpu", "batch_size": BATCH_SIZE}
    peer, half_peer = (pipeline("text-classification", model=m, **shared) for m in (model, half))
    scores = np.stack([np.stack(s) for s in rest["llm_scores"] if s is not None])
    clf.batch_size = BATCH_SIZE

    def ours(bf16: bool, scored: bool) -> Callable[[list[str]], Any]:
        def classify(texts: list[str]) -> Any:
            clf.bf16 = bf16
            given = scores[np.arange(len(texts)) % len(scores)] if scored else None
            return clf.predict_proba(texts, llm_policy="always" if scored else "never", llm_scores=given)

        return classify

    return more.tolist(), {
        PEER: lambda texts: peer(texts, truncation=True, max_length=PARTS[name]),
        f"{PEER}, `dtype=bfloat16`": lambda texts: half_peer(texts, truncation=True, max_length=PARTS[name]),
        "encoder's side": ours(bf16=False, scored=False),
        "fusion": ours(bf16=False, scored=True),
        "fusion, `bf16=True`": ours(bf16=True, scored=True),
    }


def measure(texts: list[str], found: dict[str, Callable[[list[str]], Any]], runs: int) -> pd.DataFrame:
    """Texts a second, and milliseconds for one text, of each way: medians over `runs`."""
    rows = []
    for run in range(runs + 1):  # the first warms up
        for way, classify in found.items():
            started = time.perf_counter()
            classify(texts if run else texts[:BATCH_SIZE])
            rate = len(texts) / (time.perf_counter() - started)
            seconds = []
            for text in texts[:20]:
                started = time.perf_counter()
                classify([text])
                seconds.append(time.perf_counter() - started)
            if run:
                rows.append({"way": way, "rate": rate, "milliseconds": 1000 * float(np.median(seconds))})
                print(run, way, f"{rate:.0f} texts/s, {rows[-1]['milliseconds']:.1f} ms", flush=True)
    return pd.DataFrame(rows).groupby("way", sort=False).median()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("docs/speed.md"))
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    intro = INTRO.format(threads=torch.get_num_threads(), batch_size=BATCH_SIZE, runs=args.runs)
    lines = [intro, f"Encoder `{Path(args.encoder).name}`, {args.texts} texts; {os.cpu_count()} cores.", ""]
    lines += ["| data set | way | texts per second | one text, ms |", "| --- | --- | --- | --- |"]
    for name in PARTS:
        table = measure(*ways(name, args), args.runs)
        peer = table.loc[PEER]
        for way, row in table.iterrows():
            rate = f"{row['rate']:.0f} ({row['rate'] / peer['rate']:.2f})"
            latency = f"{row['milliseconds']:.1f} ({row['milliseconds'] / peer['milliseconds']:.2f})"
            lines.append(f"| {name} | {way} | {rate} | {latency} |")
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
