"""Figures of classes, errors with their texts, warnings and advice of an evaluation."""

import json

import numpy as np
import pandas as pd
import pytest
from labelfusion.evaluation.diagnosis.advice import advise
from labelfusion.evaluation.diagnosis.class_figures import class_figures, score_warnings
from labelfusion.evaluation.diagnosis.class_order import other_order
from labelfusion.evaluation.diagnosis.confusions import confused_pairs, error_rows, list_errors, pair_list
from labelfusion.evaluation.diagnosis.evaluate_classifier import evaluation
from labelfusion.evaluation.diagnosis.measurement import Measurement
from labelfusion.evaluation.diagnosis.threshold_gain import GRID, decided_by_f1, mean_f1
from labelfusion.evaluation.reports.report import to_markdown
from labelfusion.evaluation.reports.report_content import measure
from made_data import NAMES, frame
from made_run import measured_run, one_hot
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from labelfusion import AutoFusionClassifier


def kinds(run: Measurement) -> list[str]:
    return [piece["kind"] for piece in advise(run)]


def test_figures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, probs = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200)
    run = measured_run(probs, labels)
    found = class_figures(run)
    expected = precision_recall_fscore_support(labels, probs.argmax(1))
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose([entry[name] for entry in found], values)
    np.testing.assert_array_equal(evaluation(run)["confusion"], confusion_matrix(labels, probs.argmax(1)))
    assert found[0]["training_rows"] is None
    pairs = pair_list(run, 100)
    assert sum(pair["rows"] for pair in pairs) == run.wrong.sum()


def test_confused_pairs_of_several_labels() -> None:
    truth = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=bool)
    decided = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 1]], dtype=bool)
    assert confused_pairs(truth, decided).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_the_most_confident_errors_come_first() -> None:
    labels = np.array([0, 0, 1, 1])
    run = measured_run(np.array([[0.2, 0.8], [0.9, 0.1], [0.99, 0.01], [0.4, 0.6]]), labels, one_hot(labels, 2))
    found = list_errors(run)
    assert [entry["row"] for entry in found] == [2, 0]
    assert found[0]["text"] == "text 2"
    assert (found[0]["truth"], found[0]["predicted"]) == ("c1", "c0")
    assert found[0]["sources"]["llm"]["predicted"] == "c1"
    assert found[0]["confidence"] == pytest.approx(0.99, abs=1e-4)
    assert len(list_errors(run, 1)) == 1
    json.dumps(found)
    # A class that is wrongly given is what the model is sure of; what it only misses is rarely so.
    several = np.array([[0.9, 0.4], [0.6, 0.0001]])
    assert error_rows(measured_run(several, np.array([[0, 0], [0, 1]]))).tolist() == [0, 1]


def test_rows_are_those_of_the_data(tiny_encoder_dir: str) -> None:
    data = frame(60, seed=2)
    data.loc[[0, 3], "text"] = ""
    clf = AutoFusionClassifier(tiny_encoder_dir, llm="recorded", encoder_training="probe").fit(frame(60))
    clf.empty_texts = "skip"
    found = clf.evaluate(data, errors=True)
    assert found["rows"] == 58
    assert len(found["errors"]) == round((1 - found["fusion"]["accuracy"]) * 58) > 0
    for entry in found["errors"]:
        assert data["text"][entry["row"]] == entry["text"]
        assert data["label"][entry["row"]] == entry["truth"]
    assert "errors" not in clf.evaluate(data)


def test_advice_of_more_rows_counts_them() -> None:
    """Classes with 40 rows and more are good, two with fewer are never found: what is missing to 40 is said."""
    labels = np.repeat(np.arange(5), 20)
    said = np.where(labels >= 3, 0, labels)
    run = measured_run(one_hot(said, 5), labels, class_rows=[90, 40, 50, 4, 10])
    piece = next(p for p in advise(run) if p["kind"] == "more_rows")
    assert piece["classes"] == ["c3", "c4"]
    assert "2 of 5 classes have an F1 below 0.5, 2 of them 0" in piece["fact"]
    assert "c3 (+36), c4 (+30)" in piece["advice"]
    assert piece["rows"] == 40
    with_llm = measured_run(one_hot(said, 5), labels, one_hot(said, 5), class_rows=[90, 40, 50, 4, 10])
    assert "`class_descriptions` of c3, c4" in next(p for p in advise(with_llm) if p["kind"] == "more_rows")["advice"]
    assert "more_rows" not in kinds(measured_run(one_hot(labels, 5), labels, class_rows=[90, 40, 50, 4, 10]))
    assert "more_rows" not in kinds(measured_run(one_hot(said, 5), labels))  # training rows unknown


def test_advice_of_thresholds_is_measured_on_other_rows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((600, 4)) < [0.5, 0.1, 0.1, 0.1]
    probs = np.clip(truth * 0.2 + rng.random((600, 4)) * 0.15, 0, 1)  # rare classes never reach 0.5
    probs[:, 0] = np.where(truth[:, 0], 0.9, 0.1)
    run = measured_run(probs, truth.astype(float))
    piece = next(p for p in advise(run) if p["kind"] == "thresholds")
    assert piece["classes"] == ["c1", "c2", "c3"]
    assert 'threshold_metric="macro_f1"' in piece["advice"]
    assert f"instead of {mean_f1(probs >= 0.5, truth):.3f}" in piece["fact"]
    calibrated = np.where(rng.random((600, 4)) < 0.5, 0.04, 0.96)
    assert "thresholds" not in kinds(measured_run(calibrated, (rng.random((600, 4)) < calibrated).astype(float)))


