"""Shares of classes in a collection of texts, from predictions for all of them and labels of a few."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from ..scoring.budget import as_budget

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

FEWEST_GOLD = 10
PSEUDO_ROWS = 1  # of each of the two largest errors, so that intervals hold for rare classes (as Agresti & Coull 1998)


@dataclass(frozen=True)
class ClassShares:
    """Estimated shares of K classes. All arrays are float64 `(K,)`.

    Args:
        share: The estimates.
        low: Lower ends of the intervals.
        high: Upper ends.
        weight: How much the predictions count, in [0, 1]; 0: the gold labels alone.
        gain: The variance from the gold labels alone, divided by that of the estimate: so many times more gold labels
            would be as good without predictions.
    """

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    weight: NDArray[np.float64]
    gain: NDArray[np.float64]


def estimate_class_shares(
    gold: NDArray[np.floating],
    gold_probs: NDArray[np.floating],
    probs: NDArray[np.floating],
    multi_label: bool = False,
    level: float = 0.95,
) -> ClassShares:
    """Estimate class shares by prediction-powered inference with power tuning (Angelopoulos, Duchi & Zrnic 2023).

    The mean prediction is corrected by its mean error on the gold rows, so that a poor classifier widens the intervals
    and does not move them. The intervals use Student's t and a few pseudo rows, because gold rows are few and classes
    rare. Exclusive classes share one weight, so that their shares sum to 1.

    Args:
        gold: `(n, K)` of 0/1: the labels of a random sample of the texts, n >= 10.
        gold_probs: `(n, K)` predictions for these, of a classifier that was not fitted on them.
        probs: `(N, K)` predictions for the other texts.
        multi_label: Whether a text may have several classes.
        level: Coverage of each interval.

    Raises:
        ValueError: For too few rows, or a level outside of (0, 1).
    """
    n, size = len(gold), len(probs)
    if n < FEWEST_GOLD:
        raise ValueError(f"`gold` has {n} labelled texts; an interval needs {FEWEST_GOLD} at least.")
    if not size:
        raise ValueError("`texts` is empty: there is nothing to estimate shares of.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level!r}.")
    gold, gold_probs, probs = (np.asarray(x, dtype=np.float64) for x in (gold, gold_probs, probs))
    everything = np.concatenate([gold_probs, probs])
    covariance = np.mean((gold - gold.mean(0)) * (gold_probs - gold_probs.mean(0)), axis=0)
    variance = everything.var(axis=0) * (1 + n / size)
    if not multi_label:
        covariance, variance = np.full_like(covariance, covariance.sum()), np.full_like(variance, variance.sum())
    weight = np.clip(np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0), 0.0, 1.0)
    share = weight * probs.mean(0) + np.mean(gold - weight * gold_probs, axis=0)
    pseudo = np.repeat([-weight, np.ones_like(weight)], PSEUDO_ROWS, axis=0)
    residuals = np.concatenate([gold - weight * gold_probs, pseudo])
    squared = residuals.var(axis=0, ddof=1) / len(residuals) + weight**2 * probs.var(axis=0) / size
    alone = np.concatenate([gold, pseudo.clip(min=0.0)]).var(axis=0, ddof=1) / len(residuals)
    center = weight * probs.mean(0) + residuals.mean(0)
    reach = student_t.ppf((1 + level) / 2, n - 1) * np.sqrt(squared)
    share = share.clip(0.0, 1.0)
    if not multi_label:
        share /= share.sum()
    low, high = np.minimum(center - reach, share), np.maximum(center + reach, share)
    return ClassShares(share, low.clip(min=0.0), high.clip(max=1.0), weight, alone / squared)


def measure_shares(
    classifier: "AutoFusionClassifier", texts: Any, gold: Any, level: float, llm_scores: Any, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """See `AutoFusionClassifier.estimate_shares`."""
    config, classes = classifier.model_.config, classifier.classes_.tolist()
    labelled = classifier._prepare(gold, classes, config.num_providers)
    assert labelled.labels is not None  # `prepare` guarantees it
    truth = labelled.labels if config.multi_label else np.eye(len(classes))[labelled.labels]
    if len(truth) < FEWEST_GOLD:  # before anything is paid for
        raise ValueError(f"`gold` has {len(truth)} labelled texts; an interval needs {FEWEST_GOLD} at least.")
    options = {**options, "max_cost_usd": as_budget(options.get("max_cost_usd"))}
    gold_probs = classifier.predict_proba(labelled, **options)
    probs = classifier.predict_proba(texts, llm_scores=llm_scores, **options)
    probs = probs[~np.isnan(probs).any(axis=1)]
    found = estimate_class_shares(truth, gold_probs, probs, config.multi_label, level)
    columns = {"share": found.share, "low": found.low, "high": found.high}
    columns |= {"gold_share": truth.mean(axis=0), "gain": found.gain}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [{"class": c, **dict(zip(columns, row, strict=True))} for c, row in zip(classes, rows, strict=True)]
