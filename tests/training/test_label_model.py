"""The label model: against crowd-kit's on hard labels, and where the mean of the LLMs' answers fails."""

import numpy as np
import pandas as pd
import pytest
from labelfusion.training.label_model import choose_label_model, combine_answers, dawid_skene


def made(n: int = 400, num_labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Hard answers float `(n, 4, K)` of LLMs that are right on 90, 75, 60 and 55 % of the texts; and the classes."""
    rng = np.random.default_rng(1)
    truth = rng.choice(num_labels, n, p=[0.5, 0.3, 0.2])
    wrong = (truth[:, None] + rng.integers(1, num_labels, (n, 4))) % num_labels
    said = np.where(rng.random((n, 4)) < [0.9, 0.75, 0.6, 0.55], truth[:, None], wrong)
    return np.eye(num_labels)[said], truth


def test_it_finds_what_crowd_kit_finds() -> None:
    crowdkit = pytest.importorskip("crowdkit.aggregation")
    scores, _ = made()
    votes = [(i, p, int(row.argmax())) for i, answers in enumerate(scores) for p, row in enumerate(answers)]
    theirs = crowdkit.DawidSkene(n_iter=200, tol=1e-9)
    labels = theirs.fit_predict(pd.DataFrame(votes, columns=["task", "worker", "label"])).sort_index().to_numpy()
    ours = dawid_skene(scores, spread=1e-9, right=0.0, estimate_shares=True)
    assert np.mean(ours.probabilities.argmax(axis=1) == labels) > 0.995
    matrices = theirs.errors_.sort_index().sort_index(axis=1).to_numpy().reshape(4, 3, 3)  # worker, given, true
    np.testing.assert_allclose(ours.matrices, matrices.transpose(0, 2, 1), atol=0.02)
    np.testing.assert_allclose(ours.shares, theirs.priors_.sort_index(), atol=0.01)


def test_it_estimates_accuracies() -> None:
    scores, truth = made()
    measured = (scores.argmax(axis=2) == truth[:, None]).mean(axis=0)
    np.testing.assert_allclose(dawid_skene(scores).accuracies, measured, atol=0.1)


def test_llms_that_never_name_a_class_do_not_outvote_the_one_that_does() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    good = np.where(rng.random(300) < 0.85, truth, rng.integers(0, 3, 300))
    poor = [np.where((truth == 2) | (rng.random(300) < 0.3), rng.integers(0, 2, 300), truth) for _ in range(3)]
    scores = np.eye(3)[np.stack([good, *poor], axis=1)]
    right = {}
    for method in ("mean", "dawid_skene"):
        logits, _ = combine_answers(scores, multi_label=False, method=method)
        right[method] = np.mean(logits.argmax(axis=1) == truth)
    assert right["dawid_skene"] > right["mean"] + 0.1


def test_gold_rows_are_kept_and_count() -> None:
    scores, truth = made(120)
    scores = scores[:, [0, 3, 3]]  # two that err together outvote the good one
    gold = np.where(np.arange(120) < 60, truth, -1)
    blind, told = dawid_skene(scores), dawid_skene(scores, gold)
    assert (told.probabilities[:60].argmax(axis=1) == truth[:60]).all()
    right = [np.mean(x.probabilities[60:].argmax(axis=1) == truth[60:]) for x in (blind, told)]
    assert right[1] > right[0]


def test_missing_answers_say_nothing() -> None:
    scores, _ = made(50)
    scores[:10, 1] = np.nan
    without = scores.copy()
    without[:10, 1] = 0.0
    found = dawid_skene(scores)
    assert np.isfinite(found.probabilities).all()
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0)
    assert np.ptp(dawid_skene(np.full((3, 3, 2), np.nan)).probabilities) == 0.0


def test_several_labels_go_a_class_at_a_time() -> None:
    scores, truth = made()
    logits, accuracies = combine_answers(scores, multi_label=True, method="dawid_skene", gold=np.eye(3)[truth[:40]])
    assert accuracies is not None
    assert ((logits > 0) == (np.eye(3)[truth] > 0)).mean() > 0.9
    assert ((logits[:40] > 0) == (np.eye(3)[truth[:40]] > 0)).all()


def test_two_llms_are_too_few_for_it() -> None:
    assert choose_label_model("auto", 2, False) == "mean"
    assert choose_label_model("auto", 3, False) == "dawid_skene"
    assert choose_label_model("auto", 3, True) == "mean"
    assert choose_label_model("dawid_skene", 2, True) == "dawid_skene"
