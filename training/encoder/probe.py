"""Fits a linear head on frozen embeddings: fast, and the warm start of fine-tuning."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from ...configuration import Task
from ..losses import Targets
from .penalty_path import TOLERANCE, CrossFit, Features, cross_fit, penalty_path

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification

# Penalties on the weights of standardised embeddings, from strong to weak; each fit starts from the previous one.
PENALTIES = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)


@dataclass
class Probe:
    """A fitted linear head.

    Args:
        weight: float32 `(K, hidden)` and
        bias: float32 `(K,)`, for the raw embeddings, as `nn.Linear` holds them.
        out_of_fold_logits: float32 `(n, K)`: each row's logits from a head fitted on the other folds.
        penalty: The penalty that was chosen on these logits.
        loss: Their mean log loss.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    out_of_fold_logits: torch.Tensor
    penalty: float
    loss: float


def fit_probe(
    embeddings: torch.Tensor,
    labels: Targets,
    folds: NDArray[np.int64],
    task: Task,
    penalties: tuple[float, ...] = PENALTIES,
) -> Probe:
    """Fit a logistic regression on embeddings, with the penalty chosen by out-of-fold loss.

    Args:
        embeddings: float32 `(n, hidden)`.
        labels: int64 `(n,)` or float32 `(n, K)`; or `Weighted`.
        folds: int64 `(n,)` from `assign_folds`.
        task: The K classes.
        penalties: The candidates, from strong to weak.
    """
    axes = Axes.of(embeddings)
    features = axes.features()
    found = cross_fit(lambda _: features, labels, folds, task, penalties)
    weight, bias = axes.fit(labels, task, (penalties[found.best],), found.weights)
    return Probe(weight, bias, found.logits, penalties[found.best], found.loss)


def cross_validate(
    embeddings: torch.Tensor | dict[int, torch.Tensor],
    labels: Targets,
    folds: NDArray[np.int64],
    task: Task,
    penalties: tuple[float, ...] = PENALTIES,
) -> CrossFit:
    """Choose the penalty of a probe by out-of-fold loss.

    Args:
        embeddings: float32 `(n, hidden)`; or, for an encoder that is trained on labels, one such tensor per fold, from
            an encoder that was not trained on that fold.
        labels: int64 `(n,)` or float32 `(n, K)`; or `Weighted`.
        folds: int64 `(n,)`; -1: never held out.
        task: The K classes.
        penalties: The candidates, from strong to weak.
    """
    if isinstance(embeddings, dict):
        by_fold = {fold: Axes.of(of_fold).points for fold, of_fold in embeddings.items()}
        return cross_fit(lambda group: _stacked([by_fold[i] for i in group]), labels, folds, task, penalties)
    features = Axes.of(embeddings).features()
    return cross_fit(lambda _: features, labels, folds, task, penalties)


def fit_head(
    embeddings: torch.Tensor, labels: Targets, task: Task, penalties: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit weight `(K, hidden)` and bias `(K,)`, for the raw embeddings, at the last of the penalties."""
    return Axes.of(embeddings).fit(labels, task, penalties)


def set_head(model: "LabelFusionForSequenceClassification", weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Set weight `(K, hidden)` and bias `(K,)` of the encoder's head."""
    with torch.no_grad():
        model.encoder_head.weight.copy_(weight)
        model.encoder_head.bias.copy_(bias)


@dataclass
class Axes:
    """Embeddings in the coordinates of their principal axes, in which a fit with a penalty needs few iterations.

    Args:
        points: float32 `(n, rank)`: standardised embeddings.
        axes: float32 `(hidden, rank)` and
        mean: float32 `(hidden,)`: `points = (embeddings - mean) @ axes`, up to the scale.
        scale: One for all dimensions: a scale of its own would blow up a dead dimension (variance 1e-32).
    """

    points: torch.Tensor
    axes: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, embeddings: torch.Tensor) -> "Axes":
        """Of float32 `(n, hidden)`."""
        mean = embeddings.mean(dim=0)
        scale = (embeddings - mean).square().mean().sqrt().clamp_min(1e-6)
        x = (embeddings - mean) / scale
        tall = len(x) >= x.shape[1]
        squares, vectors = torch.linalg.eigh(x.T @ x if tall else x @ x.T)
        kept = squares > 1e-6 * squares[-1].clamp_min(1e-6)
        axes = vectors[:, kept] if tall else x.T @ (vectors[:, kept] / squares[kept].sqrt())
        return cls(x @ axes, axes, mean, scale)

    def features(self) -> Features:
        """The points as the features of any number of fits."""
        # Both products have the many rows on the right: for few classes, the other way takes up to five times as long.
        points, (n, size) = self.points, self.points.shape

        def forward(weights: torch.Tensor) -> torch.Tensor:
            return (weights.reshape(size, -1).T.contiguous() @ points.T).T.reshape(n, *weights.shape[1:])

        def backward(errors: torch.Tensor) -> torch.Tensor:
            return (errors.reshape(n, -1).T @ points).T.reshape(size, *errors.shape[1:])

        return Features(forward, backward, points.square().mean(dim=0)[:, None])

    def fit(
        self, labels: Targets, task: Task, penalties: tuple[float, ...], start: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit all rows; weight `(K, hidden)` and bias `(K,)`, for the raw embeddings, at the last of the penalties."""
        seen = torch.ones(len(self.points), 1, dtype=torch.bool)
        *_, (weights, _) = penalty_path(self.features(), labels, seen, task, penalties, TOLERANCE / 10, start)
        weight = (self.axes @ weights[:-1, 0]).T / self.scale
        return weight, weights[-1, 0] - weight @ self.mean


def _stacked(points: list[torch.Tensor]) -> Features:
    """Fits with points `(n, rank)` of their own."""
    stacked = pad_sequence([x.T for x in points], batch_first=True)  # (fits, rank, n)

    def forward(weights: torch.Tensor) -> torch.Tensor:
        return torch.bmm(stacked.transpose(1, 2), weights.transpose(0, 1)).transpose(0, 1)

    def backward(errors: torch.Tensor) -> torch.Tensor:
        return torch.bmm(stacked, errors.transpose(0, 1)).transpose(0, 1)

    return Features(forward, backward, stacked.square().mean(dim=2).T)
