"""Statistics of comparisons: against other implementations, closed forms and simulation."""

from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import DecisionRule
from labelfusion.evaluation.comparison import Source, compare_sources, confusion, per_class, reliability, truth_matrix
from labelfusion.evaluation.metrics import classification_metrics
from labelfusion.evaluation.statistics import (
    bootstrap_means,
    holm,
    mcnemar,
    paired_bootstrap_p,
    percentile_interval,
    wilson_interval,
)
from scipy.stats import binomtest, bootstrap


def random_source(rng: Any, labels: Any, num_labels: int, skill: float) -> Any:
    logits = rng.normal(size=(len(labels), num_labels))
    logits[np.arange(len(labels)), labels] += skill
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_bootstrap_agrees_with_scipy() -> None:
    x = np.random.default_rng(0).exponential(size=200)
    low, high = percentile_interval(bootstrap_means(x[:, None], 4000)[:, 0])
    other = bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert low == pytest.approx(other.low, abs=0.02)
    assert high == pytest.approx(other.high, abs=0.02)


def test_bootstrap_is_seeded_and_independent_of_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    means = bootstrap_means(x, 100, seed=3)
    assert np.array_equal(means, bootstrap_means(x, 100, seed=3))
    assert not np.array_equal(means, bootstrap_means(x, 100, seed=4))
    monkeypatch.setattr("labelfusion.evaluation.statistics._CHUNK", 350)
    assert np.allclose(means, bootstrap_means(x, 100, seed=3))
    with pytest.raises(ValueError, match="no rows"):
        bootstrap_means(x[:0])


def test_intervals_of_accuracy_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = percentile_interval(bootstrap_means((rng.random((150, 1)) < 0.8).astype(float), 400, seed)[:, 0])
        hits += low <= 0.8 <= high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (450, 500)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    other = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((other.low, other.high))


def test_mcnemar() -> None:
    a = np.array([True] * 50 + [True] * 12 + [False] * 3 + [False] * 10)
    b = np.array([True] * 50 + [False] * 12 + [True] * 3 + [False] * 10)
    only_a, only_b, p = mcnemar(a, b)
    assert (only_a, only_b) == (12, 3)
    assert p == pytest.approx(binomtest(3, 15).pvalue)
    assert mcnemar(a, a) == (0, 0, 1.0)
    assert mcnemar(np.array([True, False]), np.array([False, True]))[2] == 1.0


def test_paired_bootstrap_p() -> None:
    rng = np.random.default_rng(0)
    assert paired_bootstrap_p(rng.normal(0, 1, 2000)) > 0.8
    assert paired_bootstrap_p(rng.normal(9, 1, 1999)) == pytest.approx(2 / 2000)
    assert paired_bootstrap_p(np.zeros(100)) == 1.0


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("multi_label", [False, True])
def test_values_are_those_of_classification_metrics(multi_label: bool) -> None:
    rng = np.random.default_rng(1)
    if multi_label:
        labels: Any = (rng.random((80, 4)) < 0.4).astype(float)
        p = np.clip(labels * 0.5 + rng.random((80, 4)) * 0.6, 0.01, 0.99)
        options: Any = ([0.4, 0.5, 0.6, 0.55], 1)
    else:
        labels = rng.integers(0, 4, 80)
        p = random_source(rng, labels, 4, 1.0)
        options = (None, 0)
    truth = truth_matrix(labels, 4)
    source = Source.make("fusion", p, multi_label, DecisionRule(*options))
    entry = compare_sources([source], truth, multi_label, 200)["sources"]["fusion"]
    expected = classification_metrics(p, labels, multi_label, *options)
    for name in ("accuracy", "macro_f1", "micro_f1", "log_loss", "brier"):
        assert entry[name]["value"] == pytest.approx(expected[name], abs=1e-6), name
        assert entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"], name
    assert entry["ece"] == pytest.approx(expected["ece"])


