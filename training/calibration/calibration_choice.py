"""How much calibration each source and the answer get: as much as held-out rows show to help, and no more."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.monotone import Knots, calibrated, map_scores
from ..fusion.fusion_data import FusionData
from ..fusion.fusion_fit import ALONE_PENALTY, pool_out_of_fold
from ..losses import clearly_better, log_loss
from ..metrics import classification_metrics, softmax_or_sigmoid
from .calibration_maps import fit_answer_map, fit_score_map, fit_temperature, fit_vector_scaling

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification

CALIBRATIONS = ("auto", "none", "temperature", "vector", "isotonic")
FEWEST_ROWS = {"vector": 100, "isotonic": 300}
FEWEST_VALUES = 5  # of graded scores, to two decimals

Apply = Callable[[torch.Tensor], torch.Tensor]
Fit = Callable[[torch.Tensor, torch.Tensor], Apply]


def calibrate_encoder(
    model: "LabelFusionForSequenceClassification",
    logits: torch.Tensor,
    labels: torch.Tensor,
    folds: NDArray[np.int64],
    wanted: str,
) -> tuple[torch.Tensor, float, dict[str, Any]]:
    """Calibrate the encoder's side: a temperature, or a scale and bias for each class, which its heads absorb.

    With `"auto"` and rows enough it is the latter, unless its cross-fitted loss is worse by three standard errors: that
    loss is too high, as the logits of each row come from heads that have seen the rows it is then tested on.

    Args:
        model: Its heads are changed in place.
        logits: float32 `(n, K)`, out of sample.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)`.
        wanted: One of `CALIBRATIONS`.

    Returns:
        Calibrated logits float32 `(n, K)`, `encoder_temperature` for the config, and what was compared: cross-fitted
        `log_loss` of each, and figures `before` and `after` the one chosen, fitted on all rows.
    """
    multi_label = model.config.multi_label

    def cool(x: torch.Tensor, y: torch.Tensor) -> Apply:
        temperature = fit_temperature(x, y, multi_label)
        return lambda x: x / temperature

    def scale(x: torch.Tensor, y: torch.Tensor) -> Apply:
        factor, bias = fit_vector_scaling(x, y, multi_label)
        return lambda x: x * factor + bias

    ways: dict[str, Fit] = {"none": lambda x, y: lambda x: x, "temperature": cool, "vector": scale}
    losses = {
        name: log_loss(cross_fitted(ways[name], logits, labels, folds), labels, multi_label)
        for name in _steps(wanted, len(logits), "vector")
    }
    chosen = list(losses)[-1]
    if chosen == "vector" and wanted == "auto" and clearly_better(losses["temperature"], losses["vector"], 3.0):
        chosen = "temperature"
    out, temperature = ways[chosen](logits, labels)(logits), 1.0
    if chosen == "temperature":
        temperature = fit_temperature(logits, labels, multi_label)
    elif chosen == "vector":
        absorb(model, *fit_vector_scaling(logits, labels, multi_label))
    return out, temperature, _report(chosen, losses, logits, out, labels, multi_label)


@torch.no_grad()
def absorb(model: "LabelFusionForSequenceClassification", scale: torch.Tensor, bias: torch.Tensor) -> None:
    """Put `logits * scale + bias` into the heads of `model`, which are all linear; float32 `(K,)` both."""
    scale, bias = scale.to(model.device), bias.to(model.device)
    model.encoder_head.weight.mul_(scale[:, None])
    model.encoder_head.bias.mul_(scale).add_(bias)
    if model.lexical_head is not None:
        model.lexical_head.weight[:, :-1].mul_(scale)
    if model.kernel_head is not None:
        model.kernel_head.weight.mul_(scale)


def calibrate_llms(
    data: FusionData, folds: NDArray[np.int64], wanted: str
) -> tuple[list[Knots | None], FusionData, list[dict[str, Any]]]:
    """A monotone map of each LLM's graded scores, where it makes the LLM alone better.

    Args:
        data: The rows that have scores.
        folds: int64 `(n,)`.
        wanted: One of `CALIBRATIONS`.

    Returns:
        One map or `None` an LLM, the data with cross-fitted scores, and what was compared for each LLM.
    """

    def fit(x: torch.Tensor, y: torch.Tensor) -> Apply:
        knots = fit_score_map(x, y, data.multi_label, data.floor)
        return lambda x: map_scores(x.unsqueeze(1), [knots], data.multi_label, data.floor).squeeze(1)

    maps: list[Knots | None] = []
    scores, reports = data.llm_scores.clone(), []
    for p in range(scores.shape[1]):
        own = data.llm_scores[:, p]
        heard = ~torch.isnan(own).any(dim=-1)
        # Hard answers have nothing to map but their weight, which is the pool's.
        graded = len(own[heard].round(decimals=2).unique()) >= FEWEST_VALUES
        steps = _steps(wanted, int(heard.sum()), "isotonic") if graded else ["none"]
        report: dict[str, Any] = {"chosen": "none"}
        report["before"] = calibration_error(own.numpy(), data.labels.numpy(), data.multi_label)
        if "isotonic" in steps:
            mapped = cross_fitted(fit, own, data.labels, folds)
            ways = {"none": own, "isotonic": mapped}
            losses = {}
            for name, way in ways.items():
                trial = data.llm_scores.clone()
                trial[:, p] = way
                (alone,), _ = pool_out_of_fold(replace(data, llm_scores=trial), folds, (ALONE_PENALTY,), only=p)
                losses[name] = data.log_loss(alone)[heard]
            report["log_loss"] = {name: round(float(loss.mean()), 5) for name, loss in losses.items()}
            if wanted == "isotonic" or clearly_better(losses["isotonic"], losses["none"]):
                report["chosen"] = "isotonic"
                scores[:, p] = mapped
        maps.append(
            fit_score_map(own, data.labels, data.multi_label, data.floor) if report["chosen"] != "none" else None
        )
        reports.append(report)
    return maps, replace(data, llm_scores=scores), reports


def add_after(reports: list[dict[str, Any]], alone: list[torch.Tensor], data: FusionData) -> None:
    """Complete the reports of `calibrate_llms` by the LLMs' out-of-fold logits float32 `(n, K)` that the pool made."""
    for report, logits, heard in zip(reports, alone, data.mask.T > 0, strict=True):
        after = softmax_or_sigmoid(logits[heard].numpy(), data.multi_label)
        report["after"] = calibration_error(after, data.labels[heard].numpy(), data.multi_label)


def calibrate_answer(
    logits: torch.Tensor, labels: torch.Tensor, folds: NDArray[np.int64], multi_label: bool, wanted: str
) -> tuple[torch.Tensor, dict[str, Any], dict[str, Any]]:
    """Calibrate the fused answer: a temperature, and on top of it a monotone map.

    Args:
        logits: float32 `(n, K)`, out of sample.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)`.
        multi_label: Whether the classes are independent.
        wanted: One of `CALIBRATIONS`.

    Returns:
        Calibrated logits float32 `(n, K)`, `temperature` and `answer_map` for the config, and what was compared.
    """

    def entries(name: str, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        found: dict[str, Any] = {"temperature": 1.0 if name == "none" else fit_temperature(x, y, multi_label)}
        if name == "isotonic":
            found["answer_map"] = fit_answer_map(x / found["temperature"], y, multi_label)
        return found

    def way(name: str) -> Fit:
        def fit(x: torch.Tensor, y: torch.Tensor) -> Apply:
            found = entries(name, x, y)
            return lambda x: calibrated(x, found, multi_label)

        return fit

    outputs = {name: cross_fitted(way(name), logits, labels, folds) for name in _steps(wanted, len(logits), "isotonic")}
    losses = {name: log_loss(out, labels, multi_label) for name, out in outputs.items()}
    chosen, *others = outputs
    for name in others:
        if clearly_better(losses[name], losses[chosen]):
            chosen = name
    report = _report(chosen, losses, logits, outputs[chosen], labels, multi_label)
    return outputs[chosen], entries(chosen, logits, labels), report


def cross_fitted(fit: Fit, x: torch.Tensor, labels: torch.Tensor, folds: NDArray[np.int64]) -> torch.Tensor:
    """Each row as calibrated by a fit that has not seen its fold.

    Args:
        fit: From rows and their labels to what calibrates other rows.
        x: float `(n, K)`.
        labels: int64 `(n,)` or float `(n, K)`.
        folds: int64 `(n,)`.
    """
    out = torch.empty_like(x)
    for fold in np.unique(folds):
        held_out = torch.from_numpy(folds == fold)
        out[held_out] = fit(x[~held_out], labels[~held_out])(x[held_out])
    return out


def calibration_error(probabilities: NDArray[np.floating], labels: NDArray[Any], multi_label: bool) -> dict[str, float]:
    """`brier` and `ece` of `classification_metrics`, of the rows without NaN; rounded, for the report."""
    rows = ~np.isnan(probabilities).any(axis=1)
    if not rows.any():
        return {}
    metrics = classification_metrics(probabilities[rows], labels[rows], multi_label)
    return {name: round(metrics[name], 5) for name in ("log_loss", "brier", "ece")}


def _steps(wanted: str, rows: int, flexible: str) -> list[str]:
    """The candidates, from none to the flexible one; an explicit one stands alone where it has rows enough."""
    enough = rows >= FEWEST_ROWS[flexible]
    if wanted == "auto":
        return ["none", "temperature", *([flexible] if enough else [])]
    return [wanted] if wanted == "none" or (wanted == flexible and enough) else ["temperature"]


def _report(
    chosen: str,
    losses: dict[str, torch.Tensor],
    before: torch.Tensor,
    after: torch.Tensor,
    labels: torch.Tensor,
    multi_label: bool,
) -> dict[str, Any]:
    report: dict[str, Any] = {"chosen": chosen}
    report["log_loss"] = {name: round(float(loss.mean()), 5) for name, loss in losses.items()}
    for when, logits in (("before", before), ("after", after)):
        report[when] = calibration_error(softmax_or_sigmoid(logits.numpy(), multi_label), labels.numpy(), multi_label)
    return report
