"""From probabilities to decisions: per-class thresholds, and a least number of classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import DecisionRule


def decide(probabilities: NDArray[np.floating], rule: DecisionRule | None = None) -> NDArray[np.bool_]:
    """Decide which classes are predicted, in multi-label classification.

    Args:
        probabilities: float `(n, K)`.
        rule: Thresholds, and the fewest classes that a text gets: the ones nearest to their threshold are added.
            Default: 0.5 for all classes, and no fewest.

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
    """bool `(n, K)`: the predicted classes of float `(n, K)`; without `multi_label` the likeliest one."""
    if multi_label:
        return decide(probs, rule)
    return np.asarray(np.eye(probs.shape[1], dtype=bool)[probs.argmax(axis=1)])


def widen(values: NDArray[Any], num_labels: int) -> NDArray[Any]:
    """`(n, K)` with columns of zeros for the classes from K to `num_labels`, if there are any."""
    return np.pad(values, ((0, 0), (0, max(0, num_labels - values.shape[1]))))


def _one_hot(index: NDArray[np.integer], num_labels: int) -> NDArray[np.bool_]:
    out = np.zeros((len(index), num_labels), dtype=bool)
    np.put_along_axis(out, index, True, axis=1)
    return out
