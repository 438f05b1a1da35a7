"""What another multi-label threshold would change, measured on rows that did not choose it."""

import numpy as np
from numpy.typing import NDArray

from ...configuration import DecisionRule
from ...routing.decisions import decide

GRID = np.round(np.arange(0.2, 0.81, 0.025), 3)  # that `fit` tries


def decided_by_f1(
    probs: NDArray[np.floating], truth: NDArray[np.bool_], min_labels: int = 0, num_parts: int = 5, seed: int = 0
) -> NDArray[np.bool_]:
    """Decide with one threshold for all classes: that of the best macro F1 on the other parts of the rows.

    This is the first step of `fit` with `threshold_metric="macro_f1"`, and all of it where rows are few.

    Args:
        probs: float `(n, K)`.
        truth: bool `(n, K)`.
        min_labels: As in `decide`.
        num_parts: Parts of the rows.
        seed: Seed of the parts.

    Returns:
        bool `(n, K)`.
    """
    part = np.random.default_rng(seed).permutation(len(truth)) % num_parts
    said = [decide(probs, DecisionRule([float(t)] * probs.shape[1], min_labels)) for t in GRID]
    decided = np.zeros_like(truth)
    for i in range(num_parts):
        others = part != i
        # Of equally good thresholds, the one nearest to 0.5.
        best = max(
            range(len(GRID)), key=lambda k: (round(mean_f1(said[k][others], truth[others]), 6), -abs(GRID[k] - 0.5))
        )
        decided[~others] = said[best][~others]
    return decided


def mean_f1(decided: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Macro F1 over the classes that occur in truth or predictions."""
    total = decided.sum(axis=0) + truth.sum(axis=0)
    known = total > 0
    return float((2 * (decided & truth).sum(axis=0)[known] / total[known]).mean()) if known.any() else 0.0
