"""Starting without labels: what the encoder learns from an LLM's labels, with 0, 20 and 100 gold rows.

    python benchmarks/unlabelled.py --data ../shared/data [--part ag_news] [--encoder FOLDER] [--seeds 2] [--write]

On every data set with recorded LLM answers: up to 800 rows with answers, 30 % of them are for testing. The others are
texts without labels, but for the gold rows. Compared on the test rows: the LLM alone (several: the mean of their
log-probabilities), a fit on the gold rows alone with their LLM answers, and the fit on gold rows and texts: encoder
alone, which asks no LLM, and fusion.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from labelfusion.training.unlabelled import pseudo_labels

from labelfusion import AutoFusionClassifier

PAGE = Path(__file__).resolve().parent.parent / "docs" / "unlabelled.md"
START, END = "<!-- made by benchmarks/unlabelled.py -->\n", "<!-- end -->\n"
PARTS = ("ag_news", "climate_stance", "movie_reviews", "reuters10", "semeval_stance")
GOLD = (0, 20, 100)
ROWS = 800


def load(folder: Path) -> tuple[pd.DataFrame, list[str], bool]:
    """Rows with recorded answers of all LLMs, labels by name; class names; whether a text may have several."""
    about = json.loads((folder / "metadata.json").read_text())
    names, multi_label = about["label_names"], about["multi_label"]
    tables = [pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))]
    table = pd.concat([t for t in tables if "llm_scores" in t], ignore_index=True)
    answered = [row is not None and all(s is not None and s[0] is not None for s in row) for row in table.llm_scores]
    table = table[answered]
    table["llm_scores"] = table.llm_scores.map(lambda row: [list(map(float, scores)) for scores in row])
    column = "labels" if multi_label else "label"
    table[column] = [
        [name for name, yes in zip(names, row, strict=True) if yes] if multi_label else names[row]
        for row in table[column]
    ]
    return table.rename(columns={column: "label"}), names, multi_label


def measure(folder: Path, encoder: str, seed: int) -> list[dict[str, Any]]:
    """Accuracies (several labels: exact match) for each number of gold rows."""
    table, names, multi_label = load(folder)
    table = table.sample(min(ROWS, len(table)), random_state=seed)
    count = round(0.7 * len(table))
    train, test = table[:count], table[count:]
    truth, texts, scores = test.label.tolist(), test.text.tolist(), np.array(test.llm_scores.tolist())
    options: dict[str, Any] = {
        "multi_label": multi_label,
        "encoder_training": "probe",
        "label_column": "label",
        "seed": seed,
    }
    labels, _ = pseudo_labels(scores, multi_label)
    llm = [[n for n, yes in zip(names, row, strict=True) if yes] if multi_label else names[row] for row in labels]

    def share_right(found: Any) -> float:
        right = [set(a) == set(b) if multi_label else a == b for a, b in zip(found, truth, strict=True)]
        return 100 * float(np.mean(right))

    rows = []
    for gold in GOLD:
        row = {"data set": folder.name, "gold rows": gold, "texts": count, "LLM alone": share_right(llm)}
        row["fit on gold alone"] = float("nan")
        if gold:
            alone = AutoFusionClassifier(encoder, "recorded", names, **options).fit(train[:gold])
            row["fit on gold alone"] = share_right(alone.predict(texts, llm_scores=scores))
        clf = AutoFusionClassifier(encoder, "recorded", names, **options)
        rest = train[gold:].drop(columns="label")
        clf.fit(train[:gold] if gold else None, unlabelled=rest)
        row["encoder alone"] = share_right(clf.predict(texts, llm_policy="never"))
        row["fusion"] = share_right(clf.predict(texts, llm_scores=scores))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=list(PARTS), help="data sets")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--seeds", type=int, default=2, help="splits of each data set")
    parser.add_argument("--write", action="store_true", help="write the table into docs/unlabelled.md")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for part in given.part:
        for seed in range(given.seeds):
            rows += measure(given.data / part, given.encoder, seed)
            print(pd.DataFrame(rows[-len(GOLD) :]).to_string(index=False, float_format="{:.1f}".format), flush=True)
    table = pd.DataFrame(rows).groupby(["data set", "gold rows"], sort=False).mean().reset_index()
    if given.write:
        lines = [
            "| " + " | ".join(map(str, table.columns)) + " |",
            "| --- " + "| ---: " * (len(table.columns) - 1) + "|",
        ]
        for row in table.to_dict("records"):
            cells = [
                str(v) if k == "data set" else f"{v:.0f}" if k in ("gold rows", "texts") else f"{v:.1f}"
                for k, v in row.items()
            ]
            lines.append("| " + " | ".join(cells).replace("nan", "") + " |")
        before, rest = PAGE.read_text().split(START)
        PAGE.write_text(before + START + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
