"""Out-of-distribution scores of texts, and the lower trust in the encoder for high scores."""

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig


def novelty_of(embeddings: torch.Tensor, config: LabelFusionConfig) -> NDArray[np.float32]:
    """Out-of-distribution scores, float32 `(n,)` in [0, 1], from the result of `encode_texts`; 0 without the head."""
    if not config.novelty_size:
        return np.zeros(len(embeddings), dtype=np.float32)
    return np.asarray(embeddings[:, -1].float().cpu().numpy())


def doubted(
    probs: NDArray[np.floating], novelty: NDArray[np.floating] | None, multi_label: bool
) -> NDArray[np.float64]:
    """Shrink probabilities to the uniform distribution by the out-of-distribution score of each text.

    Encoders are often overconfident on out-of-distribution texts. Shrinking makes every gate see more value in an LLM
    call for these texts.

    Args:
        probs: float `(n, K)`.
        novelty: float `(n,)` in [0, 1], the output of the model's `NoveltyHead`; `None`: 0.
        multi_label: Whether the classes are independent.

    Returns:
        float64 `(n, K)`.
    """
    p = np.asarray(probs, dtype=np.float64)
    if novelty is None:
        return p
    known = 1.0 - np.asarray(novelty, dtype=np.float64)[:, None]
    return np.asarray(known * p + (1.0 - known) * (0.5 if multi_label else 1.0 / p.shape[1]))
