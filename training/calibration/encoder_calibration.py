"""The step of the recipe that calibrates the encoder's side: temperature or vector scaling."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..losses import Targets, clearly_better, log_loss
from .calibration_maps import (
    Apply,
    Fit,
    candidate_maps,
    cross_fitted,
    fit_temperature,
    fit_vector_scaling,
    report_choice,
)

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState


def calibrate_encoder_logits(state: "FitState") -> "FitState":
    """Calibrate the out-of-fold logits of the encoder's side, and apply the same calibration to its heads."""
    rows = state.covered
    logits, temperature, report = calibrate_encoder(
        state.model, state.encoder_logits[rows], state.targets[rows], state.folds[rows], state.options.calibration
    )
    state.config.calibration = {"temperature": 1.0, "encoder_temperature": temperature}
    calibrated = state.encoder_logits.clone()
    calibrated[rows] = logits
    return replace(state.told(calibration={"encoder": report}), encoder_logits=calibrated)


def calibrate_encoder(
    model: "LabelFusionForSequenceClassification",
    logits: torch.Tensor,
    labels: Targets,
    folds: NDArray[np.int64],
    wanted: str,
) -> tuple[torch.Tensor, float, dict[str, Any]]:
    """Calibrate the encoder's side with a temperature, or a scale and bias per class that its heads absorb.

    With `"auto"` and enough rows, scale and bias are used unless their cross-fitted loss is worse by three standard
    errors. The margin is large because this loss is too high: the logits of each row come from heads that were fitted
    on the rows it is then tested on.

    Args:
        model: Its heads are changed in place.
        logits: float32 `(n, K)`, out-of-fold.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)`.
        wanted: One of `CALIBRATIONS`.

    Returns:
        Calibrated logits float32 `(n, K)`, `encoder_temperature` for the config, and the comparison: cross-fitted
        `log_loss` of each candidate, and metrics `before` and `after` the chosen one, fitted on all rows.
    """
    multi_label = model.config.multi_label

    def cool(x: torch.Tensor, y: Targets) -> Apply:
        temperature = fit_temperature(x, y, multi_label)
        return lambda x: x / temperature

    def scale(x: torch.Tensor, y: Targets) -> Apply:
        factor, bias = fit_vector_scaling(x, y, multi_label)
        return lambda x: x * factor + bias

    ways: dict[str, Fit] = {"none": lambda x, y: lambda x: x, "temperature": cool, "vector": scale}
    losses = {
        name: log_loss(cross_fitted(ways[name], logits, labels, folds), labels, multi_label)
        for name in candidate_maps(wanted, len(logits), "vector")
    }
    chosen = list(losses)[-1]
    if chosen == "vector" and wanted == "auto" and clearly_better(losses["temperature"], losses["vector"], 3.0):
        chosen = "temperature"
    out, temperature = ways[chosen](logits, labels)(logits), 1.0
    if chosen == "temperature":
        temperature = fit_temperature(logits, labels, multi_label)
    elif chosen == "vector":
        absorb(model, *fit_vector_scaling(logits, labels, multi_label))
    return out, temperature, report_choice(chosen, losses, logits, out, labels, multi_label)


@torch.no_grad()
def absorb(model: "LabelFusionForSequenceClassification", scale: torch.Tensor, bias: torch.Tensor) -> None:
    """Fold `logits * scale + bias`, both float32 `(K,)`, into the linear heads of `model`."""
    scale, bias = scale.to(model.device), bias.to(model.device)
    model.encoder_head.weight.mul_(scale[:, None])
    model.encoder_head.bias.mul_(scale).add_(bias)
    if model.lexical_head is not None:
        model.lexical_head.weight[:, :-1].mul_(scale)
    if model.kernel_head is not None:
        model.kernel_head.weight.mul_(scale)
