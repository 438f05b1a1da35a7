"""Folds, probe, calibration, thresholds, gate, metrics."""

import numpy as np
import pytest
import torch
from labelfusion.configuration import DecisionRule, Task
from labelfusion.evaluation.metrics import classification_metrics, expected_calibration_error
from labelfusion.routing.decisions import decide
from labelfusion.scoring.probabilities import to_probabilities
from labelfusion.training.calibration.calibration_maps import fit_temperature
from labelfusion.training.calibration.thresholds import tune_thresholds
from labelfusion.training.encoder.probe import fit_probe
from labelfusion.training.folds import assign_folds
from sklearn.linear_model import LogisticRegression


def test_folds_spread_every_class_and_keep_duplicates_together() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    folds = assign_folds(labels, 5)
    assert {tuple(np.bincount(labels[folds == f], minlength=3)) for f in range(5)} == {(12, 6, 2)}
    texts = [f"text {i % 40}" for i in range(100)]
    grouped = assign_folds(labels, 5, texts)
    for name in set(texts):
        assert len({int(f) for f, t in zip(grouped, texts, strict=True) if t == name}) == 1


def test_folds_of_multi_label_spread_the_rare_class() -> None:
    labels = np.zeros((50, 3))
    labels[:, 0] = 1
    labels[::10, 2] = 1
    folds = assign_folds(labels, 5)
    assert all(labels[folds == f, 2].sum() == 1 for f in range(5))


def test_probe_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 150)
    x = rng.normal(size=(150, 6)).astype(np.float32) + np.eye(6, dtype=np.float32)[labels] * 1.5
    probe = fit_probe(torch.from_numpy(x), torch.from_numpy(labels), assign_folds(labels, 5), Task("abc"))
    mean, scale = x.mean(0), np.sqrt(((x - x.mean(0)) ** 2).mean())
    reference = LogisticRegression(C=1 / probe.penalty, tol=1e-8, max_iter=1000).fit((x - mean) / scale, labels)
    ours = to_probabilities((torch.from_numpy(x) @ probe.weight.T + probe.bias).numpy(), False)
    np.testing.assert_allclose(ours, reference.predict_proba((x - mean) / scale), atol=2e-3)


def test_out_of_fold_logits_have_not_seen_their_row() -> None:
    # Random labels: in sample a probe of 40 dimensions finds them, out of fold nobody can.
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(60, 40)).astype(np.float32), rng.integers(0, 2, 60)
    probe = fit_probe(torch.from_numpy(x), torch.from_numpy(labels), assign_folds(labels, 5), Task("ab"))
    right = (probe.out_of_fold_logits.argmax(1).numpy() == labels).mean()
    assert 0.2 < right < 0.72


def test_probe_survives_dead_dimensions() -> None:
    x = torch.cat([torch.randn(40, 3), torch.full((40, 1), 1e-32)], dim=1)
    labels = (x[:, 0] > 0).long()
    probe = fit_probe(x, labels, assign_folds(labels.numpy(), 4), Task("ab"))
    assert torch.isfinite(probe.weight).all()
    assert ((x @ probe.weight.T + probe.bias).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_temperature_undoes_a_factor(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * factor, labels, False) == pytest.approx(factor, rel=0.08)


def test_temperature_of_few_or_no_rows_is_harmless() -> None:
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), False) == 1.0
    assert 0.05 <= fit_temperature(torch.tensor([[9.0, 0.0]]), torch.tensor([0]), False) <= 1.0


def test_decide_gives_at_least_min_labels() -> None:
    probs = np.array([[0.1, 0.4, 0.2], [0.9, 0.8, 0.1]])
    assert decide(probs).tolist() == [[False] * 3, [True, True, False]]
    assert decide(probs, DecisionRule(min_labels=1)).tolist() == [[False, True, False], [True, True, False]]
    assert decide(probs, DecisionRule([0.05, 0.9, 0.9])).tolist() == [[True, False, False], [True, False, False]]


def test_thresholds_find_a_shifted_class() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 2)) < 0.4).astype(np.float32)
    probs = np.clip(labels * 0.4 + 0.3 + rng.normal(size=labels.shape) * 0.12, 0, 1)
    probs[:, 1] = np.clip(probs[:, 1] - 0.2, 0, 1)  # its 0.5 lies at 0.3
    for metric in ("accuracy", "micro_f1", "macro_f1"):
        thresholds = tune_thresholds(probs, labels, metric)
        assert thresholds[0] == pytest.approx(0.5, abs=0.1)
        assert thresholds[1] == pytest.approx(0.3, abs=0.08)
    with pytest.raises(ValueError, match="`metric` is 'f2'"):
        tune_thresholds(probs, labels, "f2")


def test_thresholds_of_calibrated_probabilities_stay_at_one_half() -> None:
    rng = np.random.default_rng(1)
    probs = rng.random((400, 3))
    labels = (rng.random((400, 3)) < probs).astype(np.float32)
    np.testing.assert_allclose(tune_thresholds(probs, labels), 0.5, atol=0.15)


def test_metrics_of_a_hand_made_case() -> None:
    probs = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    metrics = classification_metrics(probs, np.array([0, 1, 1]), False)
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.1]).mean())
    assert metrics["brier"] == pytest.approx((0.04 * 2 + 0.16 * 2 + 0.81 * 2) / 3)
    multi = classification_metrics(probs, np.array([[1, 0], [0, 1], [0, 0]]), True)
    assert multi["accuracy"] == pytest.approx(2 / 3)


def test_calibration_error_of_calibrated_and_of_boasting_confidence() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, 20000)
    correct = rng.random(20000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.02
    assert expected_calibration_error(np.full(100, 0.9), np.zeros(100, bool)) == pytest.approx(0.9)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_row_with_a_weight_counts_as_that_many_rows(multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    probs, weights = rng.dirichlet([1, 1, 1], 60), rng.integers(0, 4, 60)
    labels = rng.integers(0, 2, (60, 3)) if multi_label else rng.integers(0, 3, 60)
    weighted = classification_metrics(probs, labels, multi_label, sample_weight=weights.astype(float))
    repeated = classification_metrics(probs.repeat(weights, axis=0), labels.repeat(weights, axis=0), multi_label)
    ece = weighted.pop("ece"), repeated.pop("ece")
    assert weighted == pytest.approx(repeated)
    assert ece[0] == pytest.approx(ece[1], abs=0.06)  # a bin does not divide a row
    plain = classification_metrics(probs, labels, multi_label)
    assert classification_metrics(probs, labels, multi_label, sample_weight=np.full(60, 0.5)) == pytest.approx(plain)
