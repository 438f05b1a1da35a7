"""Fits without labels, or with few: the LLMs label the texts, and only labels of people decide between the sources."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.evaluation.reports.training_report import training_summary
from labelfusion.training.encoder import contrastive_fit, encoder_fit, finetune_fit
from labelfusion.training.unlabelled import pseudo_labels
from llm_server import LLMServer
from made_data import NAMES, frame, scores_for, texts_and_labels

from labelfusion import AutoFusionClassifier, LLMProvider


@pytest.fixture
def make(tiny_encoder_dir: str) -> Any:
    def build(**options: Any) -> AutoFusionClassifier:
        defaults = {"encoder": tiny_encoder_dir, "llm": "recorded", "encoder_training": "probe", "labels": NAMES}
        return AutoFusionClassifier(**(defaults | options))

    return build


def test_pseudo_labels_are_those_of_the_pool() -> None:
    scores = np.array([[[0.6, 0.4], [0.1, 0.9]], [[0.6, 0.4], [np.nan, np.nan]], [[np.nan] * 2] * 2])
    found = pseudo_labels(scores, multi_label=False)
    assert (found.rows.tolist(), found.labels.tolist(), found.weights.tolist()) == ([0, 1], [1, 0], [1, 1])
    found = pseudo_labels(scores, multi_label=True)
    assert (found.rows.tolist(), found.labels.tolist()) == ([0, 1], [[0, 1], [1, 0]])


def test_llms_that_are_split_evenly_do_not_give_the_first_class() -> None:
    scores = np.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    found = pseudo_labels(scores, multi_label=False)
    assert (found.rows.tolist(), found.labels.tolist()) == ([0, 0, 1], [1, 2, 0])
    assert found.weights.tolist() == [0.5, 0.5, 1.0]
    found = pseudo_labels(scores, multi_label=True)
    assert (found.rows.tolist(), found.labels.tolist()) == ([0, 0, 1], [[0, 1, 1], [0, 0, 0], [1, 0, 0]])


def several(n: int = 300) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, a good LLM beside two poor ones that make the same errors, and the right classes."""
    texts, truth = texts_and_labels(n)
    rng = np.random.default_rng(0)
    wrong = (truth + 1) % 3
    said = [np.where(rng.random(n) < right, truth, wrong) for right in (0.95, 0.5)]
    scores = np.stack([np.eye(3)[said[0]], np.eye(3)[said[1]], np.eye(3)[said[1]]], axis=1)
    return texts, scores, truth


def test_the_label_model_is_reported(make: Any) -> None:
    texts, scores, _ = several()
    data = {"text": texts, "llm_scores": scores.tolist()}
    clf = make().fit(unlabelled=data)
    assert clf.report_["label_model"]["chosen"] == "dawid_skene"
    assert len(clf.report_["label_model"]["estimated_accuracy"]) == 3
    assert training_summary_of(clf).count("not measured") == 3
    mean = make(label_model="mean").fit(unlabelled=data)
    assert mean.report_["label_model"] == {"chosen": "mean"}
    assert "not measured" not in training_summary_of(mean)


def test_graded_answers_count_as_much_as_hard_ones(make: Any) -> None:
    texts, truth = texts_and_labels(200)
    graded = np.where(np.eye(3)[truth] > 0, 0.4, 0.3)
    more, _ = texts_and_labels(60, seed=3)
    wrong = np.eye(3)[np.zeros(60, dtype=int)]
    answers = []
    for scores, new in ((graded, np.where(wrong > 0, 0.4, 0.3)), (np.eye(3)[truth], wrong)):
        clf = make().fit(unlabelled={"text": texts, "llm_scores": scores[:, None].tolist()})
        answers.append(clf.predict_proba(more, llm_scores=new[:, None]))
    np.testing.assert_allclose(answers[0], answers[1], atol=0.02)


