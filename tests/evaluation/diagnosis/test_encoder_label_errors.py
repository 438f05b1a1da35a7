"""Suspected labels without an LLM: confident learning on out-of-fold probabilities, as in cleanlab."""

import numpy as np
import pytest
from labelfusion.evaluation.diagnosis.encoder_label_errors import suspected_by_encoder
from made_data import NAMES, texts_and_labels

from labelfusion import AutoFusionClassifier


def noisy(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 300)
    probs = rng.dirichlet(np.ones(3), 300) * 0.4 + np.eye(3)[truth] * 0.6
    labels = np.where(rng.random(300) < 0.1, (truth + 1) % 3, truth)
    return probs, labels


def test_the_rows_are_those_of_cleanlab() -> None:
    filters = pytest.importorskip("cleanlab.filter")
    probs, labels = noisy()
    found = suspected_by_encoder(probs, labels, False)
    theirs = filters.find_label_issues(labels, probs, filter_by="confident_learning", n_jobs=1)
    assert {entry["row"] for entry in found} == set(np.flatnonzero(theirs))
    assert [e["encoder_given"] for e in found] == sorted(e["encoder_given"] for e in found)
    for entry in found:
        assert entry["given"] == [labels[entry["row"]]]
        assert entry["suggested"] == [probs[entry["row"]].argmax()]


def test_multi_label_judges_each_class() -> None:
    truth = np.tile([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], (20, 1))
    probs, labels = truth * 0.8 + 0.1, truth.copy()
    labels[0] = [1.0, 1.0]
    probs[5] = np.nan
    (entry,) = suspected_by_encoder(probs, labels, True)
    assert (entry["row"], entry["given"], entry["suggested"]) == (0, [0, 1], [0])
    assert (entry["encoder_given"], entry["encoder_suggested"]) == (0.1, 0.9)
    assert entry["llm_given"] is None


def test_a_classifier_without_an_llm(tiny_encoder_dir: str) -> None:
    texts, truth = texts_and_labels(150)
    labels = truth.copy()
    wrong = np.random.default_rng(3).permutation(150)[:10].tolist()
    labels[wrong] = (labels[wrong] + 1) % 3
    clf = AutoFusionClassifier(encoder=tiny_encoder_dir, llm=None, labels=NAMES, encoder_training="probe")
    found = clf.fit(texts, labels).suspected_labels()
    listed = [entry["row"] for entry in found]
    assert len(set(wrong) & set(listed[:15])) >= 6
    assert found[0]["given"] in NAMES
    assert found[0]["suggested"] != found[0]["given"]
