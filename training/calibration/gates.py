"""The step of the recipe that fits the gates of selective querying: which texts are worth an LLM call."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import pool_features
from ...modeling_labelfusion.monotone import calibrated
from ..fusion.fusion_data import FusionData
from .gate_fit import calibrate_cascade, calibrate_gate

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState


def fit_gates(state: "FitState") -> "FitState":
    """Fit the gate on out-of-fold answers without and with the LLMs. Several LLMs get an additional gate each."""
    if state.fused_logits is None:
        return state
    config, data, rows = state.config, state.fusion_data(), state.fusable
    folds, novelty = state.folds[rows], state.novelty[rows]
    encoder, scores, labels = state.encoder_probs[rows], data.llm_scores.numpy(), data.labels.numpy()
    gate = calibrate_gate(encoder, state.probabilities, scores, labels, folds, config.decision_rule, novelty)
    if config.num_providers > 1:
        fuse = PartlyFused(state.model, data)
        gate["stages"] = calibrate_cascade(encoder, fuse, scores, labels, folds, novelty)
    config.calibration["gate"] = gate
    return state


class PartlyFused:
    """Fused answers to the rows of a fit, with some of their LLM scores hidden.

    Only the pool is used. The MLP was fitted on these rows, and its answers would be too good.

    Args:
        model: The model, fused and calibrated.
        data: The n rows that it was fused on, with calibrated scores.
    """

    def __init__(self, model: "LabelFusionForSequenceClassification", data: FusionData) -> None:
        self.model, self.data = model, data
        self.own = data.answer(data.encoder_logits)

    def __call__(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Compute probabilities float64 `(n, K)` from scores `(n, P, K)`, with NaN for hidden ones."""
        model, data, config = self.model, self.data, self.model.config
        given = torch.from_numpy(np.asarray(scores, dtype=np.float32))
        evidence, mask = pool_features(given, data.multi_label, config.score_floor)
        sources = (evidence, mask) if model.baseline is None else (given,)
        combine = model.score_pool if model.baseline is None else model.baseline
        with torch.no_grad():
            pooled = combine(*(x.to(model.device) for x in (data.encoder_logits, *sources))).float().cpu()
            pooled = calibrated(data.answer(pooled), config.calibration, data.multi_label)
        answered = mask.sum(dim=-1, keepdim=True) > 0
        return data.probabilities(torch.where(answered, pooled, self.own))
