"""A classifier of numbers written as texts, so that scikit-learn's own checks can fit `AutoFusionClassifier`."""

from typing import Any

import numpy as np
from labelfusion.training.data import LabelledTexts
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from labelfusion import AutoFusionClassifier

FEATURES = "abcdefghijklmnopqrstuvwxyz"


def spelt(numbers: np.ndarray) -> list[str]:
    """Rows of numbers as texts: the name of each feature with its value in steps of a sixteenth."""
    steps = np.clip(np.round(16 * np.asarray(numbers, dtype=float)), -9999, 9999).astype(int)
    return [" ".join(f"{FEATURES[j % 26]}{'p' if v >= 0 else 'm'}{abs(v)}" for j, v in enumerate(row)) for row in steps]


class NumberTextClassifier(AutoFusionClassifier):
    """The classifier behind a reader of matrices. All else is inherited, so that a check's complaint is about it."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        own = BaseEstimator.__sklearn_tags__(self)
        tags.input_tags, tags.no_validation = own.input_tags, False
        return tags

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "NumberTextClassifier":  # type: ignore[override]  # noqa: N803
        """Fit on a matrix."""
        if y is None:
            raise ValueError("This estimator requires y to be passed, but the target y is None.")
        numbers, _ = validate_data(self, X, np.asarray(y).ravel(), dtype=float)
        return super().fit(spelt(numbers), y, sample_weight=sample_weight)

    def _infer(self, texts: Any, llm_scores: Any = None, **options: Any) -> Any:
        self._check_fitted()
        if not isinstance(texts, LabelledTexts):
            texts = spelt(validate_data(self, texts, reset=False, dtype=float))
        return super()._infer(texts, llm_scores, **options)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Accuracy on a matrix."""
        self._check_fitted()
        return super().score(spelt(validate_data(self, X, reset=False, dtype=float)), y, sample_weight)
