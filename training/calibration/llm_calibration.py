"""The step of the recipe that calibrates the graded scores of each LLM, by isotonic regression."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.metrics import calibration_error
from ...modeling_labelfusion.monotone import Knots, map_scores
from ..fusion.fusion_data import FusionData
from ..fusion.fusion_fit import ALONE_PENALTY
from ..fusion.pool_fit import PoolPath
from ..losses import Targets, clearly_better, row_weights
from .calibration_maps import Apply, candidate_maps, cross_fitted, fit_score_map

if TYPE_CHECKING:
    from ..fit_state import FitState

FEWEST_VALUES = 5  # of graded scores, to two decimals


def calibrate_llm_scores(state: "FitState") -> "FitState":
    """Calibrate the scores of each LLM, cross-fitted, if this improves the LLM alone."""
    rows = state.fusable
    if not rows.any():
        return state
    maps, data, reports = calibrate_llms(state.fusion_data(), state.folds[rows], state.options.calibration)
    if any(maps):
        state.config.calibration["score_maps"] = maps
    scores = state.llm_scores.copy()
    scores[rows] = data.llm_scores.numpy()
    return replace(state.told(calibration={"llms": reports}), llm_scores=scores)


def calibrate_llms(
    data: FusionData, folds: NDArray[np.int64], wanted: str
) -> tuple[list[Knots | None], FusionData, list[dict[str, Any]]]:
    """Fit a monotone map of each LLM's graded scores, if it improves the LLM alone.

    Args:
        data: The rows that have scores.
        folds: int64 `(n,)`.
        wanted: One of `CALIBRATIONS`.

    Returns:
        One map or `None` per LLM, the data with cross-fitted scores, and the comparison for each LLM.
    """

    def fit(x: torch.Tensor, y: Targets) -> Apply:
        knots = fit_score_map(x, y, data.multi_label, data.floor)
        return lambda x: map_scores(x.unsqueeze(1), [knots], data.multi_label, data.floor).squeeze(1)

    maps: list[Knots | None] = []
    scores, reports = data.llm_scores.clone(), []
    for p in range(scores.shape[1]):
        own = data.llm_scores[:, p]
        heard = ~torch.isnan(own).any(dim=-1)
        # For hard answers only their weight could be calibrated, which the pool learns.
        graded = len(own[heard].round(decimals=2).unique()) >= FEWEST_VALUES
        steps = candidate_maps(wanted, int(heard.sum()), "isotonic") if graded else ["none"]
        report: dict[str, Any] = {"chosen": "none"}
        weights = row_weights(data.targets).numpy()
        report["before"] = calibration_error(own.numpy(), data.labels.numpy(), data.multi_label, weights)
        if "isotonic" in steps:
            mapped = cross_fitted(fit, own, data.targets, folds)
            ways = {"none": own, "isotonic": mapped}
            losses = {}
            for name, way in ways.items():
                trial = data.llm_scores.clone()
                trial[:, p] = way
                (alone,), _ = PoolPath((ALONE_PENALTY,), only=p).out_of_fold(replace(data, llm_scores=trial), folds)
                losses[name] = data.log_loss(alone)[heard]
            report["log_loss"] = {name: round(float(loss.mean()), 5) for name, loss in losses.items()}
            if wanted == "isotonic" or clearly_better(losses["isotonic"], losses["none"]):
                report["chosen"] = "isotonic"
                scores[:, p] = mapped
        maps.append(
            fit_score_map(own, data.targets, data.multi_label, data.floor) if report["chosen"] != "none" else None
        )
        reports.append(report)
    return maps, replace(data, llm_scores=scores), reports
