"""`labelfusion demo`: train a small fusion on real texts, compare it with its sources, save it, reload it, use it."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import without_loading_bars

if TYPE_CHECKING:
    import pandas as pd

ENCODER = "embedded/all-minilm-l6-v2"
LLM = "embedded/smollm2-135m-instruct"
DATA = Path(__file__).with_name("demo_data") / "news_briefs.csv"
SHARE = 0.3
SHOWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--data", metavar="FILE", help="CSV, JSONL or Parquet with text, label and, if any, split")
    parser.add_argument("--encoder", default=ENCODER, help="Hub id, folder or embedded encoder (default: %(default)s)")
    parser.add_argument("--llm", default=LLM, help="model string of the LLM (default: %(default)s)")
    parser.add_argument("--output-dir", default="demo-model", help="where the model is saved (default: %(default)s)")
    parser.add_argument(
        "--encoder-training",
        default="probe",
        choices=["probe", "auto", "contrastive", "full"],
        help="probe: linear head, seconds; contrastive: for few rows; full: fine-tuning; auto: what is better in time "
        "(default: %(default)s)",
    )
    parser.add_argument("--max-cost-usd", type=float, help="dollars that an LLM behind an API may cost")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and the training")
    parser.add_argument(
        "--write-data", metavar="DIR", help="only write the demo's texts to DIR/train.csv and DIR/test.csv"
    )


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    if args.write_data is not None:
        return write_data(args.data, args.seed, Path(args.write_data))
    from transformers import pipeline

    import labelfusion  # noqa: F401  registers the pipeline
    from labelfusion import AutoFusionClassifier

    from ...scoring.budget import Budget
    from ..io.model_folder import check_model_target

    check_model_target(Path(args.output_dir))
    started = time.perf_counter()
    train, test = split_data(args.data, args.seed)
    label_of = f"{train['label'].nunique()} classes" if "label" in train else "several classes a text"
    print(f"Data      {args.data or 'news briefs of six sections (comes with this package)'}")
    print(f"          {len(train)} texts to learn from, {len(test)} held out, {label_of}")
    print(f"Encoder   {args.encoder}\nLLM       {args.llm}\n", flush=True)

    clf = AutoFusionClassifier(
        encoder=args.encoder,
        llm=args.llm,
        multi_label="label" not in train,
        encoder_training=args.encoder_training,
        max_cost_usd=args.max_cost_usd,
        seed=args.seed,
        progress=True,
    ).fit(train)
    print(f"\nFitted in {clf.report_['seconds_in_all']:.0f} s. {_chosen(clf.report_)}\n", flush=True)

    left = None if args.max_cost_usd is None else Budget(args.max_cost_usd, clf.report_["cost_usd"])
    started_asking = time.perf_counter()
    scores = clf.predict_sources(test, max_cost_usd=left).llm_scores
    seconds = time.perf_counter() - started_asking
    page = args.output_dir.rstrip("/\\") + "-report.html"  # beside the model, which may be published: it shows texts
    always = {**clf.evaluate(test, llm_scores=scores, html=page), "seconds": seconds}
    never = clf.evaluate(test, llm_policy="never")
    partly = clf.evaluate(test, llm_policy=SHARE, max_cost_usd=left)
    print("\n" + table(always, never, partly) + "\n")

    clf.save_pretrained(args.output_dir)
    folder = Path(args.output_dir) / "evaluation"
    clf.tradeoff(test.assign(llm_scores=list(scores)), latency_rows=0, folder=folder)
    print(f"Saved to {args.output_dir}. Loading it again:\n")
    print(f'  pipe = pipeline("labelfusion-classification", model="{args.output_dir}")\n', flush=True)
    pipe: Any = pipeline("labelfusion-classification", model=args.output_dir)  # type: ignore[call-overload]
    texts = hard_texts(clf, test)
    for text, answer in zip(texts, pipe(texts, return_sources=True), strict=True):
        show(text, answer)
    print(f"Report    {page}: open it in a browser")
    if (folder / "tradeoff.png").exists():
        print(f"Picture   {folder / 'tradeoff.png'}: accuracy against the share of texts sent to the LLM")
    print(f"Model     {args.output_dir}\nDone in {time.perf_counter() - started:.0f} s.\n")
    if args.data is None:
        print("Next: `labelfusion demo --data FILE.csv` does the same with your texts, in the columns text and label.")
    else:
        print(f"Next: `labelfusion predict {args.output_dir} FILE.csv answers.csv` classifies new texts.")
    return 0


def write_data(data: str | None, seed: int, folder: Path) -> int:
    """Write the training and the test rows to two CSV files.

    Raises:
        ValueError: If one of the files is there.
    """
    paths = [folder / "train.csv", folder / "test.csv"]
    if there := [str(path) for path in paths if path.exists()]:
        raise ValueError(f"`--write-data` would replace {there[0]}: move it away, or give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, part in zip(paths, split_data(data, seed), strict=True):
        part.drop(columns="split", errors="ignore").to_csv(path, index=False)
        print(f"{path}: {len(part)} rows")
    return 0


def split_data(path: str | None, seed: int) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Split into training and test rows: by the column `split` if present, else 70 % and 30 % of every class."""
    from labelfusion.training.data import read_table
    from sklearn.model_selection import train_test_split

    table, _ = read_table(path or DATA)
    _check_columns(list(table.columns))
    if "split" in table:
        train, test = table[table["split"] == "train"], table[table["split"] != "train"]
        if len(train) and len(test):
            return train.reset_index(drop=True), test.reset_index(drop=True)
    if len(table) < 20:
        raise ValueError(f"`--data` has {len(table)} rows; 20 are the least for a training and a test part.")
    stratify = table["label"] if "label" in table and table["label"].value_counts().min() > 1 else None
    train, test = train_test_split(table, test_size=0.3, random_state=seed, stratify=stratify)
    return train.reset_index(drop=True), test.reset_index(drop=True)


