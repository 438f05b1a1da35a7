"""The gate: where the encoder is so unsure that asking an LLM is worth it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_GAIN = 0.95
NEVER = 1e9  # a threshold that no uncertainty reaches; JSON has no infinity


def uncertainty(encoder_probs: NDArray[np.floating], multi_label: bool) -> NDArray[np.float64]:
    """How unsure the encoder is of each text.

    Args:
        encoder_probs: float `(n, num_labels)`, calibrated.
        multi_label: Whether the classes are independent.

    Returns:
        float64 `(n,)`. Single-label: 1 minus the margin between the two best classes (Scheffer et al. 2001), in [0, 1].
        Multi-label: the expected number of classes that the encoder gets wrong, in `[0, num_labels / 2]`.
    """
    probs = np.asarray(encoder_probs, dtype=np.float64)
    if multi_label:
        return np.minimum(probs, 1.0 - probs).sum(axis=1)
    best = np.partition(probs, -2, axis=1)[:, -2:]
    return 1.0 - (best[:, 1] - best[:, 0])


def fit_gate_threshold(
    encoder_probs: NDArray[np.floating],
    fused_probs: NDArray[np.floating],
    labels: NDArray[Any],
    multi_label: bool,
    kept_gain: float = KEPT_GAIN,
) -> float:
    """The uncertainty above which to ask, so that most of what the LLM adds is kept with the fewest questions.

    The gain is measured in the probability given to the truth, which is less noisy than accuracy.

    Args:
        encoder_probs: float `(n, K)`, out of sample.
        fused_probs: float `(n, K)` of the same rows with their LLM scores, out of sample.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        multi_label: Whether the classes are independent.
        kept_gain: Share of the gain of always asking that is to be kept.

    Returns:
        A threshold for `uncertainty`; `NEVER` if the LLM adds nothing.
    """
    values = uncertainty(encoder_probs, multi_label)
    order = np.argsort(-values, kind="stable")
    gain = (_truth(fused_probs, labels, multi_label) - _truth(encoder_probs, labels, multi_label))[order]
    total = np.cumsum(gain)
    if len(total) == 0 or total[-1] <= 0:
        return NEVER
    enough = int(np.argmax(total >= kept_gain * total[-1]))
    # Halfway to the next uncertainty below, so that equally uncertain texts are treated alike.
    last = values[order[enough]]
    return float((last + values[values < last].max(initial=0.0)) / 2)


def _truth(probs: NDArray[np.floating], labels: NDArray[Any], multi_label: bool) -> NDArray[np.float64]:
    if multi_label:
        return np.where(labels > 0, probs, 1.0 - probs).mean(axis=1).astype(np.float64)
    return probs[np.arange(len(probs)), labels].astype(np.float64)
