"""Checks of the training data: labels that are probably wrong, and LLM scores in a wrong class order."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FEWEST_ANSWERS = 30  # fewest LLM answers needed to check the class order


def suspected_labels(
    encoder_probs: NDArray[np.floating],
    llm_scores: NDArray[np.floating],
    labels: NDArray[Any],
    multi_label: bool,
) -> list[dict[str, Any]]:
    """Find rows where the encoder (out of sample) and the LLM agree on classes that differ from the label.

    The two sources make different errors, so their agreement is evidence against the label. This is confident learning
    (Northcutt et al. 2021, arXiv:1911.00068) with a second source in place of class thresholds.

    Args:
        encoder_probs: float `(n, K)`, out of sample and calibrated; NaN for unknown.
        llm_scores: float `(n, P, K)`, NaN for missing; the mean over the LLMs is used.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        multi_label: Whether the classes are independent.

    Returns:
        For each such row, the most suspect first: `row`, `given` and `suggested` (lists of class indices), and for
        `encoder` and `llm` the probabilities of the given and of the suggested label. For multi-label, this is the
        lowest probability among the classes in which the two differ.
    """
    there = ~np.isnan(llm_scores).any(axis=2)[:, :, None]
    known = there.any(axis=(1, 2)) & ~np.isnan(encoder_probs).any(axis=1)
    llm = np.where(there, llm_scores, 0.0).sum(axis=1) / there.sum(axis=1).clip(1)
    num_labels = encoder_probs.shape[1]
    given = labels > 0 if multi_label else np.eye(num_labels, dtype=bool)[labels]
    if multi_label:
        against = ((encoder_probs > 0.5) == (llm > 0.5)) & ((llm > 0.5) != given)
        suggested = given ^ against
    else:
        agreed = np.eye(num_labels, dtype=bool)[encoder_probs.argmax(axis=1)]
        agreed &= np.eye(num_labels, dtype=bool)[llm.argmax(axis=1)]
        suggested = np.where(agreed.any(axis=1, keepdims=True), agreed, given)
    found = []
    for row in np.flatnonzero(known & (suggested != given).any(axis=1)):
        entry: dict[str, Any] = {
            "row": int(row),
            "given": np.flatnonzero(given[row]).tolist(),
            "suggested": np.flatnonzero(suggested[row]).tolist(),
        }
        for name, probs in (("encoder", encoder_probs[row]), ("llm", llm[row])):
            for kind, classes in (("given", given[row]), ("suggested", suggested[row])):
                entry[f"{name}_{kind}"] = _probability(probs, classes, given[row] != suggested[row], multi_label)
        found.append(entry)
    return sorted(found, key=lambda e: (e["encoder_given"] * e["llm_given"], e["encoder_given"], e["row"]))


def _probability(
    probs: NDArray[np.floating], classes: NDArray[np.bool_], differ: NDArray[np.bool_], multi_label: bool
) -> float:
    if not multi_label:
        return round(float(probs[classes][0]), 5)
    return round(float(np.where(classes, probs, 1.0 - probs)[differ].min()), 5)


def check_class_order(
    llm_scores: NDArray[np.floating], labels: NDArray[np.integer], classes: list[str], providers: list[str]
) -> None:
    """Warn if an LLM's score columns fit the labels only in a different order than that of the classes.

    Args:
        llm_scores: float `(n, P, K)`, NaN for missing.
        labels: int64 `(n,)`.
        classes: K names.
        providers: P names.
    """
    from scipy.optimize import linear_sum_assignment

    for p, provider in enumerate(providers):
        heard = ~np.isnan(llm_scores[:, p]).any(axis=1)
        counts = np.zeros((len(classes), len(classes)))
        np.add.at(counts, (llm_scores[heard, p].argmax(axis=1), labels[heard]), 1)
        columns, means = linear_sum_assignment(-counts)
        now, then = np.trace(counts), counts[columns, means].sum()
        if heard.sum() >= FEWEST_ANSWERS and then > 0.5 * heard.sum() and now < then / 3:
            logger.warning(
                "The scores of %r seem to be in another order of the classes: as %s they name the right class for "
                "%.0f %% of the texts, as %s for %.0f %%. Give `labels` in the order of the scores.",
                provider,
                ", ".join(classes),
                100 * now / heard.sum(),
                ", ".join(classes[k] for k in means),
                100 * then / heard.sum(),
            )


def check_quality(
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
                "%r says no more about the %d texts that it was asked about than the frequencies of the classes do "
                "(%s %.2f, by chance %.2f). Try another model, prompt or `method`; small models are better asked for "
                "likelihoods ('local/...').",
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
