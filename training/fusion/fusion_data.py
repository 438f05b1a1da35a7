"""The data for fitting the fusion: rows with LLM scores and out-of-fold outputs of the encoder."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import pool_features
from ...scoring.probabilities import to_probabilities
from ..losses import Targets, Weighted, log_loss
from .label_sets import LabelSets


@dataclass
class FusionData:
    """The data of n rows for fitting the fusion.

    Args:
        encoder_logits: float32 `(n, K)`, out-of-fold.
        llm_scores: float32 `(n, P, K)`, NaN for missing.
        labels: int64 `(n,)` or float32 `(n, K)`.
        multi_label: Whether the classes are independent.
        floor: Smallest probability before the logarithm, the config's `score_floor`.
        embeddings: float32 `(n, hidden)` for the MLP; `None`: no MLP.
        label_sets: Label-set heads for the fused rows; `None`: classes are independent.
        weights: float32 `(n,)`: weights of the rows; `None`: all are 1.
    """

    encoder_logits: torch.Tensor
    llm_scores: torch.Tensor
    labels: torch.Tensor
    multi_label: bool
    floor: float
    embeddings: torch.Tensor | None = None
    label_sets: LabelSets | None = None
    weights: torch.Tensor | None = None
    evidence: torch.Tensor = field(init=False)
    mask: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.evidence, self.mask = pool_features(self.llm_scores, self.multi_label, self.floor)

    def rows(self, index: torch.Tensor) -> "FusionData":
        """Select rows by a boolean or integer index."""
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
            None if self.weights is None else self.weights[index],
        )

    @property
    def targets(self) -> Targets:
        """The labels, with the weights of the rows if they have any."""
        return self.labels if self.weights is None else Weighted(self.labels, self.weights)

    @property
    def count(self) -> float:
        """The number of rows; with weights, their sum."""
        return max(float(len(self.labels) if self.weights is None else self.weights.sum()), 1.0)

    def answer(self, logits: torch.Tensor) -> torch.Tensor:
        """Final logits of the model, float `(n, K)`, from independent per-class logits."""
        return logits if self.label_sets is None else self.label_sets(logits)

    def log_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the final logits, in nats, float `(n,)`, times the weight of the row."""
        return log_loss(self.answer(logits), self.targets, self.multi_label)

    def probabilities(self, logits: torch.Tensor) -> NDArray[np.float64]:
        """Probabilities of final logits, float64 `(n, K)`."""
        return to_probabilities(logits.numpy(), self.multi_label)
