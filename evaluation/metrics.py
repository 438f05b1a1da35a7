"""Metrics of probabilities against labels, and `compute_metrics` for the Trainer."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import DecisionRule
from ..routing.decisions import decide, widen
from ..scoring.probabilities import to_probabilities

METRIC_TITLES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "ece": "Expected calibration error",
}


def classification_metrics(
    probabilities: NDArray[np.floating],
    labels: NDArray[Any],
    multi_label: bool,
    thresholds: list[float] | None = None,
    min_labels: int = 0,
    sample_weight: NDArray[np.floating] | None = None,
) -> dict[str, float]:
    """Metrics of one source.

    Args:
        probabilities: float `(n, K)`.
        labels: int `(n,)`, or 0/1 `(n, K)` for multi-label. Classes with index K or more are unknown to the source:
            their probability is 0.
        multi_label: Whether the classes are independent.
        thresholds: Multi-label: K thresholds, 0.5 by default.
        min_labels: Multi-label: minimum number of classes predicted for a text.
        sample_weight: float `(n,)`: weights of the rows; `None`: all are 1.

    Returns:
        `accuracy` (multi-label: exact match), `macro_f1`, `micro_f1`, `log_loss` (nats; multi-label: summed over the
        classes), `brier` (sum of squared differences) and `ece` (expected calibration error in 15 equal-mass bins).
    """
    from sklearn.metrics import accuracy_score, f1_score

    p = np.asarray(probabilities, dtype=np.float64)
    known = p
    p = widen(p, labels.shape[1] if labels.ndim == 2 else int(labels.max(initial=0)) + 1)
    if multi_label:
        truth = labels.astype(int)
        predicted = widen(decide(known, DecisionRule(thresholds, min_labels)), p.shape[1]).astype(int)
        clipped = p.clip(1e-12, 1 - 1e-12)
        losses = -(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped)).sum(axis=1)
        weights = None if sample_weight is None else np.repeat(sample_weight, p.shape[1])
        ece = expected_calibration_error(p.ravel(), truth.ravel().astype(bool), sample_weight=weights)
    else:
        predicted, truth = p.argmax(axis=1), labels
        losses = -np.log(p[np.arange(len(p)), labels].clip(1e-12))
        ece = expected_calibration_error(p.max(axis=1), predicted == labels, sample_weight=sample_weight)
    targets = labels if multi_label else np.eye(p.shape[1])[labels]
    return {
        "accuracy": float(accuracy_score(truth, predicted, sample_weight=sample_weight)),
        **{
            f"{average}_f1": float(
                f1_score(truth, predicted, average=average, zero_division=0, sample_weight=sample_weight)
            )
            for average in ("macro", "micro")
        },
        "log_loss": float(np.average(losses, weights=sample_weight)),
        "brier": float(np.average(((p - targets) ** 2).sum(axis=1), weights=sample_weight)),
        "ece": ece,
    }


def is_right(probs: NDArray[np.floating], labels: NDArray[Any], rule: DecisionRule | None = None) -> NDArray[np.bool_]:
    """bool `(n,)`: rows predicted correctly (multi-label: in all classes). Classes from index K on are unknown here."""
    if labels.ndim == 2:
        decided = widen(decide(probs, rule), labels.shape[1])
        return np.asarray((decided == (labels > 0)).all(axis=1))
    return np.asarray(probs.argmax(axis=1) == labels)


def calibration_error(
    probabilities: NDArray[np.floating],
    labels: NDArray[Any],
    multi_label: bool,
    sample_weight: NDArray[np.floating] | None = None,
) -> dict[str, float]:
    """`log_loss`, `brier` and `ece` as in `classification_metrics`, of the rows without NaN, rounded for the report."""
    rows = ~np.isnan(probabilities).any(axis=1)
    if not rows.any():
        return {}
    weights = None if sample_weight is None else sample_weight[rows]
    metrics = classification_metrics(probabilities[rows], labels[rows], multi_label, sample_weight=weights)
    return {name: round(metrics[name], 5) for name in ("log_loss", "brier", "ece")}


def expected_calibration_error(
    confidence: NDArray[np.floating],
    correct: NDArray[np.bool_],
    num_bins: int = 15,
    sample_weight: NDArray[np.floating] | None = None,
) -> float:
    """Expected calibration error with bins of equal mass (Nixon et al. 2019, arXiv:1904.01685).

    Args:
        confidence: float `(n,)` probabilities.
        correct: bool `(n,)`.
        num_bins: Number of bins.
        sample_weight: float `(n,)`: weights of the values; `None`: all are 1.
    """
    order = np.argsort(confidence, kind="stable")
    weights = np.ones(len(order)) if sample_weight is None else sample_weight
    # A row belongs to the bin that holds the middle of its weight.
    middles = (np.cumsum(weights[order]) - weights[order] / 2) / max(weights.sum(), 1e-12)
    bins = np.floor(middles * num_bins).astype(int)
    gaps = np.bincount(bins, weights=(weights * (confidence - correct))[order])
    return float(np.abs(gaps).sum() / max(weights.sum(), 1e-12))


def make_compute_metrics(multi_label: bool) -> Callable[[Any], dict[str, float]]:
    """`compute_metrics` for the Trainer: metrics of the fused logits, and `encoder_accuracy` of the encoder alone."""

    def compute_metrics(prediction: Any) -> dict[str, float]:
        outputs, labels = prediction.predictions, prediction.label_ids
        logits = outputs[0] if isinstance(outputs, tuple | list) else outputs
        metrics = classification_metrics(to_probabilities(logits, multi_label), labels, multi_label)
        if isinstance(outputs, tuple | list) and len(outputs) > 1:
            encoder = classification_metrics(to_probabilities(outputs[1], multi_label), labels, multi_label)
            metrics["encoder_accuracy"] = encoder["accuracy"]
        return metrics

    return compute_metrics
