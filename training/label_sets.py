"""Classes that come together or exclude each other: fitting the label-set head, and whether it is worth having."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..modeling_labelfusion.heads import LabelSetHead
from .calibration_choice import cross_fitted
from .losses import clearly_better, log_loss, minimize

if TYPE_CHECKING:
    from ..modeling_labelfusion import LabelFusionForSequenceClassification

PENALTY = 10.0
FEWEST_ROWS, MOST_SETS = 300, 256


def choose_label_sets(
    model: "LabelFusionForSequenceClassification",
    logits: torch.Tensor,
    labels: torch.Tensor,
    folds: NDArray[np.int64],
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Give `model` a label-set head if, on rows that it was not fitted on, it is better by a standard error.

    Args:
        model: A multi-label model; changed in place.
        logits: float32 `(n, K)` of the encoder's side, out of sample and calibrated.
        labels: float32 `(n, K)` of 0/1.
        folds: int64 `(n,)`.

    Returns:
        float32 `(n, K)`: the logits, or what the heads of the other folds make of them; and what was compared.
    """
    if len(logits) < FEWEST_ROWS or len(labels.unique(dim=0)) > MOST_SETS:
        return logits, {}
    joint = cross_fitted(fit_label_sets, logits, labels, folds)
    losses = {"apart": log_loss(logits, labels, True), "together": log_loss(joint, labels, True)}
    chosen = "together" if clearly_better(losses["together"], losses["apart"], errors=1.0) else "apart"
    report = {"chosen": chosen, "log_loss": {name: round(float(loss.mean()), 5) for name, loss in losses.items()}}
    if chosen == "apart":
        return logits, report
    head = fit_label_sets(logits, labels)
    model.set_heads(label_set_size=len(head.sets))
    assert isinstance(model.label_set_head, LabelSetHead)
    model.label_set_head.load_state_dict(head.state_dict())
    return joint, report


def fit_label_sets(logits: torch.Tensor, labels: torch.Tensor) -> LabelSetHead:
    """Fit scale and biases to the label sets of the rows; what a set has beyond its classes is penalised.

    The bias of a set is the sum of one for each of its classes, one for each pair of them and one for their number, so
    that a set which few rows have is judged by its parts.

    Args:
        logits: float32 `(n, K)`, out of sample and calibrated.
        labels: float32 `(n, K)` of 0/1.

    Returns:
        The head, with the sets of the rows, and each class alone that is in none of them.
    """
    num_labels = labels.shape[1]
    sets, target = labels.double().unique(dim=0, return_inverse=True)
    sets = torch.cat([sets, torch.eye(num_labels, dtype=sets.dtype)[~(sets > 0).any(dim=0)]])
    first, second = torch.triu_indices(num_labels, num_labels, 1)
    pairs = sets[:, first] * sets[:, second]
    number = F.one_hot(sets.sum(dim=1).long(), num_labels + 1)
    parts = torch.cat([sets, pairs[:, (pairs > 0).any(dim=0)], number], dim=1)
    known = logits.double()
    extra, weight = (sets.new_zeros(size, requires_grad=True) for size in (num_labels, parts.shape[1]))

    def objective() -> torch.Tensor:
        scores = known * (1 + extra) @ sets.T + parts @ weight
        held = PENALTY * (extra.square().sum() + weight.square().sum())
        return F.cross_entropy(scores, target) + 0.5 * held / len(logits)

    minimize(objective, [extra, weight], max_iter=100)
    head = LabelSetHead(len(sets), num_labels)
    with torch.no_grad():
        head.sets.copy_(sets)
        head.scale.copy_(1 + extra)
        head.bias.copy_(parts @ weight)
    return head