def test_texts_without_labels(make: Any, tmp_path: Path) -> None:
    texts, truth = texts_and_labels(300)
    asked: list[str] = []

    def llm(batch: list[str]) -> np.ndarray:
        asked.extend(batch)
        return scores_for(truth)[[texts.index(text) for text in batch], 0]

    clf = make(llm=llm).fit(texts)
    assert sorted(asked) == sorted(texts)
    assert clf.report_["gold_rows"] == 0
    assert "out_of_sample" not in clf.report_
    assert 0.5 < clf.report_["agreement_with_llms"] < 1
    assert "no accuracy is known" in training_summary_of(clf)
    assert clf.suspected_labels() == []
    more, right = texts_and_labels(200, seed=3)
    scores = scores_for(right, seed=9)
    names = np.array(NAMES)[right]
    alone = np.mean(np.array(clf.predict(more, llm_policy="never")) == names)
    fused = np.mean(np.array(clf.predict(more, llm_scores=scores)) == names)
    teacher = np.mean(scores[:, 0].argmax(axis=1) == right)
    assert alone > teacher  # it does not repeat the LLM's random errors
    assert fused > teacher
    clf.save_pretrained(tmp_path / "m")
    again = AutoFusionClassifier.from_pretrained(tmp_path / "m", llm=llm)
    np.testing.assert_array_equal(again.predict(more, llm_policy="never"), clf.predict(more, llm_policy="never"))


def training_summary_of(clf: Any) -> str:
    clf.report_["data"] = "texts"
    return training_summary(clf)


def test_a_few_gold_rows_judge_the_sources(make: Any) -> None:
    gold, texts = frame(30), frame(270, seed=4)
    texts["llm_scores"] = texts.llm_scores.map(lambda scores: [[0.05, 0.05, 0.9]])  # always the same
    gold["llm_scores"] = texts["llm_scores"][:30].tolist()
    clf = make().fit(gold, unlabelled=texts.drop(columns="label"))
    assert clf.report_["gold_rows"] == 30
    assert clf.report_["out_of_sample"]["accuracy"] > 0  # measured on gold rows
    good = frame(270, seed=4).drop(columns="label")
    clf = make().fit(frame(30), unlabelled=good)
    assert clf.report_["out_of_sample"]["accuracy"] > 0.8
    assert clf.report_["fusion"]["rows"] == 30
    assert clf.report_["fusion"]["share_of_fixed_weights"] == 0.4  # 20 of 20 + 30


