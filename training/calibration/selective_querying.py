"""What the dial of cost needs at prediction time, from the out-of-sample outputs of a fit: the gates and the risks."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import pool_features
from ...modeling_labelfusion.monotone import calibrated
from ...routing.gate import gate_values
from ..fusion.fusion_data import FusionData
from ..metrics import softmax_or_sigmoid
from .gate_fit import calibrate_cascade, calibrate_gate
from .risk_fit import calibrate_risk

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification


def calibrate_dial(
    model: "LabelFusionForSequenceClassification",
    data: FusionData,
    logits: torch.Tensor,
    folds: NDArray[np.int64],
    novelty: NDArray[np.floating] | None = None,
) -> dict[str, Any]:
    """Calibrate the gates and what risk control needs.

    Args:
        model: The model, fused, with its calibration and thresholds.
        data: The n rows that it was fused on, with calibrated sources.
        logits: float `(n, K)`: fused and calibrated, out of sample.
        folds: int64 `(n,)`.
        novelty: float `(n,)`: of texts that `NoveltyHead` had not seen.

    Returns:
        `gate` and `risk` for `config.calibration`; with several LLMs the gate has one entry a stage.
    """
    config = model.config
    multi_label = config.multi_label
    own, llm_scores, labels = data.answer(data.encoder_logits), data.llm_scores.numpy(), data.labels.numpy()
    encoder = softmax_or_sigmoid(own.numpy(), multi_label)
    fused = softmax_or_sigmoid(logits.numpy(), multi_label)
    decisions = (config.thresholds, config.min_labels)
    gate = calibrate_gate(encoder, fused, llm_scores, labels, multi_label, folds, *decisions, novelty)

    def fuse(scores: NDArray[np.floating]) -> NDArray[np.float64]:
        # The pool without the MLP, which has seen these rows and would look too good on them.
        given = torch.from_numpy(np.asarray(scores, dtype=np.float32))
        evidence, mask = pool_features(given, multi_label, config.score_floor)
        sources = (evidence, mask) if model.baseline is None else (given,)
        combine = model.score_pool if model.baseline is None else model.baseline
        with torch.no_grad():
            pooled = combine(*(x.to(model.device) for x in (data.encoder_logits, *sources))).float().cpu()
            pooled = calibrated(data.answer(pooled), config.calibration, multi_label)
        answered = mask.sum(dim=-1, keepdim=True) > 0
        return softmax_or_sigmoid(torch.where(answered, pooled, own).numpy(), multi_label)

    if config.num_providers > 1:
        gate["stages"] = calibrate_cascade(encoder, fuse, llm_scores, labels, multi_label, folds, novelty)
    values = gate_values(encoder, {"gate": gate}, multi_label, novelty=novelty)[0]
    return {"gate": gate, "risk": calibrate_risk(encoder, fused, values, labels, multi_label, *decisions)}
