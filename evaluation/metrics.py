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
) -> dict[str, float]:
    """Metrics of one source.

    Args:
        probabilities: float `(n, K)`.
        labels: int `(n,)`, or 0/1 `(n, K)` for multi-label. Classes with index K or more are unknown to the source:
            their probability is 0.
        multi_label: Whether the classes are independent.
        thresholds: Multi-label: K thresholds, 0.5 by default.
        min_labels: Multi-label: minimum number of classes predicted for a text.

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
        loss = -(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped)).sum(axis=1).mean()
        ece = expected_calibration_error(p.ravel(), truth.ravel().astype(bool))
    else:
        predicted, truth = p.argmax(axis=1), labels
        loss = -np.log(p[np.arange(len(p)), labels].clip(1e-12)).mean()
        ece = expected_calibration_error(p.max(axis=1), predicted == labels)
    targets = labels if multi_label else np.eye(p.shape[1])[labels]
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "micro_f1": float(f1_score(truth, predicted, average="micro", zero_division=0)),
        "log_loss": float(loss),
        "brier": float(((p - targets) ** 2).sum(axis=1).mean()),
        "ece": ece,
    }


def is_right(probs: NDArray[np.floating], labels: NDArray[Any], rule: DecisionRule | None = None) -> NDArray[np.bool_]:
    """bool `(n,)`: rows predicted correctly (multi-label: in all classes). Classes from index K on are unknown here."""
    if labels.ndim == 2:
        decided = widen(decide(probs, rule), labels.shape[1])
        return np.asarray((decided == (labels > 0)).all(axis=1))
    return np.asarray(probs.argmax(axis=1) == labels)


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[Any], multi_label: bool) -> dict[str, float]:
    """`brier` and `ece` as in `classification_metrics`, over the rows without NaN, rounded for the report."""
    rows = ~np.isnan(probabilities).any(axis=1)
    if not rows.any():
        return {}
    metrics = classification_metrics(probabilities[rows], labels[rows], multi_label)
    return {name: round(metrics[name], 5) for name in ("log_loss", "brier", "ece")}


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], num_bins: int = 15
) -> float:
    """Expected calibration error with bins of equal mass (Nixon et al. 2019, arXiv:1904.01685).

    Args:
        confidence: float `(n,)` probabilities.
        correct: bool `(n,)`.
        num_bins: Number of bins.
    """
    order = np.argsort(confidence, kind="stable")
    bins = [b for b in np.array_split(order, num_bins) if len(b)]
    gaps = [len(b) * abs(float(confidence[b].mean()) - float(correct[b].mean())) for b in bins]
    return float(sum(gaps) / max(len(confidence), 1))


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
