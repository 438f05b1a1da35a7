"""Temperature scaling."""

import torch

from .losses import log_loss, minimize


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor, multi_label: bool) -> float:
    """The temperature that minimises the log loss of `logits / temperature` (Guo et al. 2017, arXiv:1706.04599).

    Args:
        logits: float `(n, K)`, out of sample.
        labels: int64 `(n,)` or float `(n, K)`.
        multi_label: Whether the classes are independent.

    Returns:
        A number between 0.05 and 20; pulled towards 1 by the weight of one row, so that few rows cannot be extreme.
    """
    if len(logits) == 0:
        return 1.0
    logits, labels = logits.double(), labels.double() if multi_label else labels
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def objective() -> torch.Tensor:
        return log_loss(logits / log_t.exp(), labels, multi_label).mean() + 0.5 * log_t.square() / len(logits)

    minimize(objective, [log_t], max_iter=50)
    return float(log_t.detach().exp().clamp(0.05, 20.0))
