"""The step of the recipe that fits the gates of selective querying: which texts are worth an LLM call."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...configuration import DecisionRule
from ...evaluation.metrics import is_right
from ...evaluation.tradeoff_curve import gain_curve, gate_area
from ...modeling_labelfusion.fusion import pool_features
from ...modeling_labelfusion.monotone import calibrated
from ...routing.decisions import decided_classes
from ...routing.gate import NEVER, SHARES, Gate, expected_error, uncertainty
from ...routing.out_of_distribution import doubted
from ..fit_options import QUERY_PRICE
from ..fusion.fusion_data import FusionData

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState

STRENGTH = 20.0  # weight, in rows, of the average in the reliability of a class


def fit_gates(state: "FitState") -> "FitState":
    """Fit the gate on out-of-fold answers without and with the LLMs. Several LLMs get an additional gate each."""
    if state.fused_logits is None:
        return state
    config, data, rows = state.config, state.fusion_data(), state.fusable
    folds, novelty, price = state.folds[rows], state.novelty[rows], state.options.query_price
    encoder, scores, labels = state.encoder_probs[rows], data.llm_scores.numpy(), data.labels.numpy()
    gate = calibrate_gate(encoder, state.probabilities, scores, labels, folds, config.decision_rule, novelty, price)
    if config.num_providers > 1:
        fuse = PartlyFused(state.model, data)
        rule = config.decision_rule
        gate["stages"] = calibrate_cascade(encoder, fuse, scores, labels, folds, rule, novelty, price)
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


def fit_gate(probs: NDArray[np.floating], llm_scores: NDArray[np.floating], labels: NDArray[Any]) -> Gate:
    """Learn the reliability of the LLMs for each class, mainly on rows where the encoder is uncertain.

    An LLM is less reliable on texts that are hard for the encoder, so each row is weighted by its expected error.

    Args:
        probs: float `(n, K)`: out-of-sample probabilities without the LLMs.
        llm_scores: float `(n, P, K)`, NaN for missing. The mean over the LLMs is used, and rows without scores are left
            out.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
    """
    multi_label = labels.ndim == 2
    heard = ~np.isnan(llm_scores).any(axis=2).all(axis=1)
    probs, labels = probs[heard], labels[heard]
    there = ~np.isnan(llm_scores[heard]).any(axis=2)[:, :, None]
    says = np.where(there, llm_scores[heard], 0.0).sum(axis=1) / there.sum(axis=1)
    num_labels = probs.shape[1]
    weight = expected_error(probs, multi_label)[:, None] + 0.02
    weight = weight / weight.mean() if len(weight) else weight
    if multi_label:
        named, truth = says > 0.5, labels > 0
        recall = _shrunk((weight * (named & truth)).sum(axis=0), (weight * truth).sum(axis=0))
        rate = _shrunk((weight * ~(named | truth)).sum(axis=0), (weight * ~truth).sum(axis=0))
    else:
        named, truth = np.eye(num_labels)[says.argmax(axis=1)], np.eye(num_labels)[labels]
        recall = _shrunk((weight * named * truth).sum(axis=0), (weight * truth).sum(axis=0))
        rate = ((weight * named).sum(axis=0) + STRENGTH / num_labels) / (weight.sum() + STRENGTH)
    return Gate(recall.clip(1e-3, 1 - 1e-3), rate.clip(1e-3, 1 - 1e-3), multi_label)


def _shrunk(hits: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    average = (hits.sum() + 1.0) / (counts.sum() + 2.0)
    return np.asarray((hits + STRENGTH * average) / (counts + STRENGTH))


def calibrate_gate(
    encoder_probs: NDArray[np.floating],
    fused_probs: NDArray[np.floating],
    llm_scores: NDArray[np.floating],
    labels: NDArray[Any],
    folds: NDArray[np.int64],
    rule: DecisionRule | None = None,
    novelty: NDArray[np.floating] | None = None,
    price: float = QUERY_PRICE,
) -> dict[str, Any]:
    """Fit the gate with its threshold and held-out curve, as plain data for `config.calibration["gate"]`.

    Args:
        encoder_probs: float `(n, K)`, out-of-fold.
        fused_probs: float `(n, K)` of the same rows with their LLM scores, out-of-fold.
        llm_scores: float `(n, P, K)`, NaN for missing.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        folds: int64 `(n,)`: the value of each row comes from a gate fitted on the other folds.
        rule: Multi-label: how probabilities become labels.
        novelty: float `(n,)`, out of sample, see `doubted`.
        price: Price of a query, in right answers, see `fit_gate_threshold`.

    Returns:
        `Gate.to_dict` of the gate (without `recall` and `rate` if `uncertainty` was clearly better); `curve`:
        `accuracy` (multi-label: exact match) and `threshold` at each of 101 query shares from 0 to 1; `compared`: for
        each gate, the mean gain of its curve over querying at random; `price`.
    """
    multi_label = labels.ndim == 2
    gate, values = _cross_fitted(encoder_probs, llm_scores, labels, folds, novelty)
    soft = _truth(fused_probs, labels) - _truth(encoder_probs, labels)
    before, after = is_right(encoder_probs, labels, rule), is_right(fused_probs, labels, rule)
    gain = after.astype(float) - before
    found: dict[str, Any] = gate.to_dict()
    doubt = uncertainty(doubted(encoder_probs, novelty, multi_label), multi_label)
    ahead = soft * (_rank(doubt) - _rank(values))
    if ahead.mean() > 2 * ahead.std() / max(len(ahead), 1) ** 0.5:
        values, found = doubt, {"threshold": NEVER}
    found["threshold"] = fit_gate_threshold(values, expected_gain(encoder_probs, fused_probs, labels, rule), price)
    found["price"] = price
    found["curve"] = {
        "accuracy": [round(float(a), 5) for a in before.mean() + gain_curve(values, gain)],
        "threshold": [round(float(t), 6) for t in np.quantile(values, 1.0 - SHARES)] if len(values) else [],
    }
    ways = {"learnt": values, **simple_gates(encoder_probs, multi_label)}
    found["compared"] = {name: round(gate_area(v, gain), 5) for name, v in ways.items()}
    return found


def calibrate_cascade(
    encoder_probs: NDArray[np.floating],
    fuse: Callable[[NDArray[np.floating]], NDArray[np.floating]],
    llm_scores: NDArray[np.floating],
    labels: NDArray[Any],
    folds: NDArray[np.int64],
    rule: DecisionRule | None = None,
    novelty: NDArray[np.floating] | None = None,
    price: float = QUERY_PRICE,
) -> list[dict[str, Any]]:
    """Fit one gate for each of several LLMs, which are queried one after the other, from cheap to expensive.

    Each is fitted on the rows that passed the previous gates, because the next query depends on all answers so far
    (cascades: FrugalGPT, arXiv:2305.05176; online cascade learning, Nie et al. 2024, arXiv:2402.04513).

    Args:
        encoder_probs: float `(n, K)`, out-of-fold.
        fuse: Computes fused probabilities `(n, K)` from scores `(n, P, K)`, with NaN for hidden ones.
        llm_scores: float `(n, P, K)`, NaN for missing, in query order.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        folds: int64 `(n,)`.
        rule: Multi-label: how probabilities become labels.
        novelty: float `(n,)`, out of sample, see `doubted`.
        price: Price of a query, in right answers, see `fit_gate_threshold`.

    Returns:
        `Gate.to_dict` of each stage.
    """
    heard = np.full_like(llm_scores, np.nan)
    now, stages = encoder_probs, []
    for p in range(llm_scores.shape[1]):
        gate, values = _cross_fitted(now, llm_scores[:, p : p + 1], labels, folds, novelty)
        trial = heard.copy()
        trial[:, p] = llm_scores[:, p]
        gate.threshold = fit_gate_threshold(values, expected_gain(now, fuse(trial), labels, rule), price)
        asked = values > gate.threshold
        heard[asked, p] = llm_scores[asked, p]
        now = fuse(heard)
        stages.append(gate.to_dict())
    return stages


def _cross_fitted(
    probs: NDArray[np.floating],
    llm_scores: NDArray[np.floating],
    labels: NDArray[Any],
    folds: NDArray[np.int64],
    novelty: NDArray[np.floating] | None,
) -> tuple[Gate, NDArray[np.float64]]:
    """Fit the gate on all rows, and compute the value of each row with a gate fitted on the other folds."""
    values, trusted = np.empty(len(labels)), doubted(probs, novelty, labels.ndim == 2)
    for fold in np.unique(folds):
        rest = folds != fold
        values[~rest] = fit_gate(probs[rest], llm_scores[rest], labels[rest])(trusted[~rest])
    return fit_gate(probs, llm_scores, labels), values


def simple_gates(encoder_probs: NDArray[np.floating], multi_label: bool) -> dict[str, NDArray[np.float64]]:
    """Values of gates without learnt parameters, by name: float64 `(n,)` each, from float `(n, K)`."""
    probs = np.asarray(encoder_probs, dtype=np.float64).clip(1e-9, 1 - 1e-9)
    entropy = -(probs * np.log(probs)).sum(axis=1)
    if multi_label:
        entropy = entropy - ((1 - probs) * np.log1p(-probs)).sum(axis=1)
    return {
        "maximum probability": expected_error(probs, multi_label),
        "entropy": entropy,
        "margin": uncertainty(probs, multi_label),
    }


def expected_gain(
    before: NDArray[np.floating], after: NDArray[np.floating], labels: NDArray[Any], rule: DecisionRule | None = None
) -> NDArray[np.float64]:
    """How much a query raises the accuracy, for each row.

    This is the mean of two estimates: what the labels show (1, 0 or -1), which is unbiased but noisy, and what the
    probabilities after the query expect, scaled down to the same sum if they promise more. Both are 0 where the answer
    stays the same. If the labels show no gain in all, nothing is expected.

    Args:
        before: float `(n, K)`: probabilities without the answer.
        after: float `(n, K)`: probabilities with it, out of sample and calibrated.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        rule: Multi-label: how probabilities become labels.

    Returns:
        float64 `(n,)`, in accuracy (multi-label: exact match).
    """
    multi_label = labels.ndim == 2
    chosen = [decided_classes(probs, multi_label, rule) for probs in (before, after)]
    if multi_label:
        first, then = (np.where(classes, after, 1.0 - after).prod(axis=1) for classes in chosen)
    else:
        first, then = ((after * classes).sum(axis=1) for classes in chosen)
    shown = is_right(after, labels, rule).astype(np.float64) - is_right(before, labels, rule)
    if shown.sum() <= 0:
        return np.minimum(shown, 0.0)
    promised = then - first
    return np.asarray((shown + promised * min(1.0, shown.sum() / max(promised.sum(), 1e-9))) / 2)


def fit_gate_threshold(values: NDArray[np.floating], gain: NDArray[np.floating], price: float = QUERY_PRICE) -> float:
    """Choose the threshold with the largest gain after the price of the queries.

    So the texts just above it gain the price or more, and those just below it gain less.

    Args:
        values: float `(n,)`: gate values of the texts.
        gain: float `(n,)`: see `expected_gain`.
        price: Price of a query, in right answers: 0.02 means that 50 queries must bring one more right answer.

    Returns:
        A threshold; `NEVER` if no share of queries is worth its price.
    """
    order = np.argsort(-values, kind="stable")
    left = np.cumsum(gain[order] - price)
    left[:-1][np.diff(values[order]) == 0] = -np.inf  # texts of equal value are treated equally
    if len(left) == 0 or left.max() <= 0:
        return NEVER
    # Halfway to the next lower value.
    last = values[order[int(np.argmax(left))]]
    return float((last + values[values < last].max(initial=0.0)) / 2)


def _truth(probs: NDArray[np.floating], labels: NDArray[Any]) -> NDArray[np.float64]:
    """float64 `(n,)`: probability of the true class; multi-label: mean over the classes."""
    if labels.ndim == 2:
        return np.where(labels > 0, probs, 1.0 - probs).mean(axis=1).astype(np.float64)
    return probs[np.arange(len(probs)), labels].astype(np.float64)


def _rank(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of the rows with a larger value, for each row."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(len(values), 1)
