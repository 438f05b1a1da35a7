"""The step of the recipe that warns of LLM scores that cannot help."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.diagnosis.class_order import FEWEST_ANSWERS, other_order
from .fit_state import FitState, majority_labels

logger = logging.getLogger(__name__)


def check_scores(state: FitState) -> FitState:
    """Warn of scores whose classes are in another order, or that are no better than the class frequencies."""
    names, scores, labels = state.provider_names, state.llm_scores, state.labels
    if state.options.votes:
        rows, labels = majority_labels(state.texts, labels, state.config.num_labels)
        scores = scores[rows]
    if not state.task.multi_label:
        warn_if_misordered(scores, labels, state.config.label_names, names)
    warn_if_uninformative(scores, labels, state.task.multi_label, names)
    return state


def warn_if_misordered(
    llm_scores: NDArray[np.floating], labels: NDArray[np.integer], classes: list[str], providers: list[str]
) -> None:
    """Warn if an LLM's score columns fit the labels only in a different order than that of the classes.

    Args:
        llm_scores: float `(n, P, K)`, NaN for missing.
        labels: int64 `(n,)`.
        classes: K names.
        providers: P names.
    """
    for p, provider in enumerate(providers):
        order = other_order(llm_scores[:, p], labels)
        if order is not None:
            logger.warning("%s", order.sentence(provider, classes))


def warn_if_uninformative(
    llm_scores: NDArray[np.floating], labels: NDArray[Any], multi_label: bool, providers: list[str]
) -> None:
    """Warn if an LLM is not significantly better than chance on the labelled texts.

    Single-label: balanced accuracy (mean recall over the classes). Multi-label: mean over the classes of the area under
    the ROC curve. The value must be two standard errors above chance.

    Args:
        llm_scores: float `(n, P, K)`, NaN for missing.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        multi_label: Whether a text may have several classes.
        providers: P names.
    """
    for p, provider in enumerate(providers):
        heard = ~np.isnan(llm_scores[:, p]).any(axis=1)
        if heard.sum() < FEWEST_ANSWERS:
            continue
        what = "mean area under the ROC curve" if multi_label else "balanced accuracy"
        found, chance, error = (_auc if multi_label else _recall)(llm_scores[heard, p], labels[heard])
        if found <= chance + 2 * error:
            logger.warning(
                "The scores of %r for %d texts say no more than the class frequencies do (%s %.2f, by chance %.2f). "
                "Try another model, prompt or `method`; small models are better queried for likelihoods ('local/...').",
                provider, heard.sum(), what, found, chance,
            )  # fmt: skip


def _recall(scores: NDArray[np.floating], truth: NDArray[Any]) -> tuple[float, float, float]:
    """Balanced accuracy: its value, its value under chance, and its standard error under chance."""
    classes, counts = np.unique(truth, return_counts=True)
    right = scores.argmax(axis=1) == truth
    chance = 1 / max(2, len(classes))
    error = np.sqrt((chance * (1 - chance) / counts).sum()) / len(classes)
    return float(np.mean([right[truth == k].mean() for k in classes])), chance, float(error)


def _auc(scores: NDArray[np.floating], truth: NDArray[Any]) -> tuple[float, float, float]:
    """Mean area under the ROC curve: value, value under chance, and standard error under chance (Mann-Whitney)."""
    from sklearn.metrics import roc_auc_score

    positive = (truth > 0).sum(axis=0)
    mixed = np.flatnonzero((positive > 0) & (positive < len(truth)))
    if not len(mixed):
        return 1.0, 0.5, 0.0
    ones, zeros = positive[mixed], len(truth) - positive[mixed]
    error = np.sqrt(((len(truth) + 1) / (12 * ones * zeros)).sum()) / len(mixed)
    areas = [roc_auc_score(truth[:, k] > 0, scores[:, k]) for k in mixed]
    return float(np.mean(areas)), 0.5, float(error)
