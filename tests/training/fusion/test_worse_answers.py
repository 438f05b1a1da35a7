"""The fusion expects the LLMs to be somewhat worse in use than on the scored rows."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from labelfusion.training.folds import assign_folds
from labelfusion.training.fusion import worse_answers
from labelfusion.training.fusion.fusion_fit import fit_fusion
from labelfusion.training.fusion.pool_fit import PoolPath
from labelfusion.training.fusion.worse_answers import by_row, expected_drift, with_worse_answers, wrong_answers
from labelfusion.training.losses import log_loss
from test_fusion_fit import accuracy, make


def test_wrong_answers_are_wrong_answers_of_the_same_llm_to_other_texts() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    scores = rng.dirichlet(np.ones(4), (300, 2))
    scores[np.arange(300), 0, labels] += 0.3  # right more often
    scores /= scores.sum(axis=2, keepdims=True)
    scores[:50, 1] = np.nan
    found = wrong_answers(scores, labels)
    assert (found[50:].argmax(axis=2) != labels[50:, None]).all()
    assert (found[:50, 0].argmax(axis=1) != labels[:50]).all()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(scores))  # what is missing stays missing
    for p in range(2):
        wrong = scores[:, p][~np.isnan(scores[:, p, 0]) & (scores[:, p].argmax(axis=1) != labels)]
        assert {tuple(x) for x in found[50:, p]} <= {tuple(x) for x in wrong}
    np.testing.assert_array_equal(found, wrong_answers(scores, labels))
    assert not np.array_equal(found, wrong_answers(scores, labels, seed=1), equal_nan=True)


def test_an_llm_without_errors_gives_its_answers_to_other_classes() -> None:
    labels = np.arange(60) % 3
    found = wrong_answers(np.eye(3)[labels][:, None], labels)
    assert (found[:, 0].argmax(axis=1) != labels).all()
    same = np.zeros(5, dtype=int)
    np.testing.assert_array_equal(wrong_answers(np.eye(3)[same][:, None], same), np.eye(3)[same][:, None])
    assert np.isnan(wrong_answers(np.full((5, 1, 3), np.nan), same)).all()


def test_wrong_answers_for_several_labels() -> None:
    labels = (np.random.default_rng(0).random((200, 4)) < 0.3).astype(np.float32)
    scores = np.where(labels > 0, 0.8, 0.1)[:, None]
    scores[::5] = 1.0 - scores[::5]
    found = wrong_answers(scores, labels)[:, 0] > 0.5
    assert ((found != labels).any(axis=1)).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_row_and_its_copy_weigh_as_much_as_the_row(weighted: bool) -> None:
    data = make(200, 0.8, 0.7)
    if weighted:
        data.weights = torch.rand(200) + 0.5
    both, drift = with_worse_answers(data), expected_drift(data)
    weights = torch.ones(200) if data.weights is None else data.weights
    torch.testing.assert_close(by_row(both.weights), weights)  # type: ignore[arg-type]
    assert both.count == pytest.approx(data.count)
    torch.testing.assert_close(both.llm_scores[:200], data.llm_scores)
    assert not (both.llm_scores[200:, 0].argmax(dim=1) == data.labels).any()
    assert worse_answers.DRIFT < drift < worse_answers.DRIFT + worse_answers.ERRORS * 0.04
    assert expected_drift(make(20, 0.8, 0.7)) > drift + 0.02  # few rows prove less


def test_without_drift_the_fit_is_that_of_the_rows_alone() -> None:
    data = make(200, 0.8, 0.7)
    with patch.multiple(worse_answers, DRIFT=0.0, ERRORS=0.0):
        both = with_worse_answers(data)
    for pool, same in zip(PoolPath((30.0, 3.0)).fit(data), PoolPath((30.0, 3.0)).fit(both), strict=True):
        torch.testing.assert_close(pool.weight, same.weight, rtol=1e-3, atol=1e-3)


def test_an_llm_that_is_worse_in_use_does_less_harm() -> None:
    """An LLM that was a little better than the encoder on the scored rows, and loses ten points in use."""
    losses: dict[float, list[float]] = {0.0: [], 0.1: []}
    right: dict[float, list[float]] = {0.0: [], 0.1: []}
    for seed in range(3):
        train, worse = make(300, 0.82, 0.86, seed=seed), make(6000, 0.82, 0.76, seed=100 + seed)
        for drift, found in losses.items():
            with patch.multiple(worse_answers, DRIFT=drift, ERRORS=0.0):
                pool = fit_fusion(train, assign_folds(train.labels.numpy(), 5), fusion="pool").pool
            with torch.no_grad():
                fused = pool(worse.encoder_logits, worse.evidence, worse.mask)
            found.append(float(log_loss(fused, worse.labels, False).mean()))
            right[drift].append(accuracy(fused, worse))
    assert np.mean(losses[0.1]) < np.mean(losses[0.0]) - 0.01
    assert np.mean(right[0.1]) >= np.mean(right[0.0]) - 0.002
