"""Fits a linear head on frozen embeddings: fast, and the warm start of fine-tuning."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ...configuration import Task
from ..losses import Targets, log_loss, minimize

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
    logits, best, loss = cross_validate(embeddings, labels, folds, task, penalties)
    weight, bias = fit_head(embeddings, labels, task, penalties[: best + 1])
    return Probe(weight, bias, logits, penalties[best], loss)


def cross_validate(
    embeddings: torch.Tensor | dict[int, torch.Tensor],
    labels: Targets,
    folds: NDArray[np.int64],
    task: Task,
    penalties: tuple[float, ...] = PENALTIES,
) -> tuple[torch.Tensor, int, float]:
    """Choose the penalty of a probe by out-of-fold loss.

    Args:
        embeddings: float32 `(n, hidden)`; or, for an encoder that is trained on labels, one such tensor per fold, from
            an encoder that was not trained on that fold.
        labels: int64 `(n,)` or float32 `(n, K)`; or `Weighted`.
        folds: int64 `(n,)`; -1: never held out.
        task: The K classes.
        penalties: The candidates, from strong to weak.

    Returns:
        Out-of-fold logits float32 `(n, K)` (0 in rows that are never held out), the index of the penalty, and the mean
        log loss.
    """

    def unseen(fold: int) -> Iterator[torch.Tensor]:
        features, _, _ = _standardised(embeddings[fold] if isinstance(embeddings, dict) else embeddings)
        train, held_out = torch.from_numpy(folds != fold), torch.from_numpy(folds == fold)
        for w, b in _path(features[train], labels[train], task, penalties):
            yield F.linear(features[held_out], w, b)

    return best_penalty(unseen, labels, folds, task)


def best_penalty(
    unseen: Callable[[int], Iterator[torch.Tensor]],
    labels: Targets,
    folds: NDArray[np.int64],
    task: Task,
) -> tuple[torch.Tensor, int, float]:
    """Fit all folds, penalty by penalty, and stop when the loss rises, because weak penalties are the slowest.

    Args:
        unseen: Yields for a fold the logits `(rows, K)` of its rows from fits on the other folds, at each penalty.
        labels: int64 `(n,)` or float32 `(n, K)`; or `Weighted`.
        folds: int64 `(n,)`; -1: never held out.
        task: The K classes.

    Returns:
        As in `cross_validate`.
    """
    held_out = {int(fold): torch.from_numpy(folds == fold) for fold in np.unique(folds[folds >= 0])}
    covered = torch.from_numpy(folds >= 0)
    best_logits, best, least = torch.empty(0), 0, float("inf")
    for i, parts in enumerate(zip(*map(unseen, held_out), strict=True)):
        logits = torch.zeros(len(labels), task.num_labels)
        for rows, part in zip(held_out.values(), parts, strict=True):
            logits[rows] = part
        loss = float(log_loss(logits[covered], labels[covered], task.multi_label).mean())
        if loss < least:
            best_logits, best, least = logits, i, loss
        elif i > best + 1 or loss > 1.02 * least:
            break
    return best_logits, best, least


def fit_head(
    embeddings: torch.Tensor, labels: Targets, task: Task, penalties: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit weight `(K, hidden)` and bias `(K,)`, for the raw embeddings, at the last of the penalties."""
    features, mean, scale = _standardised(embeddings)
    *_, (w, b) = _path(features, labels, task, penalties)
    weight = w / scale
    return weight, b - weight @ mean


def set_head(model: "LabelFusionForSequenceClassification", weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Set weight `(K, hidden)` and bias `(K,)` of the encoder's head."""
    with torch.no_grad():
        model.encoder_head.weight.copy_(weight)
        model.encoder_head.bias.copy_(bias)


def _standardised(embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mean = embeddings.mean(dim=0)
    # One scale for all dimensions: a per-dimension scale would blow up dead dimensions (variance 1e-32).
    scale = (embeddings - mean).square().mean().sqrt().clamp_min(1e-6)
    return (embeddings - mean) / scale, mean, scale


def penalty_path(
    product: Callable[[torch.Tensor], torch.Tensor],
    num_features: int,
    y: Targets,
    task: Task,
    penalties: tuple[float, ...],
    max_iter: int = 60,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield weights `(K, num_features)` and biases `(K,)` of logistic regressions, each started from the previous one.

    `product` multiplies the features `(n, num_features)`, dense or sparse, with such weights. They have the layout of
    `nn.Linear`, because its gradient takes a quarter of the time of the transposed layout.
    """
    w = torch.zeros(task.num_labels, num_features, requires_grad=True)
    b = torch.zeros(task.num_labels, requires_grad=True)
    for penalty in penalties:

        def objective(penalty: float = penalty) -> torch.Tensor:
            return log_loss(product(w) + b, y, task.multi_label).mean() + 0.5 * penalty * w.square().sum() / len(y)

        minimize(objective, [w, b], max_iter=max_iter)
        yield w.detach().clone(), b.detach().clone()


def _path(
    x: torch.Tensor, y: Targets, task: Task, penalties: tuple[float, ...]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return penalty_path(lambda w: F.linear(x, w), x.shape[1], y, task, penalties)