def test_a_threshold_chosen_on_the_same_rows_would_flatter() -> None:
    differences = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth, noise = rng.random((40, 3)) < 0.2, rng.random((40, 3))
        same = max(mean_f1(noise >= t, truth) for t in GRID)
        differences.append(same - mean_f1(decided_by_f1(noise, truth), truth))
        assert mean_f1(noise >= 0.5, truth) == pytest.approx(f1_score(truth, noise >= 0.5, average="macro"))
    assert np.mean(differences) > 0.02


def test_advice_of_class_weights() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [450, 50])
    rare = np.where(labels == 1, 0.35, 0.01) + rng.random(500) * 0.05
    run = measured_run(np.column_stack([1 - rare, rare]), labels, class_rows=[450, 50])
    piece = next(p for p in advise(run) if p["kind"] == "class_weight")
    assert "Classes found that are never found now: c1." in piece["fact"]


def test_advice_of_confused_classes_names_both_and_what_merging_gains() -> None:
    labels = np.repeat(np.arange(4), 25)
    said = labels.copy()
    said[:12] = 1
    run = measured_run(one_hot(said, 4), labels, one_hot(said, 4))
    piece = next(p for p in advise(run) if p["kind"] == "confused")
    assert piece["classes"] == ["c0", "c1"]
    assert (
        "12 of 25 rows of c0 got c1 instead, 0 of 25 of c1 got c0. llm takes them for each other in 12 rows."
        in (piece["fact"])
    )
    assert "accuracy would be 100.0% instead of 88.0%" in piece["advice"]
    assert "class_descriptions" in piece["advice"]
    described = measured_run(one_hot(said, 4), labels, one_hot(said, 4), descriptions={"c0": "a", "c1": "b"})
    assert "class_descriptions" not in next(p for p in advise(described) if p["kind"] == "confused")["advice"]


def test_a_class_that_is_always_given_is_confused_with_none() -> None:
    rng = np.random.default_rng(0)
    truth = np.eye(6)[rng.integers(0, 6, 300)]
    probs = np.full((300, 6), 0.1)
    probs[:, 5] = 0.9
    assert "confused" not in kinds(measured_run(probs, truth))


def test_warning_of_another_class_order() -> None:
    labels = np.arange(120) % 3
    scores = one_hot((labels + 1) % 3, 3)
    run = measured_run(one_hot(labels, 3), labels, scores, names=["x", "y", "z"])
    assert "as x, y, z they name the right class for 0 % of the texts, as z, x, y for 100 %" in score_warnings(run)[0]
    assert score_warnings(measured_run(one_hot(labels, 3), labels, one_hot(labels, 3))) == []
    assert other_order(scores[:20], labels[:20]) is None


def test_nothing_stands_out_of_a_good_model() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    said = np.where(rng.random(300) < 0.1, rng.integers(0, 3, 300), labels)
    probs = np.where((said == labels)[:, None], one_hot(said, 3, 0.95), one_hot(said, 3, 0.5))
    assert advise(measured_run(probs, labels, class_rows=[100, 100, 100])) == []


def test_advice_of_calibration() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    said = np.where(rng.random(300) < 0.4, rng.integers(0, 3, 300), labels)
    piece = next(p for p in advise(measured_run(one_hot(said, 3, 0.98), labels)) if p["kind"] == "calibration")
    assert "The mean probability of the predicted class is 98.0%" in piece["fact"]
    assert piece["advice"].endswith("too sure.")
    assert "(not these test rows)" in piece["advice"]


def test_evaluate_and_the_report(tiny_encoder_dir: str) -> None:
    clf = AutoFusionClassifier(tiny_encoder_dir, llm="recorded", encoder_training="probe").fit(frame(90))
    test = pd.concat([frame(60, seed=5), frame(3, seed=6).assign(label="music")], ignore_index=True)
    found = clf.evaluate(test)
    assert found["classes"] == [*NAMES, "music"]
    assert [entry["training_rows"] for entry in found["per_class"]] == [30, 30, 30, 0]
    assert np.sum(found["confusion"]) == 63
    assert found["costs"]["answered"] == 63
    piece = next(p for p in found["advice"] if p["kind"] == "unknown_class")
    assert piece["classes"] == ["music"]
    # Every answer to an unknown class is wrong: merging it with a known one is no advice.
    unknown = clf.evaluate(frame(60, seed=6).assign(label="music"))
    assert "confused" not in [p["kind"] for p in unknown["advice"]]
    report = measure(clf, test, "d.csv", "m", num_resamples=50)
    assert report["advice"] == found["advice"]
    assert "music" in to_markdown(report).partition("## What to do")[2]
    assert "text" not in json.dumps(report["advice"] + report["confused"])
    json.dumps(found)
