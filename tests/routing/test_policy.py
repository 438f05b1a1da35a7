"""Which texts the LLM is asked about."""

from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LabelFusionConfig
from labelfusion.routing.gate import expected_error, uncertainty
from labelfusion.routing.policy import StreamSelector, check_policy, select

SINGLE = LabelFusionConfig(num_labels=3)
MULTI = LabelFusionConfig(num_labels=3, problem_type="multi_label_classification")


def logits(n: int, k: int = 3, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32) * scale


@pytest.mark.parametrize(
    ("policy", "expected"), [("always", "always"), ("auto", "auto"), (0, "never"), (1.0, "always"), (0.25, 0.25)]
)
def test_policies_that_are_accepted(policy: Any, expected: Any) -> None:
    assert check_policy(policy) == expected


@pytest.mark.parametrize("policy", ["sometimes", "", 1.5, -0.1, float("nan"), None, True, [0.5]])
def test_other_policies_are_refused_by_name(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"`llm_policy` is .*expected 'always'"):
        check_policy(policy)


def test_always_and_never() -> None:
    assert select(logits(5), "always", SINGLE).all()
    assert not select(logits(5), "never", SINGLE).any()
    assert select(logits(0), 0.5, SINGLE).shape == (0,)


def test_uncertainty_of_single_label_is_one_minus_the_margin() -> None:
    probs = np.array([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [0.45, 0.45, 0.1]])
    np.testing.assert_allclose(uncertainty(probs, False), [0.9, 0.15, 1.0])


def test_uncertainty_of_multi_label_is_the_expected_number_of_errors() -> None:
    probs = np.array([[0.5, 0.9, 0.0], [0.99, 0.01, 1.0]])
    np.testing.assert_allclose(uncertainty(probs, True), [0.6, 0.02])
    np.testing.assert_allclose(expected_error(probs, True), [1 - 0.5 * 0.9, 1 - 0.99 * 0.99])


@pytest.mark.parametrize("config", [SINGLE, MULTI])
@pytest.mark.parametrize("share", [0.1, 0.333, 0.5, 0.9])
def test_a_share_is_exact_and_takes_the_most_uncertain(config: LabelFusionConfig, share: float) -> None:
    values = logits(97)
    mask = select(values, share, config)
    assert mask.sum() == round(share * 97)
    probs = 1 / (1 + np.exp(-values)) if config.multi_label else np.exp(values) / np.exp(values).sum(1, keepdims=True)
    doubt = uncertainty(probs, config.multi_label)
    assert doubt[mask].min() >= doubt[~mask].max() - 1e-6


def test_ties_go_to_the_first_texts() -> None:
    assert select(np.zeros((10, 3)), 0.3, SINGLE).tolist() == [True] * 3 + [False] * 7


def test_auto_uses_the_calibrated_threshold() -> None:
    values = logits(200)
    config = LabelFusionConfig(num_labels=3, calibration={"gate_threshold": 0.6})
    probs = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    assert select(values, "auto", config).tolist() == (uncertainty(probs, False) > 0.6).tolist()


def test_auto_without_calibration_asks_where_an_error_is_likely() -> None:
    values = np.log(np.array([[0.95, 0.04, 0.01], [0.85, 0.1, 0.05]]))
    assert select(values, "auto", SINGLE).tolist() == [False, True]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal", "blocks"])
def test_a_stream_keeps_its_share_in_any_order(share: float, order: str) -> None:
    values = logits(10_000, scale=3.0)
    doubt = uncertainty(np.exp(values) / np.exp(values).sum(1, keepdims=True), False)
    if order == "rising":
        values = values[np.argsort(doubt)]
    elif order == "falling":
        values = values[np.argsort(-doubt)]
    elif order == "equal":
        values = np.zeros_like(values)
    elif order == "blocks":
        values = np.concatenate([values[np.argsort(doubt)][i::4] for i in range(4)])
    selector = StreamSelector(share, SINGLE)
    masks = [selector(values[i : i + 128]) for i in range(0, 10_000, 128)]
    asked = np.concatenate(masks).cumsum()
    assert abs(asked[-1] / 10_000 - share) <= 0.005
    ends = np.arange(128, 10_000, 128)
    assert (np.abs(asked[ends - 1] - share * ends) <= np.minimum(32, 0.02 * ends) + 1).all()


def test_a_stream_asks_more_in_a_hard_window_than_in_an_easy_one() -> None:
    selector = StreamSelector(0.2, SINGLE)
    for seed in range(20):
        selector(logits(128, seed=seed))
    easy, hard = logits(128, seed=98, scale=8.0), logits(128, seed=99, scale=0.5)
    assert selector(easy).sum() < 0.2 * 128 < selector(hard).sum()
