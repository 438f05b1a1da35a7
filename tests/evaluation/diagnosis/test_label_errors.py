"""Suspected labels against cleanlab: they are the label issues on which both sources agree, ranked alike."""

from typing import Any

import numpy as np
import pytest
from labelfusion.evaluation.diagnosis.label_errors import suspected_labels

filters = pytest.importorskip("cleanlab.filter")
K = 3


def opinions(truth: np.ndarray, seed: int) -> np.ndarray:
    """float64 `(n, K)`: probabilities of a source that is mostly right."""
    logits = np.random.default_rng(seed).normal(size=(len(truth), K)) + 2.5 * np.eye(K)[truth]
    odds = np.exp(logits)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def test_single_label_suspects_are_issues_of_both_sources() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, K, 400)
    labels = np.where(rng.random(400) < 0.1, (truth + 1) % K, truth)
    encoder, llm = opinions(truth, 1), opinions(truth, 2)
    found = suspected_labels(encoder, llm[:, None], labels, multi_label=False)
    issues = [filters.find_label_issues(labels, p, filter_by="predicted_neq_given", n_jobs=1) for p in (encoder, llm)]
    agreed = encoder.argmax(axis=1) == llm.argmax(axis=1)
    rows = [entry["row"] for entry in found]
    assert 20 < len(rows) < 60
    assert set(rows) == set(np.flatnonzero(issues[0] & issues[1] & agreed).tolist())
    rank: Any = pytest.importorskip("cleanlab.rank")
    quality = np.prod([rank.get_label_quality_scores(labels, p, method="self_confidence") for p in (encoder, llm)], 0)
    assert np.all(np.diff(quality[rows]) >= -1e-4)  # the most suspect first
    assert (labels != truth)[rows].mean() > max((labels != truth)[issue].mean() for issue in issues)


def test_multi_label_suspects_are_issues_of_a_class_for_both_sources() -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((300, K)) < 0.4).astype(int)
    labels = np.where(rng.random((300, K)) < 0.05, 1 - truth, truth)
    encoder, llm = (np.clip(0.15 + 0.7 * truth + rng.normal(scale=0.2, size=truth.shape), 0.01, 0.99) for _ in "ab")
    found = suspected_labels(encoder, llm[:, None], labels.astype(np.float32), multi_label=True)
    expected = set()
    for k in range(K):  # each class against the others
        of_class = [
            filters.find_label_issues(
                labels[:, k], np.stack([1 - p[:, k], p[:, k]], 1), filter_by="predicted_neq_given", n_jobs=1
            )
            for p in (encoder, llm)
        ]
        expected |= {(int(row), k) for row in np.flatnonzero(of_class[0] & of_class[1])}
    assert len(expected) > 20
    assert {(e["row"], k) for e in found for k in {*e["given"]} ^ {*e["suggested"]}} == expected
