"""Texts classified a second, beside Transformers' own pipeline on the same encoder.

    python benchmarks/inference.py [--encoder FOLDER] [--data ../shared/data] [--runs 5] [--threads 2]

No LLM is asked. The report, `docs/speed.md`, has medians of the runs, which measure all ways in turn, their ratios to
the peer's, and what each way changes in accuracy and calibration. What stands below the tables is kept.
"""

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accuracy_data import metadata
from labelfusion.evaluation.metrics import expected_calibration_error, is_right
from labelfusion.evaluation.statistics import bootstrap_means
from labelfusion.modeling_labelfusion.hardware import fast_bf16
from labelfusion.scoring.local.embedded import resolve_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging as transformers_logging

from labelfusion import AutoFusionClassifier

PARTS = {"ag_news": 128, "reuters10": 256, "trec6": 64, "movie_reviews": 128}  # data set: tokens kept of a text
PEER_BATCHES = (1, 8, 32)
BATCH_SIZE = 32
PEER = "`text-classification`, Transformers"
KEPT = "## What this shows"  # this and what follows is not written by this script
SPEEDS = ("full", "balanced", "fast")
Way = Callable[[list[str]], Any]
CLOCK: list[Callable[[], float]] = [time.perf_counter]
INTRO = """# Speed

Written by `python benchmarks/inference.py`. A model that was fitted on {rows} rows, with a frozen encoder and
without an LLM, classifies {texts} texts that it has not seen. {threads} CPU thread(s) of `{processor}` ({flags}).
Versions: {versions}; load at the start: {load:.1f}.
Seconds are those of {clock}. Figures are medians of {runs} runs; each run measures all ways in turn. In brackets: the
ratio to the peer's median.
The peer is Transformers' `text-classification` pipeline with the same encoder, a linear
head and the same truncation, in float32, with the fastest of the batch sizes {batches}; all other ways have batches of
{batch_size}. *One text*: milliseconds from the call to the result. The accuracy is that of the fitted model, and its
changes, in points, are paired; in brackets, a bootstrapped interval of 95 %. ECE: expected calibration error.
*Without the encoder*: texts that the quick head answers.
"""
HEADER = (
    "| data set | way | texts per second | one text, ms | accuracy, % | ECE | without the encoder |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def rows_of(args: argparse.Namespace, name: str) -> tuple[pd.DataFrame, pd.DataFrame, list[str], bool]:
    """Rows to fit on, other rows to classify, the names of the classes, and whether several may be right."""
    meta = metadata(args.data, name)
    table = pd.read_parquet(args.data / name / "train.parquet").drop(columns="llm_scores", errors="ignore")
    table = table.drop_duplicates("text").sample(frac=1.0, random_state=0)
    return table[: args.rows], table[args.rows :][: args.texts], meta["label_names"], meta["multi_label"]


class Ours:
    """A fitted classifier, used in one way."""

    def __init__(self, clf: AutoFusionClassifier, backend: str, bf16: bool, speed: str) -> None:
        self.clf, self.options, self.speed = clf, {"backend": backend, "bf16": bf16}, speed

    def __call__(self, texts: list[str]) -> Any:
        """Probabilities float32 `(n, K)`."""
        for option, value in self.options.items():
            setattr(self.clf, option, value)
        return self.clf.predict_proba(texts, speed=self.speed)


def ways_of(args: argparse.Namespace, name: str, clf: AutoFusionClassifier, texts: list[str]) -> dict[str, Way]:
    """The ways to classify the texts, the peer first."""
    source, limit = str(resolve_model(args.encoder)), {"truncation": True, "max_length": PARTS[name]}
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(clf.classes_))
    tokenizer = AutoTokenizer.from_pretrained(source)
    peer: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    seconds = {
        size: min(_seconds(peer, texts[:64], batch_size=size, **limit) for _ in range(2)) for size in PEER_BATCHES
    }
    best = min(seconds, key=lambda size: seconds[size])
    print(name, "peer, seconds by batch size:", seconds, flush=True)
    found: dict[str, Way] = {f"{PEER}, batches of {best}": lambda texts: peer(texts, batch_size=best, **limit)}
    half = fast_bf16(torch.device("cpu"))
    for backend, bf16 in (("torch", False), ("openvino", False), ("torch", True), ("openvino", True)):
        for speed in SPEEDS:
            if half or not bf16:
                names = [
                    f'`speed="{speed}"`',
                    *[f'`backend="{backend}"`'] * (backend != "torch"),
                    *["`bf16=True`"] * bf16,
                ]
                found[", ".join(names)] = Ours(clf, backend, bf16, speed)
    return found


