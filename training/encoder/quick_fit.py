"""The steps of the recipe that fit the quick head, and calibrate which texts it may answer without the encoder."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ...modeling_labelfusion.heads import PAIR_BUCKETS, QuickHead
from ...routing.decisions import decide
from ...routing.gate import expected_error
from ...routing.speed import SPEEDS, quick_threshold
from ...scoring.probabilities import to_probabilities
from ..calibration.calibration_maps import fit_temperature
from .encoder_sources import stack
from .probe import fit_probe

if TYPE_CHECKING:
    from ...configuration import DecisionRule
    from ..fit_state import FitState


def fit_quick_head(state: "FitState") -> "FitState":
    """Fit the quick head: a probe on mean token embeddings, stacked with the TF-IDF head that was fitted before.

    An encoder that was trained in all layers has token embeddings that were trained on the labels. This is neglected,
    because fine-tuning moves them little, and the probe on them is fitted out of fold.
    """
    words = state.words
    if words is None:
        return state
    targets, multi_label = state.targets, state.task.multi_label
    table = state.model.get_input_embeddings().weight.detach().float().cpu()  # type: ignore[union-attr,operator]
    batches = state.encoder.token_batches(state.texts)
    means = [_mean_embeddings(table, x["input_ids"], x["attention_mask"]) for x in batches]
    probe = fit_probe(torch.cat(means), targets, state.folds, state.task)
    own, other = stack([probe.out_of_fold_logits, words.out_of_fold_logits], targets, multi_label)
    logits = own * probe.out_of_fold_logits + other * words.out_of_fold_logits
    temperature = fit_temperature(logits, targets, multi_label)
    size = len(table) + PAIR_BUCKETS
    state.model.set_heads(quick_size=size)
    head = state.model.quick_head
    assert isinstance(head, QuickHead)
    with torch.no_grad():
        head.static[:-1] = own / temperature * (table @ probe.weight.T)
        head.words.weight.copy_(words.weight)
        head.words.weight[:, :-1].mul_(other / temperature)
        head.bias.copy_((own * probe.bias + other * words.bias) / temperature)
    return replace(state, quick_logits=logits / temperature)


def fit_speeds(state: "FitState") -> "FitState":
    """Calibrate `speed` on out-of-fold answers: from which certainty on the quick head answers.

    The loss of a quick answer is the probability that the whole model gives to its own answer, less that which it gives
    to the quick one. It varies less than the difference of two answers' correctness, and needs fewer rows.
    """
    rows = state.covered
    if not len(state.quick_logits) or not rows.any():
        return state
    whole = state.encoder_probs[rows]
    if state.fused_logits is not None:
        whole[state.fusable[rows]] = state.probabilities
    quick = to_probabilities(state.quick_logits[torch.from_numpy(rows)].numpy(), state.task.multi_label)
    error = expected_error(quick, state.task.multi_label)
    loss = lost_accuracy(whole, quick, state.task.multi_label, state.config.decision_rule)
    found = {name: quick_threshold(error, loss, most) for name, most in SPEEDS.items() if most}
    state.config.calibration["speed"] = found
    shares = {name: 0.0 if t is None else round(float((error <= t).mean()), 4) for name, t in found.items()}
    return state.told(quick_share=shares)


def lost_accuracy(
    whole: NDArray[np.floating], quick: NDArray[np.floating], multi_label: bool, rule: "DecisionRule | None" = None
) -> NDArray[np.float64]:
    """Expected loss of accuracy for each text if the quick answer stands, float64 `(n,)`, 0 or more.

    Args:
        whole: float `(n, K)`: calibrated probabilities of the whole model.
        quick: float `(n, K)`: of the quick head.
        multi_label: Whether the classes are independent. Then a text is right if all of its classes are.
        rule: Multi-label: how probabilities become classes.
    """
    p = np.asarray(whole, dtype=np.float64)
    if multi_label:
        right = [np.where(decide(x, rule), p, 1.0 - p).prod(axis=1) for x in (p, quick)]
        return np.maximum(right[0] - right[1], 0.0)
    return np.asarray(p.max(axis=1) - p[np.arange(len(p)), quick.argmax(axis=1)])


def _mean_embeddings(table: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float32 `(batch, width)`: the mean of the rows `ids` of a table, where a mask is 1."""
    weights = mask.cpu().unsqueeze(-1).float()
    return (F.embedding(ids.cpu(), table) * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
