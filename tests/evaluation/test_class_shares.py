"""Shares of classes: intervals that hold, for good and useless predictions, for frequent and rare classes."""

from typing import Any

import numpy as np
import pytest
from labelfusion.evaluation.class_shares import estimate_class_shares
from made_data import NAMES, frame

from labelfusion import AutoFusionClassifier


def population(prior: list[float], strength: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """0/1 labels `(n, K)`, and predictions that are biased towards equal shares."""
    rng = np.random.default_rng(0)
    labels = rng.choice(len(prior), n, p=prior)
    logits = rng.normal(size=(n, len(prior)))
    logits[np.arange(n), labels] += strength
    probs = np.exp(2 * logits)
    return np.eye(len(prior))[labels], probs / probs.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("prior", [[0.95, 0.05], [0.6, 0.2, 0.1, 0.08, 0.02]])
@pytest.mark.parametrize("strength", [0.0, 3.0])
@pytest.mark.parametrize("n", [10, 200])
def test_the_intervals_hold(prior: list[float], strength: float, n: int) -> None:
    gold, probs = population(prior, strength)
    rng, hits, counted = np.random.default_rng(1), [], []
    for _ in range(300):
        rows = rng.permutation(len(gold))[: n + 2000]
        found = estimate_class_shares(gold[rows[:n]], probs[rows[:n]], probs[rows[n:]])
        hits.append((found.low <= gold.mean(0)) & (gold.mean(0) <= found.high))
        counted.append(np.abs(probs[rows[n:]].mean(0) - gold.mean(0)).max() < 0.02)
        assert found.share.sum() == pytest.approx(1)
    assert np.mean(hits, axis=0).min() > 0.92
    assert np.mean(counted) < 0.05  # counting predictions would be far off


def test_good_predictions_are_worth_labels_and_useless_ones_cost_none() -> None:
    for strength, least, most in ((0.0, 0.9, 1.1), (3.0, 3.0, 10.0)):
        gold, probs = population([0.4, 0.3, 0.3], strength)
        found = estimate_class_shares(gold[:200], probs[:200], probs[200:])
        assert least < found.gain.min() <= found.gain.max() < most
    gold, probs = population([0.4, 0.3, 0.3], 3.0)
    alone = estimate_class_shares(gold[:200], np.full((200, 3), 1 / 3), probs[200:])
    np.testing.assert_allclose(alone.share, gold[:200].mean(0))
    assert not alone.weight.any()


def test_several_labels_have_weights_of_their_own() -> None:
    rng = np.random.default_rng(0)
    gold = (rng.random((500, 2)) < 0.3).astype(float)
    probs = np.stack([np.clip(gold[:, 0] * 0.9 + 0.05, 0, 1), rng.random(500)], axis=1)
    found = estimate_class_shares(gold[:100], probs[:100], probs[100:], multi_label=True)
    assert found.weight[0] > 0.8 > 0.3 > found.weight[1]


@pytest.mark.parametrize(
    ("rows", "others", "level", "message"),
    [(9, 5, 0.95, "10 at least"), (20, 0, 0.95, "`texts` is empty"), (20, 5, 95, "between 0 and 1")],
)
def test_what_cannot_be_estimated(rows: int, others: int, level: float, message: str) -> None:
    probs = np.full((rows, 2), 0.5)
    with pytest.raises(ValueError, match=message):
        estimate_class_shares(np.eye(2)[[0] * rows], probs, np.full((others, 2), 0.5), level=level)


def test_the_shares_of_a_biased_collection(tiny_encoder_dir: str) -> None:
    train, rest = frame(90), frame(300, seed=5)
    clf: Any = AutoFusionClassifier(tiny_encoder_dir, "recorded", encoder_training="probe", fusion="pool").fit(train)
    skewed = rest[(rest.label != "tech") | (np.arange(300) % 9 == 2)]
    gold, texts = skewed[::5], skewed[np.arange(len(skewed)) % 5 > 0]
    found = clf.estimate_shares(texts.drop(columns="label"), gold)
    assert [row["class"] for row in found] == NAMES
    truth = skewed.label.value_counts(normalize=True)
    assert all(row["low"] <= truth[row["class"]] <= row["high"] for row in found)
    assert all(row["gain"] > 0.5 for row in found)
    same = clf.estimate_shares(texts.text.tolist(), gold, llm_scores=texts.llm_scores.tolist())
    assert same == found
    with pytest.raises(ValueError, match="an interval needs 10"):
        clf.estimate_shares(texts, gold[:5])
