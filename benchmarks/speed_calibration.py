"""What `speed` changes in accuracy and calibration, on more texts than `inference.py` times.

    python benchmarks/speed_calibration.py [--data ../shared/data] [--texts 4000] [--seeds 1]

No LLM is asked. The models are those of `inference.py`: 2,000 rows of AG News and so on, drawn by the seed. An expected
calibration error is uncertain: its change is resampled with the texts. The table goes into `docs/speed.md`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy_data import metadata
from inference import BATCH_SIZE, PARTS, SPEEDS
from labelfusion.evaluation.metrics import expected_calibration_error, is_right
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from labelfusion import AutoFusionClassifier

PAGE = Path(__file__).parent.parent / "docs/speed.md"
START, END = "<!-- Calibration: benchmarks/speed_calibration.py -->\n", "<!-- end of Calibration -->\n"
RESAMPLES = 1000


def told(p: NDArray[np.float64], right: NDArray[np.float64], labels: NDArray[np.generic]) -> tuple[NDArray, NDArray]:
    """Confidences `(n, m)` and whether each was right `(n, m)`: of the best class, or multi-label of every class."""
    if labels.ndim == 2:
        return p, labels.astype(bool)
    return p.max(axis=1)[:, None], right.astype(bool)[:, None]


def compare(
    probabilities: dict[str, NDArray[np.float64]],
    right: dict[str, NDArray[np.float64]],
    labels: NDArray[np.generic],
) -> list[str]:
    """Cells of a row: accuracy and ECE of the whole model, then the changes of each speed."""
    pairs = {name: told(p, right[name], labels) for name, p in probabilities.items()}

    def measures(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        found = [
            (100 * right[name][rows].mean(), expected_calibration_error(c[rows].ravel(), hit[rows].ravel()))
            for name, (c, hit) in pairs.items()
        ]
        return np.array([found[0], *(np.subtract(other, found[0]) for other in found[1:])]).ravel()

    n, rng = len(labels), np.random.default_rng(0)
    values = measures(np.arange(n))
    low, high = np.quantile([measures(rng.integers(0, n, n)) for _ in range(RESAMPLES)], [0.025, 0.975], axis=0)
    cells = [f"{values[0]:.1f}", f"{values[1]:.4f}"]
    for i in range(2, len(values)):
        digits = 4 if i % 2 else 2
        cells.append(f"{values[i]:+.{digits}f} ({low[i]:+.{digits}f} to {high[i]:+.{digits}f})")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--rows", type=int, default=2000, help="rows to fit on")
    parser.add_argument("--texts", type=int, default=4000, help="texts to classify, at most")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    lines = []
    for name in args.parts:
        meta = metadata(args.data, name)
        table = pd.read_parquet(args.data / name / "train.parquet").drop(columns="llm_scores", errors="ignore")
        for seed in range(args.seeds):
            drawn = table.drop_duplicates("text").sample(frac=1.0, random_state=seed)
            clf = AutoFusionClassifier(
                args.encoder, None, meta["label_names"], meta["multi_label"],
                encoder_training="probe", max_length=PARTS[name], batch_size=BATCH_SIZE, seed=seed, progress=False,
            ).fit(drawn[: args.rows])  # fmt: skip
            data = clf._prepare_measured(drawn[args.rows :][: args.texts])
            assert data.labels is not None
            found = {s: clf.predict_proba(list(data.texts), speed=s).astype(np.float64) for s in SPEEDS}
            rule = clf.model_.config.decision_rule
            right = {s: is_right(p, data.labels, rule).astype(float) for s, p in found.items()}
            shares = [f"{100 * clf.report_['quick_share'][s]:.0f} %" for s in SPEEDS[1:]]
            cells = [name, *[str(seed)] * (args.seeds > 1), f"{len(data.labels):,}"]
            cells += [*compare(found, right, np.asarray(data.labels)), ", ".join(shares)]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    columns = ["data set", *["seed"] * (args.seeds > 1), "texts", "accuracy, %", "ECE"]
    columns += [f"{speed}: {what}" for speed in SPEEDS[1:] for what in ("accuracy", "ECE")] + ["without the encoder"]
    command = "python benchmarks/speed_calibration.py --parts " + " ".join(args.parts)
    command += f" --texts {args.texts} --seeds {args.seeds}"
    text = [
        START + "## Calibration on more texts",
        "",
        f"`{command}`:",
        "the models of the table above on more texts that they have not seen. Changes are paired, accuracy in points;",
        f"in brackets, intervals of 95 % from {RESAMPLES:,} resamples of the texts.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " --: |" * (len(columns) - 1),
        *lines,
    ]
    page = PAGE.read_text(encoding="utf-8")
    if START in page:
        page = page[: page.index(START)] + page[page.index(END) + len(END) :]
    PAGE.write_text(page.rstrip() + "\n\n" + "\n".join(text) + "\n" + END, encoding="utf-8")


if __name__ == "__main__":
    main()