def _check_columns(names: list[str]) -> None:
    """Check that the data have texts and labels by the names that this command reads; `train` has options for them."""
    kept = ("text", "text_pair", "label", "labels", "llm_scores", "split")
    other = next((name for name in names if name not in kept), "COLUMN")
    for wanted, option in ((("text",), "--text-column"), (("label", "labels"), "--label-column")):
        if not any(name in names for name in wanted):
            raise ValueError(
                f"`--data` has no column {' or '.join(map(repr, wanted))}; its columns are {', '.join(names)}. Rename "
                f"the column, or train with `labelfusion train {option} {other}`."
            )


def table(always: dict[str, Any], never: dict[str, Any], partly: dict[str, Any]) -> str:
    """The comparison as text."""
    llms = {name: m for name, m in always["llm"].items() if "accuracy" in m}
    rows = [("Encoder alone", never["fusion"], 0.0, never["seconds"])]
    rows += [(f"LLM alone ({name.split('/')[-1]})", m, m["answered"], None) for name, m in llms.items()]
    rows += [
        (f"Fusion, LLM on {SHARE:.0%}", partly["fusion"], partly["llm_share"], partly["seconds"]),
        ("Fusion", always["fusion"], always["llm_share"], always["seconds"]),
    ]
    width = max(len(name) for name, *_ in rows)
    error = (always["fusion"]["accuracy"] * (1 - always["fusion"]["accuracy"]) / always["rows"]) ** 0.5
    lines = [f"{'':{width}}  accuracy  calibration error  LLM share  seconds"]
    for name, metrics, share, seconds in rows:
        spent = "        " if seconds is None else f"{seconds:8.1f}"
        lines.append(f"{name:{width}}  {metrics['accuracy']:8.1%}  {metrics['ece']:17.3f}  {share:9.0%} {spent}")
    lines.append(f"\n{always['rows']} held-out texts; one standard error of an accuracy is about {error:.1%}.")
    return "\n".join(lines)


def hard_texts(clf: Any, test: "pd.DataFrame") -> list[str]:
    """A few held-out texts on which the encoder alone is least confident."""
    import numpy as np

    probabilities = clf.predict_proba(test["text"].tolist(), llm_policy="never")
    margin = np.sort(probabilities, axis=1)
    order = np.argsort(margin[:, -1] - margin[:, -2], kind="stable")
    return [test["text"].iloc[i] for i in order[:SHOWN]]


def show(text: str, answer: dict[str, Any]) -> None:
    """Print one answer with its sources."""
    short = text if len(text) <= 140 else text[:137] + "..."
    print(f"  {short!r}")
    for name, scores in answer["sources"].items():
        if scores is None:
            print(f"    {name.split('/')[-1]:<26} no answer")
            continue
        best = sorted(scores.items(), key=lambda item: -item[1])[:2]
        print(f"    {name.split('/')[-1]:<26} " + ", ".join(f"{label} {p:.2f}" for label, p in best))
    if "label" in answer:
        print(f"    {'fusion':<26} {answer['label']} {answer['score']:.2f}")
    else:
        print(f"    {'fusion':<26} {answer}")
    sys.stdout.write("\n")


def _chosen(report: dict[str, Any]) -> str:
    fusion = report.get("fusion")
    if not fusion or "log_loss" not in fusion:
        return "No LLM scores to fuse."
    losses = fusion["log_loss"]
    return (
        f"Cross-validated log loss: encoder {losses['encoder']:.3f}, LLM {losses['llm 0']:.3f}, "
        f"fusion {min(losses['fusion'], losses.get('fusion with mlp', 9e9)):.3f} ({fusion['chosen']})."
    )
