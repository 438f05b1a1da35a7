"""The log loss for both problem types, and the convex minimiser used by all fits."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

EPS = 1e-12


def log_loss(logits: torch.Tensor, labels: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Negative log-likelihood of each row, in nats.

    Args:
        logits: float `(n, K)`.
        labels: int64 `(n,)`, or float `(n, K)` 0/1 for multi-label.
        multi_label: Whether the classes are independent; their losses are then summed.

    Returns:
        float `(n,)`.
    """
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
