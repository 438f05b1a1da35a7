"""Converts probabilities to decisions with per-class thresholds and a minimum number of classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import DecisionRule


def decide(probabilities: NDArray[np.floating], rule: DecisionRule | None = None) -> NDArray[np.bool_]:
    """Decide which classes are predicted, in multi-label classification.

    Args:
        probabilities: float `(n, K)`.
        rule: Thresholds and the minimum number of classes per text. If too few classes reach their threshold, those
            nearest to it are added. Default: 0.5 for all classes, and no minimum.

    Returns:
        bool `(n, K)`.
    """
    rule = rule or DecisionRule()
    min_labels = rule.min_labels
    margin = probabilities - np.asarray(0.5 if rule.thresholds is None else rule.thresholds)
    decided = margin >= 0
    if min_labels > 0:
        best = np.argpartition(-margin, min_labels - 1, axis=1)[:, :min_labels]
        few = decided.sum(axis=1) < min_labels
        decided[few[:, None] & _one_hot(best, decided.shape[1])] = True
    return decided


def decided_classes(
    probs: NDArray[np.floating], multi_label: bool, rule: DecisionRule | None = None
) -> NDArray[np.bool_]:
    """Predicted classes, bool `(n, K)`, for probabilities `(n, K)`; without `multi_label` the most likely class."""
    if multi_label:
        return decide(probs, rule)
    return np.asarray(np.eye(probs.shape[1], dtype=bool)[probs.argmax(axis=1)])


def widen(values: NDArray[Any], num_labels: int) -> NDArray[Any]:
    """Pad `(n, K)` with columns of zeros to `(n, num_labels)`."""
    return np.pad(values, ((0, 0), (0, max(0, num_labels - values.shape[1]))))


def _one_hot(index: NDArray[np.integer], num_labels: int) -> NDArray[np.bool_]:
    out = np.zeros((len(index), num_labels), dtype=bool)
    np.put_along_axis(out, index, True, axis=1)
    return out
