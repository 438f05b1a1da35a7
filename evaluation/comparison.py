"""Fusion, encoder and LLMs on the same labelled rows: metrics with intervals, paired differences, calibration."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import DecisionRule
from ..routing.decisions import decided_classes
from .metrics import expected_calibration_error
from .statistics import (
    NUM_RESAMPLES,
    bootstrap_means,
    holm,
    mcnemar,
    paired_bootstrap_p,
    percentile_interval,
    wilson_interval,
)

METRICS = ("accuracy", "macro_f1", "micro_f1", "log_loss", "brier")


@dataclass
class Source:
    """The predictions of one source for n rows.

    Args:
        name: Name in tables.
        probabilities: float `(n, K)`; a row with any NaN has no answer.
        decided: bool `(n, K)`: the predicted classes; all False for a row without an answer.
    """

    name: str
    probabilities: NDArray[np.floating]
    decided: NDArray[np.bool_]

    @property
    def answered(self) -> NDArray[np.bool_]:
        """bool `(n,)`: rows that have an answer."""
        return np.asarray(~np.isnan(self.probabilities).any(axis=1))

    @classmethod
    def make(
        cls,
        name: str,
        probabilities: NDArray[np.floating],
        multi_label: bool,
        rule: DecisionRule | None = None,
    ) -> "Source":
        """Decide by the largest probability or, for multi-label, by a rule (a threshold of 0.5 by default)."""
        decided = np.zeros(probabilities.shape, dtype=bool)
        rows = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
        if len(rows):
            decided[rows] = decided_classes(probabilities[rows], multi_label, rule)
        return cls(name, probabilities, decided)

    def right(self, truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool `(n,)`: rows whose classes are all correct. A row without an answer counts as wrong."""
        return np.asarray((self.decided == truth).all(axis=1) & self.answered)


def truth_matrix(labels: NDArray[Any], num_labels: int) -> NDArray[np.bool_]:
    """bool `(n, K)` from int `(n,)` classes or 0/1 `(n, K)`."""
    return labels.astype(bool) if labels.ndim == 2 else np.eye(num_labels, dtype=bool)[labels]


