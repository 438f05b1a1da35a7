"""Class shares of a collection: how often their intervals hold, and what predictions save in labels.

    python benchmarks/shares.py --data ../shared/data [--part ag_news trec6] [--encoder FOLDER] [--write]

For each data set: a classifier is fitted on one split (with its recorded LLM answers, if any), and predicts up to 2,000
rows of another split. From these, gold rows are drawn 1,000 times; `estimate_shares` sees their labels and the
predictions for the others. Counted are the intervals, of all classes, that hold the share of the class in all rows.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from labelfusion.evaluation.class_shares import estimate_class_shares

from labelfusion import AutoFusionClassifier

PAGE = Path(__file__).resolve().parent.parent / "docs" / "shares.md"
START, END = "<!-- made by benchmarks/shares.py -->\n", "<!-- end -->\n"
SPLITS = {  # to fit on, to estimate
    "ag_news": ("validation", "train"),
    "climate_stance": ("validation", "train"),
    "movie_reviews": ("test", "train"),
    "reuters10": ("validation", "train"),
    "trec6": ("test", "train"),
    "tweet_emotion": ("validation", "train"),
}
GOLD = (20, 50, 200)
DRAWS, ROWS, SEED = 1000, 2000, 0


def measure(folder: Path, encoder: str) -> list[dict[str, Any]]:
    """The rows of the table for a data set."""
    about = json.loads((folder / "metadata.json").read_text())
    names, multi_label = about["label_names"], about["multi_label"]
    fitted, collection = (pd.read_parquet(folder / f"{split}.parquet") for split in SPLITS[folder.name])
    collection = collection.sample(min(ROWS, len(collection)), random_state=SEED)
    column = "labels" if multi_label else "label"
    for table in (fitted, collection):
        table[column] = [
            [name for name, yes in zip(names, row, strict=True) if yes] if multi_label else names[row]
            for row in table[column]
        ]
    recorded = "llm_scores" in fitted and "llm_scores" in collection
    fitted, collection = (
        table if recorded else table.drop(columns="llm_scores", errors="ignore") for table in (fitted, collection)
    )
    clf = AutoFusionClassifier(
        encoder, "recorded" if recorded else None, names, multi_label, encoder_training="probe", seed=SEED
    )
    clf.fit(fitted.sample(min(500, len(fitted)), random_state=SEED))
    probs = clf.predict_proba(collection.drop(columns=column))
    labels = [row if multi_label else [row] for row in collection[column]]
    gold = np.array([[name in row for name in names] for row in labels], dtype=float)
    truth, rng, rows = gold.mean(axis=0), np.random.default_rng(SEED), []
    for n in GOLD:
        found: list[dict[str, float]] = []
        for _ in range(DRAWS):
            drawn = rng.permutation(len(gold))
            g, others = drawn[:n], drawn[n:]
            one = estimate_class_shares(gold[g], probs[g], probs[others], multi_label)
            error, alone = (float(np.abs(x - truth).mean()) for x in (one.share, gold[g].mean(0)))
            held, width = np.mean((one.low <= truth) & (truth <= one.high)), np.mean(one.high - one.low)
            found.append({"held": float(held), "width": float(width), "error": error, "alone": alone})
        mean = pd.DataFrame(found).mean()
        counted = np.abs(probs.mean(0) - truth).mean()
        rows.append(
            {
                **{"data set": folder.name, "classes": len(names), "gold rows": n, "intervals that hold": mean["held"]},
                **{"mean width": mean["width"], "mean error": mean["error"], "gold labels alone": mean["alone"]},
                "predictions alone": counted,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="*", default=list(SPLITS), choices=list(SPLITS), help="data sets")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--write", action="store_true", help="write the table into docs/shares.md")
    given = parser.parse_args()
    rows = []
    for part in given.part:
        rows += measure(given.data / part, given.encoder)
        print(pd.DataFrame(rows[-len(GOLD) :]).to_string(index=False, float_format="{:.3f}".format), flush=True)
    if given.write:
        lines = ["| " + " | ".join(rows[0]) + " |", "| --- " * 2 + "| ---: " * (len(rows[0]) - 2) + "|"]
        for row in rows:
            cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
            lines.append("| " + " | ".join(cells) + " |")
        before, rest = PAGE.read_text().split(START)
        PAGE.write_text(before + START + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
