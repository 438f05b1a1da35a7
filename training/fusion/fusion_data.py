"""What the fusion is fitted on: rows with LLM scores and out-of-fold outputs of the encoder."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.metrics import softmax_or_sigmoid
from ...modeling_labelfusion.fusion import pool_features
from ..losses import log_loss
from .label_sets import LabelSets


@dataclass
class FusionData:
    """What the fusion is fitted on; n rows.

    Args:
        encoder_logits: float32 `(n, K)`, out-of-fold.
        llm_scores: float32 `(n, P, K)`, NaN for missing.
        labels: int64 `(n,)` or float32 `(n, K)`.
        multi_label: Whether the classes are independent.
        floor: Smallest probability before the logarithm, the config's `score_floor`.
        embeddings: float32 `(n, hidden)` for the MLP; `None`: no MLP.
        label_sets: What judges the classes of the fused rows together; `None`: each stands by itself.
    """

    encoder_logits: torch.Tensor
    llm_scores: torch.Tensor
    labels: torch.Tensor
    multi_label: bool
    floor: float
    embeddings: torch.Tensor | None = None
    label_sets: LabelSets | None = None
    evidence: torch.Tensor = field(init=False)
    mask: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.evidence, self.mask = pool_features(self.llm_scores, self.multi_label, self.floor)

    def rows(self, index: torch.Tensor) -> "FusionData":
        """The same for the rows of a boolean or integer index."""
        embeddings = None if self.embeddings is None else self.embeddings[index]
        label_sets = None if self.label_sets is None else self.label_sets.rows(index)
        return FusionData(
            self.encoder_logits[index],
            self.llm_scores[index],
            self.labels[index],
            self.multi_label,
            self.floor,
            embeddings,
            label_sets,
        )

    def answer(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits that the model answers with, float `(n, K)`, of those that were pooled class by class."""
        return logits if self.label_sets is None else self.label_sets(logits)

    def log_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of that answer, in nats, float `(n,)`."""
        return log_loss(self.answer(logits), self.labels, self.multi_label)

    def probabilities(self, logits: torch.Tensor) -> NDArray[np.float64]:
        """float64 `(n, K)` of logits that the model answers with."""
        return softmax_or_sigmoid(logits.numpy(), self.multi_label)
