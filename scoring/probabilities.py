"""From logits to probabilities, in NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_probabilities(logits: NDArray[np.floating], multi_label: bool, dtype: Any = np.float64) -> NDArray[Any]:
    """Softmax (single-label) or sigmoid (multi-label) of float `(n, K)`, computed in float64, returned as `dtype`."""
    logits = np.asarray(logits, dtype=np.float64)
    return (np.exp(-np.logaddexp(0.0, -logits)) if multi_label else softmax(logits)).astype(dtype, copy=False)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Softmax over the last axis of float `(n, K)`, in the type of `logits`."""
    if not logits.size:
        return logits
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)
