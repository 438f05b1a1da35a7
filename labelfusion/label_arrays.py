"""Converts probabilities to the arrays that `predict` returns, and reads labels given as arrays."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets

from .configuration import LabelFusionConfig
from .routing.decisions import decided_classes

OUTPUTS = ("names", "indicator")


def class_array(classes: list[Any]) -> NDArray[Any]:
    """The classes as an array `(K,)`: of objects for strings, so that its elements are Python's own strings."""
    return np.array(classes, dtype=object if isinstance(classes[0], str) else None)


def as_answers(
    probabilities: NDArray[np.float32],
    answered: NDArray[np.bool_],
    classes: NDArray[Any],
    config: LabelFusionConfig,
    output: str = "names",
) -> NDArray[Any]:
    """The predicted classes.

    Args:
        probabilities: float `(n, K)`, NaN for a missing text.
        answered: bool `(n,)`: whether an answer is given.
        classes: `(K,)`.
        config: The model's config.
        output: `"names"` or `"indicator"`.

    Returns:
        Names: `(n,)` of the type of `classes`; multi-label: objects `(n,)`, a list of classes each. If an answer is
        missing, the array holds objects, with None there. Indicator: int64 `(n, K)` of 0/1; if an answer is missing,
        float64, with NaN in its row.
    """
    decided = decided_classes(np.nan_to_num(probabilities), config.multi_label, config.decision_rule)
    if output == "indicator":
        return decided.astype(np.int64) if answered.all() else np.asarray(np.where(answered[:, None], decided, np.nan))
    if not config.multi_label:
        named = classes[decided.argmax(axis=1)]
        if not answered.all():
            named = named.astype(object)
            named[~answered] = None
        return named
    named = np.empty(len(decided), dtype=object)
    for i in np.flatnonzero(answered):
        named[i] = classes[decided[i]].tolist()
    return named


def read_target(y: Any, multi_label: bool) -> Any:
    """Bring labels given as an array into the form of `training.data.with_labels`.

    A sparse matrix becomes dense. Single labels in one column are flattened, with scikit-learn's warning.

    Raises:
        ValueError: For numbers that are not classes, such as 0.5.
    """
    if hasattr(y, "toarray"):
        y = y.toarray()
    elif hasattr(y, "__array__") and not hasattr(y, "__len__"):
        y = np.asarray(y)
    if isinstance(y, np.ndarray) and y.ndim == 2 and y.shape[1] == 1 and not multi_label:
        warnings.warn(
            f"A column-vector y was passed when a 1d array was expected: its shape is {y.shape}. Pass `y.ravel()`.",
            DataConversionWarning,
            stacklevel=3,
        )
        y = y.ravel()
    if isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind == "f":
        check_classification_targets(y)
    return y


def is_indicator(y: Any) -> bool:
    """Whether labels are a matrix, or a data frame, with one 0/1 column per class."""
    return bool(getattr(y, "ndim", 1) == 2 and y.shape[1] > 1)


def check_output(output: str) -> str:
    """Return `output` if it names a form of the predictions.

    Raises:
        ValueError: Otherwise.
    """
    if output not in OUTPUTS:
        raise ValueError(
            f"`output` is {output!r}; expected 'names' (the classes), or 'indicator' (a matrix of 0/1 with one column "
            "per class, in the order of `classes_`)."
        )
    return output
