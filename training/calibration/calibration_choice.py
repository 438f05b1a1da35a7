"""Selects the flexibility of a calibration by its loss on held-out rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.metrics import calibration_error, softmax_or_sigmoid

CALIBRATIONS = ("auto", "none", "temperature", "vector", "isotonic")
FEWEST_ROWS = {"vector": 100, "isotonic": 300}

Apply = Callable[[torch.Tensor], torch.Tensor]
Fit = Callable[[torch.Tensor, torch.Tensor], Apply]


def cross_fitted(fit: Fit, x: torch.Tensor, labels: torch.Tensor, folds: NDArray[np.int64]) -> torch.Tensor:
    """Calibrate each row with a fit on the other folds.

    Args:
        fit: Fits on rows and labels, and returns a function that calibrates other rows.
        x: float `(n, K)`.
        labels: int64 `(n,)` or float `(n, K)`.
        folds: int64 `(n,)`.
    """
    out = torch.empty_like(x)
    for fold in np.unique(folds):
        held_out = torch.from_numpy(folds == fold)
        out[held_out] = fit(x[~held_out], labels[~held_out])(x[held_out])
    return out


def candidate_maps(wanted: str, rows: int, flexible: str) -> list[str]:
    """The candidates, from none to the flexible one. An explicit choice is the only one if there are enough rows."""
    enough = rows >= FEWEST_ROWS[flexible]
    if wanted == "auto":
        return ["none", "temperature", *([flexible] if enough else [])]
    return [wanted] if wanted == "none" or (wanted == flexible and enough) else ["temperature"]


def report_choice(
    chosen: str,
    losses: dict[str, torch.Tensor],
    before: torch.Tensor,
    after: torch.Tensor,
    labels: torch.Tensor,
    multi_label: bool,
) -> dict[str, Any]:
    """Report the choice, the comparison, and the metrics of logits `(n, K)` before and after calibration."""
    report: dict[str, Any] = {"chosen": chosen}
    report["log_loss"] = {name: round(float(loss.mean()), 5) for name, loss in losses.items()}
    for when, logits in (("before", before), ("after", after)):
        report[when] = calibration_error(softmax_or_sigmoid(logits.numpy(), multi_label), labels.numpy(), multi_label)
    return report
