"""The step of the recipe that tunes the per-class thresholds of multi-label decisions; the gate's: `gate_fit`."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...configuration import DecisionRule
from ...evaluation.diagnosis.threshold_gain import GRID
from ...routing.decisions import decide

if TYPE_CHECKING:
    from ..fit_state import FitState

METRICS = ("accuracy", "micro_f1", "macro_f1")


def set_thresholds(state: "FitState") -> "FitState":
    """Multi-label: tune thresholds on out-of-fold answers. If every row has a class, every text gets at least one."""
    if not state.task.multi_label:
        return state
    config, truth = state.config, state.labels[state.judged]
    config.min_labels = int(state.labels.sum(axis=1).min() >= 1)
    weights = None if state.weights is None else state.weights[state.judged]
    metric = state.options.threshold_metric
    config.thresholds = tune_thresholds(state.probabilities, truth, metric, config.min_labels, weights)
    return state


def tune_thresholds(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.floating],
    metric: str = "accuracy",
    min_labels: int = 0,
    weights: NDArray[np.floating] | None = None,
) -> list[float]:
    """Choose thresholds on out-of-sample probabilities: one for all classes, then class by class.

    Thresholds leave 0.5, and a class the common one, only for a gain of more than half a standard error of the metric,
    taken as a share of rows, and of 0.2 points at least. So rare classes keep the common one.

    Args:
        probabilities: float `(n, K)`, from a model that was not fitted on these rows.
        labels: 0/1 `(n, K)`.
        metric: `"accuracy"` (exact match), `"micro_f1"` or `"macro_f1"`.
        min_labels: As in `decide`.
        weights: float `(n,)`: weights of the rows; `None`: all are 1.

    Returns:
        K thresholds.

    Raises:
        ValueError: For another metric.
    """
    if metric not in METRICS:
        raise ValueError(f"`metric` is {metric!r}; expected one of {', '.join(METRICS)}.")
    from sklearn.metrics import f1_score  # slow to import, and not needed to decide

    truth = labels.astype(bool)

    def value(thresholds: NDArray[np.floating]) -> float:
        decided = decide(probabilities, DecisionRule(list(thresholds), min_labels))
        if metric == "accuracy":
            return float(np.average((decided == truth).all(axis=1), weights=weights))
        average = metric.removesuffix("_f1")
        return float(f1_score(truth, decided, average=average, zero_division=0, sample_weight=weights))

    num_labels = probabilities.shape[1]
    start = value(np.full(num_labels, 0.5))
    least = max((start * (1 - start) / max(len(truth), 1)) ** 0.5 * 0.5, 0.002)
    # Of equally good thresholds, the middle one; those near 0.5 are preferred.
    common = max(GRID, key=lambda t: (round(value(np.full(num_labels, t)), 6), -abs(t - 0.5)))
    best = np.full(num_labels, common if value(np.full(num_labels, common)) > start + least else 0.5)
    current = value(best)
    for k in range(num_labels):
        for t in GRID:
            trial = best.copy()
            trial[k] = t
            if (gained := value(trial)) > current + least:
                best, current = trial, gained
    return [float(t) for t in best]
