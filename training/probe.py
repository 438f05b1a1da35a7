"""A linear head on frozen embeddings: the encoder's side in seconds, and the warm start of fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .losses import log_loss, minimize

# Strength of the penalty on the weights of standardised embeddings, from strong to weak: a path that is warm-started.
PENALTIES = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)


@dataclass
class Probe:
    """A fitted linear head.

    Args:
        weight: float32 `(K, hidden)` and
        bias: float32 `(K,)`, for the raw embeddings, as `nn.Linear` holds them.
        out_of_fold_logits: float32 `(n, K)`: each row's logits from a head that has not seen its fold.
        penalty: The penalty that was chosen on them.
        loss: Their mean log loss.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    out_of_fold_logits: torch.Tensor
    penalty: float
    loss: float


def fit_probe(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    folds: NDArray[np.int64],
    num_labels: int,
    multi_label: bool,
    penalties: tuple[float, ...] = PENALTIES,
) -> Probe:
    """Fit a logistic regression on embeddings, its penalty chosen on out-of-fold loss.

    Args:
        embeddings: float32 `(n, hidden)`.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)` from `assign_folds`.
        num_labels: K.
        multi_label: Whether the classes are independent.
        penalties: The candidates, from strong to weak.
    """
    mean = embeddings.mean(dim=0)
    # One scale for all dimensions: dead dimensions (variance 1e-32) would blow up under a scale of their own.
    scale = (embeddings - mean).square().mean().sqrt().clamp_min(1e-6)
    features = (embeddings - mean) / scale
    paths = []
    for fold in np.unique(folds):
        train, held_out = torch.from_numpy(folds != fold), torch.from_numpy(folds == fold)
        path = _path(features[train], labels[train], num_labels, multi_label, penalties)
        paths.append((held_out, [features[held_out] @ w + b for w, b in path]))
    candidates = []
    for i in range(len(penalties)):
        logits = torch.empty(len(features), num_labels)
        for held_out, outputs in paths:
            logits[held_out] = outputs[i]
        candidates.append((float(log_loss(logits, labels, multi_label).mean()), i, logits))
    loss, best, logits = min(candidates, key=lambda c: c[:2])
    w, b = _path(features, labels, num_labels, multi_label, penalties[: best + 1])[-1]
    weight = (w / scale).T.contiguous()
    return Probe(weight, b - weight @ mean, logits, penalties[best], loss)


def penalty_path(
    product: Callable[[torch.Tensor], torch.Tensor],
    num_features: int,
    y: torch.Tensor,
    num_labels: int,
    multi_label: bool,
    penalties: tuple[float, ...],
    max_iter: int = 60,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights `(num_features, K)` and biases `(K,)` of logistic regressions, each started from the one before.

    `product` multiplies the features `(n, num_features)`, dense or sparse, with weights.
    """
    w = torch.zeros(num_features, num_labels, requires_grad=True)
    b = torch.zeros(num_labels, requires_grad=True)
    fits = []
    for penalty in penalties:

        def objective(penalty: float = penalty) -> torch.Tensor:
            return log_loss(product(w) + b, y, multi_label).mean() + 0.5 * penalty * w.square().sum() / len(y)

        minimize(objective, [w, b], max_iter=max_iter)
        fits.append((w.detach().clone(), b.detach().clone()))
    return fits


def _path(
    x: torch.Tensor, y: torch.Tensor, num_labels: int, multi_label: bool, penalties: tuple[float, ...]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return penalty_path(lambda w: x @ w, x.shape[1], y, num_labels, multi_label, penalties)
