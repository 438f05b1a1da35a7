"""From logits to probabilities, in NumPy."""

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Softmax over the last axis of float `(n, K)`, in the type of `logits`."""
    if not logits.size:
        return logits
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sigmoid of each logit, in the type of `logits`; cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))