def test_rows_without_an_answer_count_as_wrong_and_are_left_out_of_the_comparison() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 120)
    fusion, llm = random_source(rng, labels, 3, 3.0), random_source(rng, labels, 3, 3.0)
    llm[:30] = np.nan
    sources = [Source.make("fusion", fusion, False), Source.make("llm", llm, False)]
    result = compare_sources(sources, truth_matrix(labels, 3), False, 300)
    entry, right = result["sources"]["llm"], llm[30:].argmax(axis=1) == labels[30:]
    assert entry["answered"] == 0.75
    assert entry["accuracy_answered"]["value"] == pytest.approx(right.mean())
    assert entry["accuracy"]["value"] == pytest.approx(right.sum() / 120)
    assert entry["log_loss"]["value"] == pytest.approx(
        classification_metrics(llm[30:], labels[30:], False)["log_loss"], abs=1e-6
    )
    (comparison,) = result["comparisons"]
    assert comparison["rows"] == 90
    fusion_right = fusion[30:].argmax(axis=1) == labels[30:]
    assert comparison["accuracy"]["value"] == pytest.approx(fusion_right.mean() - right.mean())
    assert comparison["only_first"] == int((fusion_right & ~right).sum())


def test_a_multi_label_row_without_an_answer_is_wrong_even_if_it_has_no_class() -> None:
    truth = np.zeros((4, 2), dtype=bool)
    p = np.full((4, 2), 0.1)
    p[0] = np.nan
    assert Source.make("llm", p, True).right(truth).tolist() == [False, True, True, True]


def test_a_source_that_never_answered_is_shown_and_not_compared() -> None:
    labels = np.array([0, 1] * 10)
    fusion = Source.make("fusion", np.eye(2)[labels] * 0.8 + 0.1, False)
    silent = Source.make("llm", np.full((20, 2), np.nan), False)
    result = compare_sources([fusion, silent], truth_matrix(labels, 2), False, 50)
    assert result["comparisons"] == []
    entry = result["sources"]["llm"]
    assert entry["answered"] == 0
    assert entry["accuracy"]["value"] == 0
    assert entry["accuracy_answered"]["value"] is None
    assert entry["log_loss"]["value"] is None
    assert entry["ece"] is None
    perfect = result["sources"]["fusion"]["accuracy"]
    assert (perfect["value"], perfect["high"]) == (1.0, 1.0)
    assert 0.8 < perfect["low"] < 0.9  # Wilson: 20 of 20 is no proof of perfection


def test_a_real_difference_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 400)
    good, bad = random_source(rng, labels, 3, 3.0), random_source(rng, labels, 3, 0.5)
    names = ["fusion", "same", "worse"]
    sources = [Source.make(n, p, False) for n, p in zip(names, [good, good, bad], strict=True)]
    same, worse = compare_sources(sources, truth_matrix(labels, 3), False, 500)["comparisons"]
    assert same["accuracy"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert same["p_holm"] == 1.0
    assert worse["accuracy"]["low"] > 0
    assert worse["p_holm"] == pytest.approx(2 * worse["accuracy"]["p"])
    assert worse["macro_f1"]["p"] < 0.01


def test_per_class_confusion_and_reliability() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    p = np.eye(4)[[0, 0, 1, 1, 1, 0]] * 0.8 + 0.05
    p[5] = np.nan
    source, truth = Source.make("fusion", p, False), truth_matrix(labels, 4)
    a, b, c, d = per_class([source], truth, ["a", "b", "c", "d"])
    assert a["support"] == 3
    assert a["sources"]["fusion"] == {"found": 2, "predicted": 2, "precision": 1.0, "recall": 2 / 3, "f1": 0.8}
    assert b["sources"]["fusion"]["precision"] == pytest.approx(2 / 3)
    assert c["sources"]["fusion"] == {"found": 0, "predicted": 0, "precision": None, "recall": 0.0, "f1": 0.0}
    assert d["sources"]["fusion"] | {"precision": None, "recall": None, "f1": None} == d["sources"]["fusion"]
    assert confusion(source, truth).tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    (only,) = reliability(source, truth, False)
    assert only == pytest.approx({"confidence": 0.85, "accuracy": 0.8, "rows": 5})
