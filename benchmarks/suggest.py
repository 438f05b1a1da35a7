"""Learning curves of `suggest` against random choice: accuracy after each batch of labels.

    python benchmarks/suggest.py --data ../shared/data [--part ag_news ...] [--encoder FOLDER] [--seeds 4] [--write]

For each data set and seed: a pool of 2,000 texts without labels, and up to 2,000 other rows for testing. Starting from
50 labelled rows, 25 more are labelled and the model is fitted again, up to 300. The encoder is frozen, so that each
text is encoded once. `--learner probe` fits a logistic regression instead of the classifier. The method was chosen on
`CHOICE`, other data sets than those of the report.

Finished curves are kept in the cache folder: the same command goes on where it was stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accuracy_data import EMOTIONS, Embedder
from labelfusion.modeling_labelfusion.encoding import TextEncoder, encode_texts
from labelfusion.routing.label_choice import directions, doubt, informative, typical
from scipy.optimize import isotonic_regression
from sklearn.linear_model import LogisticRegression

from labelfusion import AutoFusionClassifier

DOCS = Path(__file__).resolve().parent.parent / "docs"
START, END = "<!-- made by benchmarks/suggest.py -->\n", "<!-- end -->\n"
PARTS = ("ag_news", "trec6", "tweet_emotion")
CHOICE = ("emotions", "climate_stance", "movie_reviews")
METHODS = ("random", "suggest")
STEPS = tuple(range(50, 301, 25))
ROWS, POOL, FROM = 4000, 2000, 100  # rows of a data set, texts of the pool, labels from which savings are counted
DRAWS = 2000


def load(folder: Path, part: str) -> tuple[list[str], list[str]]:
    """Texts and class names of up to 4,000 rows with exactly one class; the same rows each time."""
    source = folder / ("goemotions" if part == "emotions" else part)
    about = json.loads((source / "metadata.json").read_text())
    names: list[str] = about["label_names"]
    table = pd.concat([pd.read_parquet(file) for file in sorted(source.glob("*.parquet"))], ignore_index=True)
    if about["multi_label"]:
        member = np.stack(table.labels.tolist())
        groups = [[names.index(c) for c in group] for group in EMOTIONS.values()] if part == "emotions" else []
        names = list(EMOTIONS) if groups else names
        member = np.stack([member[:, group].any(axis=1) for group in groups], axis=1) if groups else member
        table = table[member.sum(axis=1) == 1].assign(label=member[member.sum(axis=1) == 1].argmax(axis=1))
    table = table.drop_duplicates("text").reset_index(drop=True)
    table = table.sample(min(ROWS, len(table)), random_state=0)
    return table.text.tolist(), [names[k] for k in table.label]


def embed(texts: list[str], encoder: str, path: Path) -> None:
    """Encode all texts, unless `path` holds their embeddings."""
    if not path.exists():
        made = Embedder(encoder, path.parent, "cpu")
        np.save(path, encode_texts(made.model(["a", "b"], 0, False), made.tokenizer, texts, max_length=128).numpy())


def remember(texts: list[str], path: Path) -> None:
    """Let every `TextEncoder` of this process look up what `embed` has kept."""
    known, place = torch.from_numpy(np.load(path)), {text: i for i, text in enumerate(texts)}

    def look_up(self: TextEncoder, wanted: Any) -> torch.Tensor:
        rows = known[[place[text] for text in wanted], : self.model.config.pooled_size]
        return self.complete(list(wanted), rows)

    TextEncoder.__call__ = look_up  # type: ignore[method-assign, assignment]


class Classifier:
    """What a user runs: `AutoFusionClassifier`, with a frozen encoder.

    Args:
        pool: Texts without labels.
        test: Texts for testing.
        encoder: The encoder.
        seed: Seed.
    """

    def __init__(self, pool: list[str], test: list[str], encoder: str, seed: int) -> None:
        self.pool, self.test, self.encoder = pool, test, encoder
        self.options: dict[str, Any] = {"llm": None, "encoder_training": "probe", "seed": seed, "max_length": 128}

    def first(self, n: int) -> list[int]:
        """Rows of the pool to label first."""
        return AutoFusionClassifier(self.encoder, **self.options).suggest(self.pool, n).indices.tolist()

    def fit(self, chosen: list[int], labels: list[str]) -> Any:
        """Fit on the labelled rows; returns the predictions for the test texts."""
        self.fitted = AutoFusionClassifier(self.encoder, **self.options).fit([self.pool[i] for i in chosen], labels)
        return self.fitted.predict(self.test)

    def more(self, chosen: list[int], n: int) -> list[int]:
        """Rows to label next."""
        return self.fitted.suggest(self.pool, n, labelled=[self.pool[i] for i in chosen]).indices.tolist()


class Probe:
    """The same choice with logistic regression of scikit-learn on the same embeddings, which takes seconds.

    Args:
        pool: float `(N, d)`: embeddings of the texts without labels.
        test: float `(M, d)`: embeddings of the texts for testing.
        seed: Seed.
    """

    def __init__(self, pool: np.ndarray, test: np.ndarray, seed: int) -> None:
        scale = 4 / (pool.std() * pool.shape[1] ** 0.5)
        self.pool, self.test, self.seed, self.points = pool * scale, test * scale, seed, directions(pool)

    def first(self, n: int) -> list[int]:
        """Rows of the pool to label first."""
        return typical(self.points, n, seed=self.seed)[0].tolist()

    def fit(self, chosen: list[int], labels: list[str]) -> Any:
        """Fit on the labelled rows; returns the predictions for the test texts."""
        self.fitted = LogisticRegression(C=10.0, tol=1e-3).fit(self.pool[chosen], labels)
        return self.fitted.predict(self.test)

    def more(self, chosen: list[int], n: int) -> list[int]:
        """Rows to label next."""
        left = np.setdiff1d(np.arange(len(self.pool)), chosen)
        probs = self.fitted.predict_proba(self.pool[left])
        doubts = doubt(probs, probs[:, None], None, False)
        return left[informative(self.points[left], doubts, n, self.points[chosen])].tolist()


def curve(
    texts: list[str], labels: list[str], path: Path, encoder: str, learner: str, method: str, seed: int
) -> list[float]:
    """Accuracy on the test rows after each number of labels in `STEPS`."""
    order = np.random.default_rng(seed).permutation(len(texts))
    pool, test = order[: min(POOL, len(order) * 3 // 5)], order[min(POOL, len(order) * 3 // 5) :]
    truth = np.array(labels, dtype=object)
    made: Classifier | Probe
    if learner == "probe":
        known = np.load(path)
        known = known[:, : known.shape[1] // 3]  # the last of three layers
        made = Probe(known[pool], known[test], seed)
    else:
        made = Classifier([texts[i] for i in pool], [texts[i] for i in test], encoder, seed)
    chosen = list(range(STEPS[0])) if method == "random" else made.first(STEPS[0])
    accuracies = []
    for count, following in zip(STEPS, [*STEPS[1:], STEPS[-1]], strict=True):
        answers = made.fit(chosen, [labels[pool[i]] for i in chosen])
        accuracies.append(float(np.mean(answers == truth[test])))
        if following > count:
            random = list(range(count, following))
            chosen = [*chosen, *(random if method == "random" else made.more(chosen, following - count))]
    return accuracies


def labels_needed(accuracies: np.ndarray, target: float) -> float:
    """Labels at which a curve, smoothed so that it never falls, reaches `target`; beyond its end, one batch more."""
    smooth = isotonic_regression(accuracies).x
    if target > smooth[-1] + 1e-9:
        return float(2 * STEPS[-1] - STEPS[-2])
    steps = smooth + 1e-12 * np.arange(len(smooth))  # strictly rising, for the middle of a plateau
    return float(np.mean([np.interp(target + shift, steps, STEPS) for shift in (-1e-9, 1e-9)]))


def saving(curves: np.ndarray, random: np.ndarray) -> float:
    """Share of the labels saved: the mean curves of `(seeds, steps)` compared at the accuracies that random reaches."""
    ours, theirs = curves.mean(axis=0), random.mean(axis=0)
    smooth = isotonic_regression(theirs).x
    targets = [accuracy for count, accuracy in zip(STEPS, smooth, strict=True) if count >= FROM]
    return 1 - sum(labels_needed(ours, t) for t in targets) / sum(labels_needed(theirs, t) for t in targets)


def summary(found: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """A row for each data set, and their mean, with intervals of 95 % from a bootstrap over the seeds."""
    rng, rows, drawn = np.random.default_rng(0), [], []
    for part, curves in found.items():
        ours, random = curves["suggest"], curves["random"]
        picks = [(rng.integers(len(ours), size=len(ours)), rng.integers(len(random), size=len(random)))
                 for _ in range(DRAWS)]  # fmt: skip
        some = np.array([saving(ours[a], random[b]) for a, b in picks])
        gain = 100 * (ours - random).mean(axis=1)
        row: dict[str, Any] = {"data set": part, "seeds": len(ours)}
        for count in (100, 200, 300):
            at = STEPS.index(count)
            row[f"{count} labels"] = f"{100 * random[:, at].mean():.1f} → {100 * ours[:, at].mean():.1f} %"
        row["points, mean of the curve"] = f"{gain.mean():+.1f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.1f}"
        row["seeds behind"] = f"{int((gain < 0).sum())} of {len(gain)}"
        rows.append(row | {"labels saved": _interval(saving(ours, random), some)})
        drawn.append(some)
    mean = float(np.mean([saving(curves["suggest"], curves["random"]) for curves in found.values()]))
    empty = dict.fromkeys(rows[0], "")
    return [*rows, {**empty, "data set": "mean", "labels saved": _interval(mean, np.mean(drawn, axis=0))}]


def _interval(value: float, some: np.ndarray) -> str:
    low, high = np.quantile(some, [0.025, 0.975])
    return f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def plot(found: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Curves of both methods with one standard error, a panel for each data set."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3.2), constrained_layout=True, squeeze=False)
    for ax, (part, curves) in zip(axes[0], found.items(), strict=True):
        for method, style in (("random", "o--"), ("suggest", "s-")):
            values = 100 * curves[method]
            mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5
            ax.plot(STEPS, mean, style, markersize=4, label=method)
            ax.fill_between(STEPS, mean - error, mean + error, alpha=0.2)
        ax.set(title=part, xlabel="labelled texts")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("accuracy, %")
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=[*PARTS, *CHOICE], help="data sets")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--learner", default="classifier", choices=["classifier", "probe"], help="what is fitted")
    parser.add_argument("--seeds", type=int, default=4, help="splits of each data set")
    parser.add_argument("--cache", type=Path, default=Path(".cache/suggest"), help="embeddings and finished curves")
    parser.add_argument("--write", action="store_true", help="write table and plot into docs/")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    kept = given.cache / "curves.json"
    known: dict[str, list[float]] = json.loads(kept.read_text()) if kept.exists() else {}
    data = {part: load(given.data, part) for part in given.part}
    files = {part: given.cache / f"{part}-{given.encoder.replace('/', '-')}.npy" for part in data}
    for part, (texts, _) in data.items():
        embed(texts, given.encoder, files[part])
    for seed in range(given.seeds):
        for part, (texts, labels) in data.items():
            if given.learner == "classifier":
                remember(texts, files[part])
            for method in METHODS:
                key = f"{given.encoder} {given.learner} {part} {method} {seed}"
                if key not in known:
                    settings = (given.encoder, given.learner, method, seed)
                    known[key] = curve(texts, labels, files[part], *settings)
                    kept.write_text(json.dumps(known, indent=1))
                print(key, " ".join(f"{100 * value:.1f}" for value in known[key]), flush=True)
    found = {
        part: {
            method: np.array(
                [known[f"{given.encoder} {given.learner} {part} {method} {seed}"] for seed in range(given.seeds)]
            )
            for method in METHODS
        }
        for part in given.part
    }
    rows = summary(found)
    lines = ["| " + " | ".join(rows[0]) + " |", "| --- " + "| ---: " * (len(rows[0]) - 1) + "|"]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    print("\n".join(lines))
    if given.write:
        plot(found, DOCS / "suggest.png")
        before, rest = (DOCS / "suggest.md").read_text().split(START)
        (DOCS / "suggest.md").write_text(before + START + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
