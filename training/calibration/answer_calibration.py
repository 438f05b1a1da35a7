"""The step of the recipe that calibrates the fused answer: temperature scaling, isotonic regression."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.monotone import calibrated
from ..losses import Targets, clearly_better, log_loss
from .calibration_maps import Apply, Fit, candidate_maps, cross_fitted, fit_answer_map, fit_temperature, report_choice

if TYPE_CHECKING:
    from ..fit_state import FitState


def calibrate_answers(state: "FitState") -> "FitState":
    """Calibrate the out-of-fold fused logits. Without a fusion, the encoder's calibration is used."""
    if state.fused_logits is None:
        return state
    rows = state.fusable
    logits, found, report = calibrate_answer(
        state.fused_logits, state.targets[rows], state.folds[rows], state.task.multi_label, state.options.calibration
    )
    state.config.calibration |= found
    return replace(state.told(calibration={"answer": report}), fused_logits=logits)


def calibrate_answer(
    logits: torch.Tensor, labels: Targets, folds: NDArray[np.int64], multi_label: bool, wanted: str
) -> tuple[torch.Tensor, dict[str, Any], dict[str, Any]]:
    """Calibrate the fused answer with a temperature, optionally followed by a monotone map.

    Args:
        logits: float32 `(n, K)`, out-of-fold.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)`.
        multi_label: Whether the classes are independent.
        wanted: One of `CALIBRATIONS`.

    Returns:
        Calibrated logits float32 `(n, K)`, `temperature` and `answer_map` for the config, and the comparison.
    """

    def entries(name: str, x: torch.Tensor, y: Targets) -> dict[str, Any]:
        found: dict[str, Any] = {"temperature": 1.0 if name == "none" else fit_temperature(x, y, multi_label)}
        if name == "isotonic":
            found["answer_map"] = fit_answer_map(x / found["temperature"], y, multi_label)
        return found

    def way(name: str) -> Fit:
        def fit(x: torch.Tensor, y: Targets) -> Apply:
            found = entries(name, x, y)
            return lambda x: calibrated(x, found, multi_label)

        return fit

    outputs = {
        name: cross_fitted(way(name), logits, labels, folds) for name in candidate_maps(wanted, len(logits), "isotonic")
    }
    losses = {name: log_loss(out, labels, multi_label) for name, out in outputs.items()}
    chosen, *others = outputs
    for name in others:
        if clearly_better(losses[name], losses[chosen]):
            chosen = name
    report = report_choice(chosen, losses, logits, outputs[chosen], labels, multi_label)
    return outputs[chosen], entries(chosen, logits, labels), report
