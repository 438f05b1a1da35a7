"""Texts that are unlike the training texts: how far each one is, and how much less the encoder is then trusted."""

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig


def novelty_of(embeddings: torch.Tensor, config: LabelFusionConfig) -> NDArray[np.float32]:
    """float32 `(n,)` in [0, 1]: the novelty that `encode_texts` has put into its result; 0 of a model without."""
    if not config.novelty_size:
        return np.zeros(len(embeddings), dtype=np.float32)
    return np.asarray(embeddings[:, -1].float().cpu().numpy())


def doubted(
    probs: NDArray[np.floating], novelty: NDArray[np.floating] | None, multi_label: bool
) -> NDArray[np.float64]:
    """Shrink probabilities to the uniform distribution by the out-of-distribution score of each text.

    An encoder is often sure of what it has never seen. Its answer is drawn to that of no knowledge, all classes alike,
    by the text's novelty, so that every gate sees most to gain there.

    Args:
        probs: float `(n, K)`.
        novelty: float `(n,)` in [0, 1], as the model's `NoveltyHead` gives it; `None`: 0.
        multi_label: Whether the classes are independent.

    Returns:
        float64 `(n, K)`.
    """
    p = np.asarray(probs, dtype=np.float64)
    if novelty is None:
        return p
    known = 1.0 - np.asarray(novelty, dtype=np.float64)[:, None]
    return np.asarray(known * p + (1.0 - known) * (0.5 if multi_label else 1.0 / p.shape[1]))