def compare_sources(
    sources: list[Source],
    truth: NDArray[np.bool_],
    multi_label: bool,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute metrics for every source, and compare the first source with each of the others.

    Args:
        sources: The sources to compare; the first must be the fusion.
        truth: bool `(n, K)`.
        multi_label: Whether a row may have several classes.
        num_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        `sources`, by name: `answered` (share of the rows), each of `METRICS` as `{"value", "low", "high"}` (95 %),
        `accuracy_answered` in the same form, and `ece`. Accuracy (multi-label: exact match) and F1 are over all rows,
        and a row without an answer counts as wrong; log loss, Brier score and ECE are over the answered rows. F1 is
        averaged over the classes that occur in truth or predictions.

        `comparisons`, a list: `source`, `rows` (only rows that the source answered are compared), `accuracy` and
        `macro_f1` (first minus this source, with `low`, `high` and `p`: exact McNemar, paired bootstrap), `only_first`
        and `only_source` (rows that only one of the two predicts correctly), `p_holm` (McNemar's p, adjusted for all
        comparisons).
    """
    terms = [_terms(source, truth, multi_label) for source in sources]
    sampled = _metrics(bootstrap_means(_columns(terms, truth), num_resamples, seed), len(sources))
    exact = _metrics(_columns(terms, truth).mean(axis=0, keepdims=True), len(sources))
    measured = {}
    for i, source in enumerate(sources):
        entry: dict[str, Any] = {"answered": float(source.answered.mean())}
        for name in (*METRICS, "accuracy_answered"):
            low, high = percentile_interval(sampled[name][:, i])
            entry[name] = {"value": _number(exact[name][0, i]), "low": _number(low), "high": _number(high)}
        right = int(source.right(truth).sum())
        for name, n in (("accuracy", len(truth)), ("accuracy_answered", int(source.answered.sum()))):
            if n and right in (0, n):  # the bootstrap interval would have zero width
                entry[name]["low"], entry[name]["high"] = wilson_interval(right, n)
        entry["ece"] = _ece(source, truth, multi_label)
        measured[source.name] = entry
    comparisons = []
    for source in sources[1:]:
        rows = source.answered
        if rows.any():
            pair = [_terms(s, truth, multi_label)[rows] for s in (sources[0], source)]
            comparisons.append(_compare(sources[0], source, pair, truth[rows], rows, num_resamples, seed))
    for entry, p in zip(comparisons, holm([c["accuracy"]["p"] for c in comparisons]), strict=True):
        entry["p_holm"] = p
    return {"sources": measured, "comparisons": comparisons}


def per_class(sources: list[Source], truth: NDArray[np.bool_], classes: list[Any]) -> list[dict[str, Any]]:
    """Per-class metrics of every source, over all rows.

    Each entry has the class's `support` and, under `sources` by name, the numbers of rows `found` and `predicted`,
    `precision`, `recall` and `f1`. An undefined value is `None`: precision without a prediction, recall without
    support.
    """
    out = []
    for k, name in enumerate(classes):
        entry: dict[str, Any] = {"class": str(name), "support": int(truth[:, k].sum()), "sources": {}}
        for source in sources:
            hits = int((source.decided[:, k] & truth[:, k]).sum())
            said, there = int(source.decided[:, k].sum()), entry["support"]
            entry["sources"][source.name] = {
                "found": hits,
                "predicted": said,
                "precision": hits / said if said else None,
                "recall": hits / there if there else None,
                "f1": 2 * hits / (said + there) if said + there else None,
            }
        out.append(entry)
    return out


def confusion(source: Source, truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Single-label confusion matrix, int64 `(K, K)`: true class by predicted class. Unanswered rows are not counted."""
    return truth.astype(np.int64).T @ source.decided.astype(np.int64)


def reliability(
    source: Source, truth: NDArray[np.bool_], multi_label: bool, num_bins: int = 10
) -> list[dict[str, float]]:
    """Mean `confidence` and `accuracy` of bins with about equal numbers of `rows` (multi-label: row-class pairs)."""
    confidence, correct = _confidence(source, truth, multi_label)
    order = np.argsort(confidence, kind="stable")
    bins = [b for b in np.array_split(order, min(num_bins, max(1, len(order) // 10))) if len(b)]
    return [
        {"confidence": float(confidence[b].mean()), "accuracy": float(correct[b].mean()), "rows": len(b)} for b in bins
    ]


def _terms(source: Source, truth: NDArray[np.bool_], multi_label: bool) -> NDArray[np.float64]:
    """float64 `(n, 4 + 2K)` whose column means give every metric: answered, right, loss, brier, hits, predictions."""
    answered = source.answered
    p = np.where(answered[:, None], source.probabilities, 0.5).astype(np.float64)
    floored = p.clip(1e-12, 1 - 1e-12)
    losses = -np.where(truth, np.log(floored), np.log1p(-floored) if multi_label else 0.0).sum(axis=1)
    squares = ((p - truth) ** 2).sum(axis=1)
    first = [answered, source.right(truth), losses * answered, squares * answered]
    return np.column_stack([*first, source.decided & truth, source.decided])


def _columns(terms: list[NDArray[np.float64]], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.column_stack([truth, *terms])


def _metrics(means: NDArray[np.float64], num_sources: int) -> dict[str, NDArray[np.float64]]:
    """Metrics `(B, sources)` from means `(B, columns)`; NaN where undefined."""
    # columns = K + sources * (4 + 2K)
    num_labels = (means.shape[1] - 4 * num_sources) // (1 + 2 * num_sources)
    there = means[:, None, :num_labels]
    blocks = means[:, num_labels:].reshape(len(means), num_sources, 4 + 2 * num_labels)
    answered, right, loss, brier = (blocks[:, :, i] for i in range(4))
    hits, said = blocks[:, :, 4 : 4 + num_labels], blocks[:, :, 4 + num_labels :]
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / (said + there)
        known = ~np.isnan(f1)
        return {
            "accuracy": right,
            "accuracy_answered": right / answered,
            "log_loss": loss / answered,
            "brier": brier / answered,
            "micro_f1": 2 * hits.sum(axis=2) / (said + there).sum(axis=2),
            "macro_f1": np.where(known, f1, 0.0).sum(axis=2) / known.sum(axis=2),
        }


def _compare(
    first: Source,
    source: Source,
    terms: list[NDArray[np.float64]],
    truth: NDArray[np.bool_],
    rows: NDArray[np.bool_],
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    sampled = _metrics(bootstrap_means(_columns(terms, truth), num_resamples, seed), 2)
    exact = _metrics(_columns(terms, truth).mean(axis=0, keepdims=True), 2)
    right = [Source(s.name, s.probabilities[rows], s.decided[rows]).right(truth) for s in (first, source)]
    only_first, only_source, p = mcnemar(*right)
    out: dict[str, Any] = {"source": source.name, "rows": len(truth)}
    for name in ("accuracy", "macro_f1"):
        samples = sampled[name][:, 0] - sampled[name][:, 1]
        low, high = percentile_interval(samples)
        value = float(exact[name][0, 0] - exact[name][0, 1])
        out[name] = {"value": value, "low": low, "high": high}
        out[name]["p"] = p if name == "accuracy" else paired_bootstrap_p(samples)
    return out | {"only_first": only_first, "only_source": only_source}


def _confidence(
    source: Source, truth: NDArray[np.bool_], multi_label: bool
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    p, t = source.probabilities[source.answered], truth[source.answered]
    if multi_label:
        return p.ravel(), t.ravel()
    return p.max(axis=1, initial=0.0), source.right(truth)[source.answered]


def _ece(source: Source, truth: NDArray[np.bool_], multi_label: bool) -> float | None:
    confidence, correct = _confidence(source, truth, multi_label)
    return expected_calibration_error(confidence, correct) if len(confidence) else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