def test_a_fit_on_few_rows_is_held_by_the_fixed_weights(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fusion of the model is the mean of both, in log-odds."""
    from labelfusion.training import unlabelled

    texts, _ = texts_and_labels(40, seed=2)
    scores = np.eye(3)[np.zeros(40, dtype=int)][:, None]
    logits = {}
    for rows in (0, 20, 10**9):
        monkeypatch.setattr(unlabelled, "FIXED_ROWS", rows)
        clf = make(calibration="none", fusion="pool").fit(
            frame(20), unlabelled=frame(270, seed=4).drop(columns="label")
        )
        found = np.log(clf.predict_proba(texts, llm_scores=scores))
        logits[rows] = found - found.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits[20], (logits[0] + logits[10**9]) / 2, atol=1e-3)
    assert np.abs(logits[0] - logits[10**9]).max() > 0.1


@pytest.mark.parametrize("training", ["contrastive", "full", "lora"])
def test_the_encoder_is_trained_on_the_llms_labels(
    make: Any, training: str, tiny_encoder_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text on which two LLMs are split teaches both answers, and weighs as much as any other."""
    texts, truth = texts_and_labels(120)
    other = np.where(np.arange(120) % 4 == 0, (truth + 1) % 3, truth)
    scores = np.stack([np.eye(3)[truth], np.eye(3)[other]], axis=1)
    seen: list[tuple[list[str], np.ndarray, np.ndarray]] = []
    module, name = (contrastive_fit, "contrast") if training == "contrastive" else (finetune_fit, "finetune")
    train = getattr(module, name)

    def watch(encoder: Any, texts: list[str], labels: np.ndarray, *args: Any, **kwargs: Any) -> None:
        seen.append((texts, labels, kwargs["weights"]))
        train(encoder, texts, labels, *args, **kwargs)

    monkeypatch.setattr(module, name, watch)
    clf = make(encoder_training=training, num_train_epochs=1).fit(
        unlabelled={"text": texts, "llm_scores": scores.tolist()}
    )
    assert clf.report_["encoder_training"] == training
    assert clf.report_["rows"] == 150
    assert 0 < clf.report_["agreement_with_llms"] < 1
    used, labels, weights = seen[-1]
    assert len(used) == 150
    by_text = {text: sum(w for x, w in zip(used, weights, strict=True) if x == text) for text in texts}
    assert max(by_text.values()) == pytest.approx(min(by_text.values()))
    assert sorted(labels[i] for i, text in enumerate(used) if text == texts[0]) == [truth[0], other[0]]
    assert clf.predict_proba(texts, llm_policy="never").shape == (120, 3)


@pytest.mark.parametrize("training", ["contrastive", "full"])
def test_all_gold_rows_judge_the_sources_of_a_trained_encoder(
    make: Any, training: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where not all rows are held out, for lack of tokens or because they are many."""
    monkeypatch.setattr(encoder_fit, "SMALL", 200)
    texts = frame(270, seed=4).drop(columns="label")
    options = {"encoder_training": training, "max_train_tokens": 1000, "num_train_epochs": 1}
    clf = make(**options).fit(frame(30), unlabelled=texts)
    assert clf.report_["encoder_training"] == training
    assert clf.report_["fusion"]["rows"] == 30


def test_gold_labels_are_kept(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelfusion.training import recipe

    seen: list[Any] = []

    def watch(state: Any) -> Any:
        seen.append(state)
        return state

    monkeypatch.setattr(recipe, "UNLABELLED_RECIPE", [watch, *recipe.UNLABELLED_RECIPE])
    gold, texts = frame(9), frame(100, seed=4).drop(columns="label")
    clf = make().fit(gold, unlabelled=texts)
    assert {entry["row"] for entry in clf.suspected_labels()} <= set(range(9))
    (state,) = seen
    assert state.gold.sum() == 9
    assert state.labels[state.gold].tolist() == [NAMES.index(name) for name in gold.label]
    assert state.texts[:9] == gold.text.tolist()


def test_one_budget_for_gold_rows_and_texts(make: Any) -> None:
    gold, texts = frame(30), frame(200, seed=4)
    with LLMServer(labels=NAMES) as server:
        llm = LLMProvider("m", api_base=server.url, method="json", price=(100.0, 400.0))
        clf = make(llm=llm, max_cost_usd=1.0, cache=False)
        clf.fit(gold.drop(columns="llm_scores"), unlabelled=texts[["text"]])
    assert 30 < server.paid.total() < 230
    assert 0.9 < clf.report_["cost_usd"] < 1.05  # both together


def test_rows_weigh_by_class(make: Any) -> None:
    data = frame(120)[["text", "llm_scores"]]
    equal, weighed = (make(class_weight=w).fit(unlabelled=data) for w in (None, {"film": 9.0}))
    texts, _ = texts_and_labels(100, seed=2)
    films = [np.mean(np.array(clf.predict(texts, llm_policy="never")) == "film") for clf in (equal, weighed)]
    assert films[1] >= films[0]
    assert weighed.report_["gold_rows"] == 0


def test_several_labels(make: Any) -> None:
    data = frame(120)
    clf = make(multi_label=True).fit(unlabelled=data[["text", "llm_scores"]])
    assert clf.predict_proba(data.text.tolist(), llm_policy="never").shape == (120, 3)


@pytest.mark.parametrize(
    ("options", "fit", "message"),
    [
        ({"labels": None}, {"train": ["a", "b"]}, "need the names of the classes"),
        ({"llm": None}, {"train": ["a", "b"]}, "need an LLM"),
        ({"label_model": "snorkel"}, {"train": ["a", "b"]}, "`label_model` is 'snorkel'; expected one of auto, mean"),
        ({}, {}, "`train` is missing"),
        ({"llm": {"model": "recorded", "prompt": "few-shot"}}, {"train": ["a", "b"]}, "needs labelled examples"),
        ({}, {"train": ["a", "b"], "sample_weight": [1, 2]}, "`sample_weight` cannot"),
        ({"llm": "openai/x", "write_guidelines": True}, {"train": ["a", "b"]}, "needs labelled examples"),
    ],
)
def test_what_cannot_be_learnt_from(make: Any, options: Any, fit: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options).fit(**fit)
