"""Uncertainty of comparisons: bootstrap intervals, paired tests, correction for multiple tests."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

NUM_RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 4_000_000  # row draws held in memory at once


def bootstrap_means(
    values: NDArray[np.floating], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Column means of resampled rows (Efron 1979).

    Any function of column means (accuracy; F1 from the means of hits, predictions and truths) can be bootstrapped from
    them. The columns of all sources are resampled together, so their differences are paired.

    Args:
        values: float `(n, m)`, n >= 1.
        num_resamples: Number B of resamples.
        seed: Seed of the draws: the same seed, n and B give the same rows.

    Returns:
        float64 `(B, m)`.
    """
    n = len(values)
    if n == 0:
        raise ValueError("`values` has no rows; a bootstrap needs one at least.")
    rng = np.random.default_rng(seed)
    table = np.ascontiguousarray(values, dtype=np.float64)
    means = np.empty((num_resamples, table.shape[1]))
    size = max(1, _CHUNK // n)
    for start in range(0, num_resamples, size):
        rows = min(size, num_resamples - start)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = counts.astype(np.float64) @ table / n
    return means


def percentile_interval(samples: NDArray[np.floating], level: float = LEVEL) -> tuple[float, float]:
    """The percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13) of float `(B,)`; NaN samples are left out."""
    known = samples[~np.isnan(samples)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927); unlike the bootstrap's, its width is not 0 at 0 or n successes.

    Raises:
        ValueError: For `n` below 1, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"`successes`={successes} of `n`={n} is no proportion.")
    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Exact McNemar test of two classifiers on the same rows (McNemar 1947; Dietterich 1998).

    Args:
        right_a: bool `(n,)`: rows that the first classifier predicts correctly.
        right_b: bool `(n,)`: rows that the second classifier predicts correctly.

    Returns:
        Number of rows that only the first predicts correctly, number that only the second does, and the two-sided
        p-value of the binomial test that both are equally likely.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return only_a, only_b, p


def paired_bootstrap_p(differences: NDArray[np.floating]) -> float:
    """Two-sided p-value that a difference is zero, from its bootstrap samples `(B,)` (Efron & Tibshirani 1993, ch. 15).

    Twice the smaller share of samples on either side of zero. One sample is added to each side, so p is never 0.
    """
    b = len(differences)
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2.0 * (min(below, above) + 1) / (b + 1))


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for the number of comparisons (Holm 1979), in the order given."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, (len(p_values) - rank) * p_values[i])
        adjusted[i] = min(1.0, highest)
    return adjusted
