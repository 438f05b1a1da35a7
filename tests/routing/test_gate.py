"""Where the gate sees value in asking, and how it is fitted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.configuration import LabelFusionConfig
from labelfusion.evaluation.tradeoff_curve import gain_curve, gate_area
from labelfusion.routing.gate import HEDGE, NEVER, Gate, expected_error, gate_values, uncertainty
from labelfusion.routing.policy import Above, StreamSelector, for_accuracy, select
from labelfusion.training.calibration.gate_fit import (
    calibrate_cascade,
    calibrate_gate,
    expected_gain,
    fit_gate,
    fit_gate_threshold,
    fit_gates,
    simple_gates,
)
from labelfusion.training.calibration.risk_fit import store_errors
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.fit_state import FitState

from labelfusion import LabelFusionForSequenceClassification as Model


def world(n: int, recalls: tuple[float, ...] = (0.95, 0.95, 0.4), seed: int = 0) -> tuple[np.ndarray, ...]:
    """A calibrated encoder, an LLM that knows the classes unevenly, the exact posterior of both, and the truth."""
    rng, k = np.random.default_rng(seed), len(recalls)
    probs = rng.dirichlet(np.full(k, 0.5), n).clip(1e-6)
    probs /= probs.sum(axis=1, keepdims=True)
    labels = (probs.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, k - 1)
    confusion = np.array([[r if i == j else (1 - r) / (k - 1) for j in range(k)] for i, r in enumerate(recalls)])
    said = (confusion[labels].cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, k - 1)
    fused = probs * confusion[:, said].T
    return probs, np.eye(k)[said][:, None], fused / fused.sum(axis=1, keepdims=True), labels


def test_the_value_is_the_expected_gain_in_accuracy() -> None:
    """By hand: two classes, p = (0.6, 0.4), an LLM that is right in 90 % of either class and names both as often."""
    gate = Gate(np.array([0.9, 0.9]), np.array([0.5, 0.5]), False)
    (value,) = gate(np.array([[0.6, 0.4]]))
    assert value == pytest.approx(0.9 * 0.6 + 0.9 * 0.4 - 0.6 + HEDGE * 0.4)
    sure = np.array([[0.97, 0.03]])  # more than the LLM can overturn
    assert gate(sure)[0] == pytest.approx(HEDGE * 0.03)


def test_the_value_of_multi_label_is_about_exact_match() -> None:
    gate = Gate(np.array([0.9, 0.8]), np.array([0.95, 0.9]), True)
    (value,) = gate(np.array([[0.5, 0.2]]))
    first = 0.5 * 0.9 + 0.5 * 0.95
    second = max(0.2 * 0.8, 0.8 * 0.1) + max(0.2 * 0.2, 0.8 * 0.9)
    assert value == pytest.approx(first * second - 0.5 * 0.8 + HEDGE * 0.6)


@pytest.mark.parametrize("num_labels", [2, 3, 40])
def test_the_value_is_never_negative_and_grows_with_a_better_llm(num_labels: int) -> None:
    probs = np.random.default_rng(0).dirichlet(np.full(num_labels, 0.3), 500)
    rate = np.full(num_labels, 1 / num_labels)
    poor, good = (Gate(np.full(num_labels, r), rate, False)(probs) for r in (0.5, 0.95))
    assert (poor >= 0).all()
    assert (good >= poor - 1e-12).all()
    assert good.mean() > poor.mean()


def test_a_fitted_gate_predicts_the_gain_and_beats_the_simple_ones() -> None:
    """The LLM is of no use on the third class: asking where the encoder doubts about it is wasted."""
    probs, scores, _, labels = world(4000)
    gate = fit_gate(probs, scores, labels)
    assert gate.recall == pytest.approx([0.95, 0.95, 0.4], abs=0.06)
    test_probs, _, fused, truth = world(20_000, seed=1)
    gain = (fused.argmax(axis=1) == truth).astype(float) - (test_probs.argmax(axis=1) == truth)
    values = gate(test_probs)
    value = values - HEDGE * expected_error(test_probs, False)
    area = gate_area(values, gain)
    simple = {name: gate_area(v, gain) for name, v in simple_gates(test_probs, False).items()}
    assert area > max(simple.values()) + 0.003
    assert min(simple.values()) > 0.01  # and they better than asking at random
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6)):  # predicted against real gain, by quantile of the value
        rows = (value >= np.quantile(value, 1 - high)) & (value <= np.quantile(value, 1 - low))
        assert gain[rows].mean() == pytest.approx(value[rows].mean(), abs=0.03)


def test_rows_without_answers_are_left_out_of_the_fit() -> None:
    probs, scores, _, labels = world(500)
    scores = np.concatenate([scores, scores], axis=1)
    scores[:, 1] = np.nan
    some = scores.copy()
    some[100:] = np.nan
    kept = fit_gate(probs[:100], scores[:100], labels[:100])
    gate = fit_gate(probs, some, labels)
    np.testing.assert_allclose(gate.recall, kept.recall)
    assert np.isfinite(fit_gate(probs, np.full_like(scores, np.nan), labels)(probs)).all()


def test_a_threshold_keeps_the_gain_and_a_useless_llm_is_never_asked() -> None:
    gain = np.r_[np.zeros(70), np.ones(30)]
    values = np.r_[np.full(70, 0.1), np.full(30, 0.8)]
    assert (values > fit_gate_threshold(values, gain)).tolist() == [False] * 70 + [True] * 30
    assert fit_gate_threshold(values, -gain) == NEVER
    assert fit_gate_threshold(np.zeros(0), np.zeros(0)) == NEVER
    assert fit_gate_threshold(np.ones(100), gain) < 1  # all or none of texts of equal value
    assert fit_gate_threshold(np.ones(100), gain, 0.31) == NEVER


@pytest.mark.parametrize("price", [0.0, 0.02, 0.1])
def test_what_is_asked_is_worth_its_price(price: float) -> None:
    """The last texts that are queried gain the price, the first ones that are not gain less."""
    rng = np.random.default_rng(0)
    values = rng.random(100_000)
    gain = (rng.random(100_000) < 0.3 * values**2).astype(float) - (rng.random(100_000) < 0.01)
    threshold = fit_gate_threshold(values, gain, price)
    assert 0.3 * threshold**2 - 0.01 == pytest.approx(price, abs=0.015)


def test_gains_are_those_of_changed_answers() -> None:
    before = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.9, 0.1]])
    after = np.array([[0.99, 0.01], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8], [0.8, 0.2]])
    promised = 1 / (3 * 0.6) * 0.6  # one more right answer, where the probabilities promise 1.8
    found = expected_gain(before, after, np.array([0, 1, 0, 1, 1]))
    np.testing.assert_allclose(found, [0.0, (1 + promised) / 2, (-1 + promised) / 2, (1 + promised) / 2, 0.0])
    both = expected_gain(before[1:2], after[1:2], np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(both, [(1 + 0.8 * 0.8 - 0.2 * 0.2) / 2])
    assert expected_gain(before, after, np.array([0, 0, 0, 1, 0])).max() <= 0  # more harm than good


def test_an_encoder_that_is_always_right_asks_nothing() -> None:
    """Surer answers are no gain, even where the encoder is unsure."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    sure = rng.uniform(0.5, 0.999, (500, 1))
    probs = np.where(np.eye(3)[labels] > 0, sure, (1 - sure) / 2)
    scores = np.eye(3)[np.where(rng.random(500) < 0.9, labels, (labels + 1) % 3)][:, None]
    fused = probs**2 / (probs**2).sum(axis=1, keepdims=True)
    entry = calibrate_gate(probs, fused, scores, labels, np.arange(500) % 5)
    assert entry["threshold"] == NEVER
    config = LabelFusionConfig(num_labels=3, calibration={"gate": entry})
    assert not select(np.log(probs), "auto", config).any()


