"""Weights of rows: `sample_weight`, `class_weight` and votes of annotators. Rows of weight 0 are left out."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .training.data import LabelledTexts


def read_weights(sample_weight: Any, data: LabelledTexts) -> NDArray[np.float64]:
    """The weights of the rows that are kept, float64 `(n,)`.

    Args:
        sample_weight: One weight for each row of the data, including skipped ones; None: 1 for all.
        data: The data.

    Raises:
        ValueError: If their number is wrong, or they are not finite numbers, 0 or more, with one above 0.
    """
    if sample_weight is None:
        return np.ones(len(data))
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`sample_weight` holds {sample_weight!r:.60}; expected one number for each row.") from None
    if weights.ndim == 0:
        weights = np.full(data.count, float(weights))
    if weights.shape != (data.count,):
        raise ValueError(
            f"`sample_weight` has the shape {weights.shape}; expected one number for each row, {data.count}."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(
            "`sample_weight` must hold finite numbers, 0 or more, and not only zeros; the smallest is "
            f"{weights.min():g}, the largest {weights.max():g}."
        )
    return weights if data.rows is None else weights[data.rows]


def weigh(
    data: LabelledTexts, weights: NDArray[np.float64], class_weight: Any
) -> tuple[LabelledTexts, NDArray[np.float32] | None]:
    """Apply the weights of the classes, and leave out the rows of weight 0.

    Args:
        data: n labelled rows.
        weights: float64 `(n,)`.
        class_weight: `"balanced"`, `{class: weight}` or None.

    Returns:
        The other rows, and their weights with a mean of 1, float32; None if all rows weigh the same.
    """
    assert data.labels is not None
    kept = np.flatnonzero(weights > 0)
    if len(kept) < len(data):
        scores, rows = data.llm_scores, np.arange(len(data)) if data.rows is None else data.rows
        data = replace(
            data,
            column=[data.texts[i] for i in kept],
            labels=data.labels[kept],
            llm_scores=None if scores is None else scores[kept],
            rows=rows[kept],
        )
        weights = weights[kept]
    if class_weight is not None:
        weights = weights * _of_classes(data, weights, class_weight)
    if np.ptp(weights) == 0:
        return data, None
    return data, (weights / weights.mean()).astype(np.float32)


def share_votes(texts: list[str], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of n votes, divided by the number of votes for the same text: each text counts once (Uma et al. 2021,
    doi:10.1613/jair.1.12752, on learning from the shares of the votes).

    Args:
        texts: n texts, one for each vote.
        weights: float64 `(n,)`; votes of weight 0 are not counted.
    """
    _, text_of = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    votes = np.bincount(text_of, weights=weights > 0)
    return np.asarray(weights / np.maximum(votes, 1)[text_of])


def check_class_weight(class_weight: Any) -> None:
    """Check the constructor argument.

    Raises:
        ValueError: If it is not `"balanced"`, None or a dict of numbers above 0.
    """
    if class_weight is None or class_weight == "balanced":
        return
    if isinstance(class_weight, dict):
        if all(isinstance(w, int | float | np.number) and 0 < w < np.inf for w in class_weight.values()):
            return
        given = f"{class_weight}"
    else:
        given = repr(class_weight)
    raise ValueError(
        f"`class_weight` is {given}; expected 'balanced', or a number above 0 for each class: {{class: weight}}."
    )


def _of_classes(data: LabelledTexts, weights: NDArray[np.float64], class_weight: Any) -> NDArray[np.float64]:
    """float64 `(n,)`: the factor of each row."""
    labels = data.labels
    assert labels is not None
    count = len(data.classes)
    truth = labels.astype(np.float64) if labels.ndim == 2 else np.eye(count)[labels]
    if isinstance(class_weight, str):
        total = weights @ truth
        factors = np.divide(total.sum(), count * total, out=np.ones(count), where=total > 0)
    else:
        names = [str(c) for c in data.classes]
        if unknown := [c for c in class_weight if str(c) not in names]:
            raise ValueError(f"`class_weight` names the classes {unknown}, which are not in the data: {names}.")
        given = {str(c): float(w) for c, w in class_weight.items()}
        factors = np.array([given.get(name, 1.0) for name in names])
    number = truth.sum(axis=1)
    return np.where(number > 0, truth @ factors / np.maximum(number, 1), 1.0)
