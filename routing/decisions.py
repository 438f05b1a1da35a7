"""From probabilities to decisions: per-class thresholds, and a least number of classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decide(
    probabilities: NDArray[np.floating], thresholds: list[float] | None = None, min_labels: int = 0
) -> NDArray[np.bool_]:
    """Decide which classes are predicted.

    Args:
        probabilities: float `(n, K)`.
        thresholds: K thresholds. Default: 0.5 for all.
        min_labels: Fewest classes a text gets; the ones nearest to their threshold are added.

    Returns:
        bool `(n, K)`.
    """
    margin = probabilities - np.asarray(0.5 if thresholds is None else thresholds)
    decided = margin >= 0
    if min_labels > 0:
        best = np.argpartition(-margin, min_labels - 1, axis=1)[:, :min_labels]
        few = decided.sum(axis=1) < min_labels
        decided[few[:, None] & _one_hot(best, decided.shape[1])] = True
    return decided


def widen(values: NDArray[Any], num_labels: int) -> NDArray[Any]:
    """`(n, K)` with columns of zeros for the classes from K to `num_labels`, if there are any."""
    return np.pad(values, ((0, 0), (0, max(0, num_labels - values.shape[1]))))


def _one_hot(index: NDArray[np.integer], num_labels: int) -> NDArray[np.bool_]:
    out = np.zeros((len(index), num_labels), dtype=bool)
    np.put_along_axis(out, index, True, axis=1)
    return out
