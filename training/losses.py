"""The log loss for both problem types, with or without weights, and the convex minimiser used by all fits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F

EPS = 1e-12


@dataclass(frozen=True)
class Weighted:
    """Labels of n rows with the weights of the rows. The fits treat it like a tensor of labels.

    Args:
        labels: int64 `(n,)`, or float `(n, K)` 0/1 for multi-label.
        weights: float `(n,)`, with a mean of 1 over all rows of the fit.
    """

    labels: torch.Tensor
    weights: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> "Weighted":
        return Weighted(self.labels[rows], self.weights[rows])

    def double(self) -> "Weighted":
        """In double precision."""
        return Weighted(self.labels.double(), self.weights.double())


Targets: TypeAlias = torch.Tensor | Weighted


def bare_labels(targets: Targets) -> torch.Tensor:
    """The labels without the weights."""
    return targets.labels if isinstance(targets, Weighted) else targets


def row_weights(targets: Targets) -> torch.Tensor:
    """float `(n,)`: the weights of the rows, 1 by default."""
    return targets.weights if isinstance(targets, Weighted) else torch.ones(len(targets))


def log_loss(logits: torch.Tensor, labels: Targets, multi_label: bool) -> torch.Tensor:
    """Negative log-likelihood of each row, in nats, times the weight of the row.

    Args:
        logits: float `(n, K)`.
        labels: int64 `(n,)`, or float `(n, K)` 0/1 for multi-label; or `Weighted`.
        multi_label: Whether the classes are independent; their losses are then summed.

    Returns:
        float `(n,)`.
    """
    if isinstance(labels, Weighted):
        return labels.weights * log_loss(logits, labels.labels, multi_label)
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=-1)
    return F.cross_entropy(logits, labels, reduction="none")


def clearly_better(loss: torch.Tensor, reference: torch.Tensor, errors: float = 0.5) -> bool:
    """Whether the mean of `loss` `(n,)` is below that of `reference` by `errors` standard errors of the difference."""
    gain = (reference - loss).double()
    return bool(gain.mean() > errors * gain.std(correction=0) / max(len(gain), 1) ** 0.5)


def minimize(objective: Callable[[], torch.Tensor], parameters: list[torch.Tensor], max_iter: int = 200) -> float:
    """Minimise a smooth convex objective over `parameters`, in place, with L-BFGS; returns its final value."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=max_iter, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return float(objective())
