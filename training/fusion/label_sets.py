"""Fits the label-set head for dependent classes, and decides whether it is used."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ...modeling_labelfusion.heads import LabelSetHead
from ..losses import Targets, bare_labels, clearly_better, log_loss, minimize, row_weights

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState

PENALTY = 10.0
FEWEST_ROWS, MOST_SETS = 300, 256


@dataclass
class LabelSets:
    """Out-of-fold label-set heads for n rows: each row gets a head fitted on the other folds.

    Args:
        heads: One per fold.
        fold: int64 `(n,)`: the head of each row.
    """

    heads: list[LabelSetHead]
    fold: torch.Tensor

    @classmethod
    def fit(cls, logits: torch.Tensor, labels: Targets, folds: NDArray[np.int64]) -> "LabelSets":
        """Fit a head without each fold; the arguments are those of `choose_label_sets`."""
        names, fold = np.unique(folds, return_inverse=True)
        seen = [torch.from_numpy(folds != name) for name in names]
        return cls([fit_label_sets(logits[rows], labels[rows]) for rows in seen], torch.from_numpy(fold))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Map independent per-class logits to joint ones, both float `(n, K)`."""
        order, sizes, back = self._by_fold
        parts = logits[order].split(sizes)
        return torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True) if len(part)])[back]

    @cached_property
    def _by_fold(self) -> tuple[torch.Tensor, list[int], torch.Tensor]:
        """The rows sorted by fold, the number of rows per fold, and the position of each row in this order."""
        order = self.fold.argsort()
        return order, self.fold.bincount(minlength=len(self.heads)).tolist(), order.argsort()

    def rows(self, index: torch.Tensor) -> "LabelSets":
        """Select rows by a boolean or integer index."""
        return LabelSets(self.heads, self.fold[index])


def judge_classes_together(state: "FitState") -> "FitState":
    """Multi-label, with `calibration="auto"`: add a label-set head if it helps on held-out rows."""
    if not state.task.multi_label or state.options.calibration != "auto":
        return state
    rows = state.covered
    label_sets, report = choose_label_sets(
        state.model, state.encoder_logits[rows], state.targets[rows], state.folds[rows]
    )
    return replace(state.told(classes=report), label_sets=label_sets)


def choose_label_sets(
    model: "LabelFusionForSequenceClassification",
    logits: torch.Tensor,
    labels: Targets,
    folds: NDArray[np.int64],
) -> tuple[LabelSets | None, dict[str, Any]]:
    """Give `model` a label-set head if it is better by a standard error on held-out rows.

    Args:
        model: A multi-label model; changed in place.
        logits: float32 `(n, K)` of the encoder's side, out-of-fold and calibrated.
        labels: float32 `(n, K)` of 0/1.
        folds: int64 `(n,)`.

    Returns:
        The out-of-fold heads, or `None` if independent classes are better; and the comparison.
    """
    if len(logits) < FEWEST_ROWS or len(bare_labels(labels).unique(dim=0)) > MOST_SETS:
        return None, {}
    label_sets = LabelSets.fit(logits, labels, folds)
    losses = {"apart": log_loss(logits, labels, True), "together": log_loss(label_sets(logits), labels, True)}
    chosen = "together" if clearly_better(losses["together"], losses["apart"], errors=1.0) else "apart"
    report = {"chosen": chosen, "log_loss": {name: round(float(loss.mean()), 5) for name, loss in losses.items()}}
    if chosen == "apart":
        return None, report
    head = fit_label_sets(logits, labels)
    model.set_heads(label_set_size=len(head.sets))
    assert isinstance(model.label_set_head, LabelSetHead)
    model.label_set_head.load_state_dict(head.state_dict())
    return label_sets, report


def fit_label_sets(logits: torch.Tensor, labels: Targets) -> LabelSetHead:
    """Fit scale and biases to the label sets of the rows, with a penalty on the terms beyond single classes.

    The bias of a set is the sum of a term per class, a term per pair of classes and a term for their number, so that
    rare sets get reasonable biases.

    Args:
        logits: float32 `(n, K)`, out-of-fold and calibrated.
        labels: float32 `(n, K)` of 0/1.

    Returns:
        The head, with the sets of the rows, and a set of its own for each class that is in none of them.
    """
    num_labels = logits.shape[1]
    sets, target = bare_labels(labels).double().unique(dim=0, return_inverse=True)
    weights = row_weights(labels).double()
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
        return (weights * F.cross_entropy(scores, target, reduction="none")).mean() + 0.5 * held / len(logits)

    minimize(objective, [extra, weight], max_iter=100)
    head = LabelSetHead(len(sets), num_labels)
    with torch.no_grad():
        head.sets.copy_(sets)
        head.scale.copy_(1 + extra)
        head.bias.copy_(parts @ weight)
    return head
