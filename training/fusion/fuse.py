"""The step of the recipe that fits the fusion, on out-of-fold outputs of the encoder."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...evaluation.metrics import calibration_error
from .baseline_fit import fit_baseline, out_of_fold
from .fusion_fit import FusionFit, fit_fusion

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState
    from .fusion_data import FusionData


def fuse(state: "FitState") -> "FitState":
    """Fit the fusion that the config names. With too few scored rows, the default pool is kept."""
    config, model, rows = state.config, state.model, state.fusable
    if not rows.any():
        if config.num_providers and state.scored.any():
            usable = int((state.scored & state.covered).sum())
            return state.told(fusion={"rows": usable, "chosen": "default pool: too few scored rows to fit one"})
        return state
    data, folds = state.fusion_data(), state.folds[rows]
    if model.baseline is not None:
        model.baseline.load_state_dict(fit_baseline(config.fusion, data).state_dict())
        state = state.told(fusion={"rows": len(data.labels), "chosen": config.fusion})
        return replace(state, fused_logits=out_of_fold(config.fusion, data, folds))
    settings = {"fusion_hidden_size": config.fusion_hidden_size, "dropout": config.fusion_dropout}
    fit = fit_fusion(data, folds, fusion=config.fusion, mlp_kwargs=settings)
    _put_into(model, fit)
    state = _with_calibrated_llms(state.told(fusion=fit.report), fit, data)
    return replace(state, fused_logits=fit.out_of_fold_logits)


def _put_into(model: "LabelFusionForSequenceClassification", fit: FusionFit) -> None:
    model.score_pool.load_state_dict(fit.pool.state_dict())
    if model.fusion_mlp is not None:
        if fit.mlp is not None:
            model.fusion_mlp.load_state_dict(fit.mlp.state_dict())
        else:
            with torch.no_grad():
                model.fusion_mlp.out_proj.weight.zero_()
                model.fusion_mlp.out_proj.bias.zero_()


def _with_calibrated_llms(state: "FitState", fit: FusionFit, data: "FusionData") -> "FitState":
    """Add the metrics of each LLM after calibration by the pool to the report."""
    llms = []
    before = state.report.get("calibration", {}).get("llms", [])
    for report, logits, answered in zip(before, fit.sources[1:], data.mask.T > 0, strict=False):
        after = calibration_error(data.probabilities(logits[answered]), data.labels[answered].numpy(), data.multi_label)
        llms.append({**report, "after": after})
    return state.told(calibration={"llms": llms}) if llms else state