def _seconds(work: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    started = CLOCK[0]()
    work(*args, **kwargs)
    return CLOCK[0]() - started


def measure(texts: list[str], ways: dict[str, Way], runs: int, singles: int) -> pd.DataFrame:
    """Texts a second, and milliseconds for one text, of each way: medians over `runs`."""
    rows = []
    for run in range(runs + 1):  # the first warms up
        for way, classify in ways.items():
            seconds = _seconds(classify, texts if run else texts[:BATCH_SIZE])
            alone = [_seconds(classify, [text]) for text in texts[: singles if run else 3]]
            if run:
                rows.append({"way": way, "rate": len(texts) / seconds, "ms": 1000 * float(np.median(alone))})
                print(run, way, f"{rows[-1]['rate']:.0f} texts/s, {rows[-1]['ms']:.1f} ms", flush=True)
    return pd.DataFrame(rows).groupby("way", sort=False).median()


def quality(clf: AutoFusionClassifier, table: pd.DataFrame, ways: dict[str, Way]) -> dict[str, list[str]]:
    """Cells of each of our ways: accuracy, ECE and the share without the encoder; changes are to the first one."""
    data = clf._prepare_measured(table)
    labels, rule, multi_label = data.labels, clf.model_.config.decision_rule, clf.model_.config.multi_label
    assert labels is not None
    cells: dict[str, list[str]] = {}
    first: tuple[Any, float] | None = None
    for way, classify in ways.items():
        if not isinstance(classify, Ours):
            cells[way] = ["", "", ""]
            continue
        p = classify(list(data.texts)).astype(np.float64)
        right = is_right(p, labels, rule).astype(float)
        if multi_label:
            ece = expected_calibration_error(p.ravel(), labels.ravel().astype(bool))
        else:
            ece = expected_calibration_error(p.max(axis=1), right.astype(bool))
        share = "" if classify.speed == "full" else f"{100 * clf.report_['quick_share'][classify.speed]:.0f} %"
        if first is None:
            first = right, ece
            cells[way] = [f"{100 * right.mean():.1f}", f"{ece:.4f}", share]
            continue
        change = right - first[0]
        low, high = np.quantile(bootstrap_means(change[:, None]), [0.025, 0.975])
        cells[way] = [
            f"{100 * change.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
            f"{ece - first[1]:+.4f}",
            share,
        ]
    return cells


def report(args: argparse.Namespace, lines: list[str]) -> None:
    """Write the tables; what stands below them, and rows of data sets that are not measured, are kept."""
    old = args.output.read_text(encoding="utf-8") if args.output.is_file() else ""
    kept = old[old.index(KEPT) :] if KEPT in old else ""
    if HEADER in old:
        rows = old[old.index(HEADER) + len(HEADER) :].split("\n\n")[0].strip("\n").splitlines()
        lines = lines + [row for row in rows if row.split(" | ")[0].strip("| ") not in args.parts]
        lines.sort(key=lambda row: list(PARTS).index(row.split(" | ")[0].strip("| ")))
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    has = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if f" {flag} " in info + " "]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "openvino"))
    intro = INTRO.format(
        rows=args.rows,
        texts=args.texts,
        threads=args.threads,
        runs=args.runs,
        batch_size=BATCH_SIZE,
        load=args.load,
        clock="the processor" if args.processor_seconds else "the clock",
        processor=(names or ["unknown"])[0],
        flags=", ".join(has),
        versions=versions,
        batches=", ".join(map(str, PEER_BATCHES)),
    )
    text = "\n".join([intro, f"Encoder `{Path(args.encoder).name}`.", "", HEADER, *lines, "", kept])
    args.output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--rows", type=int, default=2000, help="rows to fit on")
    parser.add_argument("--texts", type=int, default=2000, help="texts to classify")
    parser.add_argument("--timed", type=int, default=512, help="the first of these are timed")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--singles", type=int, default=20, help="texts that are classified one by one")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--processor-seconds", action="store_true", help="instead of those of the clock: for a machine in use"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/speed.md"))
    args = parser.parse_args()
    if args.processor_seconds:
        CLOCK[0] = time.process_time
    args.load = os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    lines: list[str] = []
    for name in args.parts:
        train, test, classes, multi_label = rows_of(args, name)
        options: dict[str, Any] = {"encoder_training": "probe", "max_length": PARTS[name], "batch_size": BATCH_SIZE}
        clf = AutoFusionClassifier(args.encoder, None, classes, multi_label, **options).fit(train)
        print(name, clf.report_["quick_share"], flush=True)
        texts = test["text"].tolist()[: args.timed]
        ways = ways_of(args, name, clf, texts)
        table, cells = measure(texts, ways, args.runs, args.singles), quality(clf, test, ways)
        peer = table.iloc[0]
        for way, row in table.iterrows():
            rate, ms = (f"{row[k]:.{d}f} ({row[k] / peer[k]:.2f})" for k, d in (("rate", 0), ("ms", 1)))
            lines.append(f"| {name} | {way} | {rate} | {ms} | {' | '.join(cells[str(way)])} |")
        report(args, lines)  # after each part: a run that is stopped leaves what it has


if __name__ == "__main__":
    main()
