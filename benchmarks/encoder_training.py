"""Little data: what training the encoder is worth beside a probe on it frozen, and what it costs in time.

    python benchmarks/encoder_training.py --data ../shared/data [--part trec6] [--rows 100] [--encoder FOLDER]

No LLM: the encoder's side alone, as `fit` makes it with `encoder_training="probe"` and `"auto"`. What is measured is
kept in `--cache`; the report is written to `docs/encoder-training.md`.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accuracy_data import Embedder, metadata, origin
from labelfusion.evaluation.metrics import classification_metrics
from labelfusion.modeling_labelfusion.encoding import encode_texts
from labelfusion.scoring.probabilities import to_probabilities
from labelfusion.training.data import LabelledTexts, prepare
from labelfusion.training.fit_options import MAX_TRAIN_TOKENS, FinetuneOptions, FitOptions
from labelfusion.training.recipe import fit_model
from transformers.utils import logging as transformers_logging

SPLITS = {  # learn from, judge on; the same name: different rows of it
    "trec6": ("train", "test"),
    "tweet_emotion": ("train", "test"),
    "climate_stance": ("train", "train"),
    "semeval_stance": ("test", "test"),
}
JUDGED = 500  # rows at most
MAX_LENGTH = 64
WAYS = ("probe", "auto")
KEPT = "\n## What the shorter training changed\n"  # and what follows is not written by this script


def split(folder: Path, name: str, rows: int, seed: int) -> tuple[LabelledTexts, LabelledTexts]:
    """`rows` rows to learn from, drawn by `seed`, and others to judge on."""
    meta = metadata(folder, name)
    learn, judge = (pd.read_parquet(folder / name / f"{part}.parquet") for part in SPLITS[name])
    drawn = learn.sample(rows, random_state=seed)
    rest = judge.drop(drawn.index) if SPLITS[name][0] == SPLITS[name][1] else judge
    rest = rest.sample(min(JUDGED, len(rest)), random_state=0)
    classes = meta["label_names"]
    found = [prepare(part[["text", "label"]], classes=classes, multi_label=False) for part in (drawn, rest)]
    return found[0], found[1]


def measure(name: str, rows: int, seed: int, way: str, embed: Embedder, args: argparse.Namespace) -> dict[str, Any]:
    """Fit on few rows, and judge on others."""
    learn, judge = split(args.data, name, rows, seed)
    assert learn.labels is not None
    assert judge.labels is not None
    model = embed.model([str(c) for c in learn.classes], 0, False)
    options = FitOptions(encoder_training=way, max_train_tokens=args.max_train_tokens, seed=seed)
    options.finetune = FinetuneOptions(max_length=MAX_LENGTH, seed=seed)
    started = time.perf_counter()
    report = fit_model(model, embed.tokenizer, learn.texts, learn.labels, None, options)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        logits, _ = model.fuse(encode_texts(model, embed.tokenizer, judge.texts, max_length=MAX_LENGTH).to(args.device))
    metrics = classification_metrics(to_probabilities(logits.cpu().numpy(), False), judge.labels, False)
    return {
        "encoder": Path(args.encoder).name,
        "part": name,
        "rows": rows,
        "seed": seed,
        "way": way,
        "tokens": args.max_train_tokens,
        "judged": len(judge),
        "chosen": report["encoder_training"],
        "accuracy": metrics["accuracy"],
        "log_loss": metrics["log_loss"],
        "seconds": round(seconds),
    }


def write(done: list[dict[str, Any]], path: Path, folder: Path) -> None:
    """One line for each data set and number of rows."""
    tokens = sorted({r["tokens"] for r in done})
    lines = [
        "# Training the encoder on little data",
        "",
        "Written by `python benchmarks/encoder_training.py`. No LLM is used. The encoder is frozen (`probe`) or fitted",
        f'with `encoder_training="auto"` and `max_train_tokens={", ".join(f"{m:_}" for m in tokens)}`, which tries',
        "contrastive training and fine-tuning as well. It keeps the variant that does best on held-out training rows.",
        "Accuracy is measured on rows outside the training data. `±`: the standard error of the mean difference over",
        "the draws of the training rows; with one draw, the standard error of the accuracy on the test rows.",
        "`judged on`: the number of test rows. `kept`: what `auto` chose in each draw.",
        "",
        "| data set | rows | judged on | draws | encoder | probe | auto | difference | log loss | kept | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    table = pd.DataFrame(done).drop_duplicates(["encoder", "part", "rows", "seed", "way"], keep="last")
    for (encoder, part, rows), group in table.groupby(["encoder", "part", "rows"], sort=False):
        by_way = {way: group[group["way"] == way].set_index("seed") for way in WAYS}
        seeds = sorted(set(by_way["probe"].index) & set(by_way["auto"].index))
        if not seeds:
            continue
        probe, auto = (by_way[way].loc[seeds] for way in WAYS)
        gain = auto["accuracy"] - probe["accuracy"]
        judged = int(auto["judged"].iloc[0])
        mean = float(auto["accuracy"].mean())
        alone = (mean * (1 - mean) / judged) ** 0.5
        error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else alone
        kept = ", ".join(f"{n} x {way}" for way, n in auto["chosen"].value_counts().items())
        cells = [part, rows, judged, len(seeds), f"`{encoder}`", f"{probe['accuracy'].mean():.1%}", f"{mean:.1%}"]
        cells += [f"{gain.mean():+.1%} ± {error:.1%}"]
        cells += [f"{probe['log_loss'].mean():.3f} to {auto['log_loss'].mean():.3f}", kept]
        cells += [f"{probe['seconds'].median():.0f} to {auto['seconds'].median():.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    sources = [f"{name}: {origin(metadata(folder, name)['source'])}." for name in SPLITS if name in set(table["part"])]
    _, mark, kept = path.read_text(encoding="utf-8").partition(KEPT) if path.exists() else ("", "", "")
    path.write_text("\n".join([*lines, "", *sources]) + "\n" + mark + kept, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--rows", nargs="+", type=int, default=[100])
    parser.add_argument("--seeds", type=int, default=1, help="draws of the rows")
    parser.add_argument("--max-train-tokens", type=int, default=MAX_TRAIN_TOKENS)
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--output", type=Path, default=Path("docs/encoder-training.md"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    transformers_logging.disable_progress_bar()
    args.cache.mkdir(parents=True, exist_ok=True)
    log = args.cache / "encoder-training.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    embed = Embedder(args.encoder, args.cache, args.device)
    name = Path(args.encoder).name
    seen = {(r["encoder"], r["part"], r["rows"], r["seed"], r["way"]) for r in done}
    for seed in range(args.seeds):
        for rows in args.rows:
            for part in args.part:
                for way in WAYS:
                    if (name, part, rows, seed, way) in seen:
                        continue
                    done.append(measure(part, rows, seed, way, embed, args))
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(done[-1]) + "\n")
                    print(done[-1], flush=True)
                write(done, args.output, args.data)
    write(done, args.output, args.data)


if __name__ == "__main__":
    main()