def test_the_gain_curve_starts_at_nothing_and_ends_at_all() -> None:
    curve = gain_curve(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert (curve[0], curve[25], curve[75], curve[100]) == pytest.approx((0.0, 0.25, 0.25, 0.5))


def calibrated(seed: int = 0, **kwargs: Any) -> dict[str, Any]:
    probs, scores, fused, labels = world(1000, seed=seed, **kwargs)
    folds = np.arange(len(labels)) % 5
    return calibrate_gate(probs, fused, scores, labels, folds)


def test_what_is_stored_is_plain_and_drives_the_policies() -> None:
    import json

    entry = json.loads(json.dumps(calibrated()))
    assert len(entry["curve"]["accuracy"]) == len(entry["curve"]["threshold"]) == 101
    assert entry["compared"]["learnt"] > 0
    config = LabelFusionConfig(num_labels=3, calibration={"gate": entry})
    probs = world(10_000, seed=2)[0]
    logits = np.log(probs)
    values, threshold = gate_values(probs, config.calibration, False)
    assert threshold is not None
    assert threshold == entry["threshold"]
    np.testing.assert_array_equal(select(logits, "auto", config), values > threshold)
    asked = select(logits, 0.3, config)
    assert asked.sum() == 3000
    assert values[asked].min() >= values[~asked].max() - 1e-6
    selector = StreamSelector(0.3, config)
    stream = np.concatenate([selector(logits[i : i + 128]) for i in range(0, 10_000, 128)])
    assert stream.mean() == pytest.approx(0.3, abs=0.005)


def test_a_target_accuracy_asks_as_little_as_held_out_rows_allow() -> None:
    config = LabelFusionConfig(num_labels=3, calibration={"gate": calibrated()})
    curve = config.calibration["gate"]["curve"]["accuracy"]
    probs, _, fused, labels = world(20_000, seed=3)
    target = (curve[0] + curve[-1]) / 2
    policy = for_accuracy(target, "always", config)
    assert isinstance(policy, Above)
    asked = select(np.log(probs), policy, config)
    answer = np.where(asked, fused.argmax(axis=1), probs.argmax(axis=1))
    assert 0.05 < asked.mean() < 0.6
    assert (answer == labels).mean() == pytest.approx(target, abs=0.03)
    assert not select(np.log(probs), for_accuracy(curve[0] - 0.05, "auto", config), config).any()
    with pytest.raises(ValueError, match="was not reached on held-out rows"):
        for_accuracy(max(curve) + 0.01, "always", config)
    with pytest.raises(ValueError, match=r"leave `llm_policy`=0\.3 out"):
        for_accuracy(0.9, 0.3, config)
    with pytest.raises(ValueError, match="`target_accuracy` must be a number"):
        for_accuracy(1.5, "always", config)
    with pytest.raises(ValueError, match="fitted with LLM scores"):
        for_accuracy(0.9, "always", LabelFusionConfig(num_labels=3))


def test_an_llm_that_only_harms_is_not_asked_by_auto() -> None:
    probs, scores, _, labels = world(1000, (0.2, 0.2, 0.2))
    entry = calibrate_gate(probs, scores[:, 0] * 0.9 + 0.03, scores, labels, np.arange(1000) % 5)
    assert entry["threshold"] == NEVER


def test_a_cascade_leaves_out_what_is_not_worth_its_price() -> None:
    probs, first, _, labels = world(3000, (0.8, 0.8, 0.8))
    rng = np.random.default_rng(7)
    right = rng.random(3000) < 0.98
    second = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
    scores = np.stack([first[:, 0], second], axis=1)

    def fuse(given: np.ndarray) -> np.ndarray:
        out = probs.copy()
        for p, recall in enumerate((0.8, 0.98)):
            there = ~np.isnan(given[:, p]).any(axis=1)
            likelihood = np.where(given[:, p] > 0.5, recall, (1 - recall) / 2)
            out = np.where(there[:, None], out * likelihood, out)
        return np.asarray(out / out.sum(axis=1, keepdims=True))

    everything = (fuse(scores).argmax(axis=1) == labels).mean()
    queries = {}
    for price in (0.02, 0.2):
        stages = calibrate_cascade(probs, fuse, scores, labels, np.arange(3000) % 5, price=price)
        assert len(stages) == 2
        now = probs
        asked, heard = [], np.full_like(scores, np.nan)
        for p in range(2):
            values, threshold = gate_values(now, {"gate": {"stages": stages}}, False, stage=p)
            assert threshold is not None
            wanted = values > threshold
            heard[wanted, p] = scores[wanted, p]
            now = fuse(heard)
            asked.append(float(wanted.mean()))
        queries[price] = sum(asked)
        lost = everything - (now.argmax(axis=1) == labels).mean()
        assert max(asked) < 0.9
        assert lost < price * (2 - sum(asked)) + 0.01  # less than what the queries that were not made would have cost
    assert queries[0.2] < 0.7 * queries[0.02]


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_fit_stores_gates_and_risks(make_model: Callable[..., Model], multi_label: bool) -> None:
    model = make_model(num_providers=2, multi_label=multi_label)
    generator = torch.Generator().manual_seed(0)
    logits, fused = torch.randn(60, 3, generator=generator), torch.randn(60, 3, generator=generator)
    drawn = torch.rand(60, 2, 3, generator=generator)
    scores = (drawn if multi_label else drawn / drawn.sum(-1, keepdim=True)).numpy()
    labels = (np.random.default_rng(0).random((60, 3)) > 0.5).astype(np.float32)
    labels = labels if multi_label else labels.argmax(axis=1)
    tokenizer: Any = None  # no text is encoded
    start = FitState.start(model, tokenizer, [f"text {i}" for i in range(60)], labels, scores, FitOptions())
    out_of_fold: dict[str, Any] = {"encoder_logits": logits, "covered": np.ones(60, dtype=bool), "fused_logits": fused}
    store_errors(fit_gates(replace(start, folds=np.arange(60) % 5, **out_of_fold)))
    found = {name: model.config.calibration[name] for name in ("gate", "risk")}
    assert len(found["gate"]["stages"]) == 2
    assert found["risk"]["rows"] == 60
    config = LabelFusionConfig.from_dict(model.config.to_dict())
    assert config.calibration["gate"] == found["gate"]


def test_a_model_without_a_learnt_gate_goes_by_uncertainty() -> None:
    probs = world(10)[0]
    values, threshold = gate_values(probs, {"gate_threshold": 0.4}, False)
    np.testing.assert_array_equal(values, uncertainty(probs, False))
    assert threshold == 0.4
    assert gate_values(probs, {}, False)[1] is None
    assert expected_error(probs, False).max() <= 2 / 3
