"""Promises: answers are held back so that few of those given are wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LabelFusionConfig
from labelfusion.pipelines import run
from labelfusion.pipelines.answer_columns import AnswerColumns
from labelfusion.pipelines.formatting import format_answers, lacking
from labelfusion.pipelines.inference import Inference
from labelfusion.routing.gate import SHARES
from labelfusion.routing.policy import Above, controlled_risk
from labelfusion.routing.risk import RiskControl, risk_control
from labelfusion.training.calibration.risk_fit import calibrate_risk
from mapie.classification import SplitConformalClassifier
from mapie.risk_control import MultiLabelClassificationController
from sklearn.base import BaseEstimator, ClassifierMixin
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model
from labelfusion import LabelFusionPipeline


def rows(n: int, seed: int, noise: float, k: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Overconfident encoder and better, also overconfident fusion; a value of asking; the truth."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * noise
    logits[np.arange(n), labels] += 1.5
    better = logits + rng.normal(size=(n, k)) * 0.5
    better[np.arange(n), labels] += 1.0
    probs = [np.exp(3 * z) / np.exp(3 * z).sum(axis=1, keepdims=True) for z in (logits, better)]
    return probs[0], probs[1], 1 - probs[0].max(axis=1), labels


@pytest.mark.parametrize("max_risk", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_promise_holds_on_average_over_draws(max_risk: float, share: float) -> None:
    """Over 200 draws of 200 calibration rows, the mean loss on new rows is within the risk, and near it."""
    wrong, missed, given = [], [], []
    for seed in range(200):
        encoder, fused, values, labels = rows(200, seed, 1.0)
        stored = calibrate_risk(encoder, fused, values, labels)
        above = {0.0: np.inf, 1.0: -np.inf}.get(share, float(np.interp(share, SHARES, stored["shares"])))
        control = risk_control(max_risk, stored, False, above)
        encoder, fused, values, labels = rows(500, 10_000 + seed, 1.0)
        probs = np.where((values > above)[:, None], fused, encoder)
        answered, sets = control.answered(probs), control.label_sets(probs)
        wrong.append((answered & (probs.argmax(axis=1) != labels)).mean())
        missed.append(1 - sets[np.arange(500), labels].mean())
        given.append(answered.mean())
    error = 3 * max(np.std(wrong), np.std(missed)) / 200**0.5
    assert np.mean(wrong) <= max_risk + error
    assert np.mean(missed) <= max_risk + error
    if np.mean(given) < 0.95:  # it had to hold back: no more than was needed
        assert np.mean(wrong) >= max_risk - 0.02


def test_the_promise_of_label_sets_for_multi_label() -> None:
    rates, answers = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        probs = rng.beta(0.5, 0.5, (900, 5))
        truth = (rng.random((900, 5)) < 0.8 * probs + 0.05).astype(float)
        stored = calibrate_risk(probs[:300], probs[:300], np.zeros(300), truth[:300])
        control = risk_control(0.05, stored, True)
        sets, answered = control.label_sets(probs[300:]), control.answered(probs[300:])
        new = truth[300:] > 0
        rates.append(((new & ~sets).sum(axis=1) / new.sum(axis=1).clip(1)).mean())
        answers.append((answered & ((probs[300:] >= 0.5) != new).any(axis=1)).mean())
    assert 0.03 < np.mean(rates) <= 0.055
    assert np.mean(answers) <= 0.055


def test_an_encoder_without_errors_holds_nothing_back() -> None:
    probs = np.tile([0.9, 0.1], (100, 1))
    stored = calibrate_risk(probs, probs, np.zeros(100), np.zeros(100, int))
    assert stored["encoder"] == {"wrong": [], "missed": []}
    control = risk_control(0.05, stored, False)
    assert control.answered(np.array([[0.5, 0.5]])).all()
    assert control.label_sets(np.array([[0.6, 0.4]])).tolist() == [[True, False]]


def test_what_is_stored_is_small() -> None:
    encoder, fused, values, labels = rows(10_000, 0, 1.0)
    stored = calibrate_risk(encoder, fused, values, labels)
    assert stored["rows"] == 2000
    assert len(stored["encoder"]["wrong"]) < 1000


@pytest.mark.parametrize("max_risk", [0, 1, -0.1, "0.1", True])
def test_a_risk_out_of_range_is_refused(max_risk: Any) -> None:
    with pytest.raises(ValueError, match="`max_risk` must be a number between 0 and 1"):
        risk_control(max_risk, {"rows": 10}, False)


def test_a_promise_that_cannot_be_kept_is_not_given() -> None:
    encoder, fused, values, labels = rows(50, 0, 1.0)
    stored = calibrate_risk(encoder, fused, values, labels)
    with pytest.raises(ValueError, match=r"cannot be guaranteed from 50 held-out rows: 0\.0196 is the least"):
        risk_control(0.01, stored, False)
    with pytest.raises(ValueError, match="needs the held-out rows"):
        controlled_risk(0.1, "always", LabelFusionConfig(num_labels=3))
    stage = {"recall": [0.9] * 3, "rate": [0.3] * 3, "threshold": 0.1}
    config = LabelFusionConfig(num_labels=3, llm_providers=["openai/a", "openai/b"])
    config.calibration |= {"risk": stored, "gate": {**stage, "stages": [stage] * 2}}
    with pytest.raises(ValueError, match="not calibrated for a cascade"):
        controlled_risk(0.1, "auto", config)
    assert controlled_risk(0.1, Above(0.5), config).confidence <= 1.0


def answers(make_model: Callable[..., Model], tokenizer: Tokenizer, multi_label: bool, **options: Any) -> list[Any]:
    model = make_model(num_providers=1, multi_label=multi_label)
    pipe = LabelFusionPipeline(model=model, tokenizer=tokenizer, device="cpu")
    texts = [f"w{i % 10} good movie w{i // 10}" for i in range(40)]
    alone = pipe(texts, return_sources=True, top_k=None)
    probs = np.array([[a["sources"]["encoder"][f"class{k}"] for k in range(3)] for a in alone])
    wrong = np.arange(40) % 2 == 0
    labels = ((probs > 0.5) ^ wrong[:, None]).astype(float) if multi_label else (probs.argmax(axis=1) + wrong) % 3
    model.config.calibration["risk"] = calibrate_risk(probs, probs, np.zeros(40), labels)
    return list(pipe(iter(texts), max_risk=0.2, **{"llm_policy": "never", **options}))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_pipeline_abstains(make_model: Callable[..., Model], tiny_tokenizer: Tokenizer, multi_label: bool) -> None:
    found = answers(make_model, tiny_tokenizer, multi_label)
    name = "labels" if multi_label else "label"
    assert {a["abstained"] for a in found} == {True, False}
    assert all((a[name] is None) == a["abstained"] for a in found)
    for a in found:
        assert set(a["label_set"]) <= {"class0", "class1", "class2"}
        if not multi_label and not a["abstained"]:
            assert a["label_set"][0] == a["label"]
    with_all = answers(make_model, tiny_tokenizer, multi_label, return_sources=True)
    assert [a["abstained"] for a in with_all] == [a["abstained"] for a in found]
    assert all("sources" in a and "llm_missing" not in a for a in with_all)
    without = answers(make_model, tiny_tokenizer, multi_label, return_sources=True, llm_policy="always")
    assert all(a["abstained"] and "no scores were given" in a["llm_missing"] for a in without)


def test_a_text_whose_llm_answer_is_missing_is_held_back() -> None:
    config = LabelFusionConfig(num_labels=2, llm_providers=["openai/a"])
    nothing = np.full((2, 1, 2), np.nan, dtype=np.float32)
    logits = np.array([[9.0, 0.0], [9.0, 0.0]], dtype=np.float32)
    result = Inference(logits, logits, nothing, np.ones(2, bool), np.zeros(2), False, {1: "deadline"})
    silent = Inference(logits, logits, nothing, np.zeros(2, bool), np.zeros(2), wanted=np.array([[False], [True]]))
    stored = calibrate_risk(*(np.tile([0.9, 0.1], (100, 1)),) * 2, np.zeros(100), np.zeros(100, int))
    for inference in (result, silent):
        first, second = format_answers(inference, config, control=risk_control(0.1, stored, False))
        assert (first["label"], first["abstained"], len(first["label_set"])) == ("LABEL_0", False, 1)
        assert (second["label"], second["abstained"], len(second["label_set"])) == (None, True, 2)
        assert (first["abstained_why"], second["abstained_why"]) == (None, "no answer of the LLM")


def test_the_reason_of_abstaining_is_told() -> None:
    config = LabelFusionConfig(num_labels=2)
    logits = np.array([[9.0, 0.0], [9.0, 0.0], [0.1, 0.0], [np.nan, np.nan]], dtype=np.float32)
    nothing = np.full((4, 0, 2), np.nan, dtype=np.float32)
    novelty = np.array([0.0, 0.5, 0.0, 0.0], dtype=np.float32)
    result = Inference(logits, logits, nothing, np.zeros(4, bool), np.zeros(4), novelty=novelty)
    control = RiskControl(confidence=0.9, cutoff=0.1, multi_label=False, max_risk=0.1, outside=True)
    reasons = [None, "unlike the training texts", "unsure", "no text"]
    assert [answer["abstained_why"] for answer in format_answers(result, config, control=control)] == reasons
    columns = AnswerColumns(config, ["a", "b"], control=control)
    assert [row["abstained_why"] for row in columns.rows(result)] == reasons


def test_a_text_without_the_scores_that_the_policy_counts_on_is_held_back(
    make_model: Callable[..., Model], tiny_tokenizer: Tokenizer
) -> None:
    """Recorded scores that do not come, a function that is not saved, a blank text: nobody says an error."""
    model = make_model(num_providers=2)
    scores = np.tile(np.array([0.1, 0.8, 0.1], dtype=np.float32), (2, 1))
    half = np.where([[False], [True]], np.nan, scores)
    result = run(
        model, tiny_tokenizer, ["good", "bad", "", "film"], llm_scores=[scores, half, None, None], empty_texts="skip"
    )
    assert result.wanted[[0, 1, 3]].all()
    assert lacking(result).tolist() == [False, True, False, True]
    assert result.errors == {2: "no text"}  # for which it is held back, too
    for policy, wanted in (("never", 0), (0.5, 1)):  # of the two texts that bring scores
        result = run(model, tiny_tokenizer, ["good", "bad"], llm_scores=[scores, half], llm_policy=policy)
        assert result.wanted.sum() == 2 * wanted


class Table(ClassifierMixin, BaseEstimator):
    """A classifier that knows the probabilities already: its "texts" are their row numbers."""

    def __init__(self, probs: Any = None) -> None:
        self.probs = probs

    def fit(self, rows: Any, labels: Any) -> "Table":
        self.classes_ = np.arange(self.probs.shape[1])
        return self

    def predict_proba(self, rows: Any) -> Any:
        return self.probs[np.asarray(rows).ravel()]

    def predict(self, rows: Any) -> Any:
        return self.predict_proba(rows).argmax(axis=1)


@pytest.mark.parametrize("max_risk", [0.02, 0.05, 0.1])
def test_label_sets_are_those_of_mapie(max_risk: float) -> None:
    """With a loss of 0 or 1, conformal risk control is split conformal prediction (score LAC), which MAPIE has."""
    encoder, _, _, labels = rows(600, 1, 1.0)
    number = np.arange(600)[:, None]
    stored = calibrate_risk(encoder[:300], encoder[:300], np.zeros(300), labels[:300])
    control = risk_control(max_risk, stored, False)
    oracle = SplitConformalClassifier(
        Table(encoder).fit(number[:300], labels[:300]), confidence_level=1 - max_risk, conformity_score="lac"
    )
    _, sets = oracle.conformalize(number[:300], labels[:300]).predict_set(number[300:])
    assert control.cutoff < encoder.max(axis=1).min()  # the predicted class, always in ours, is in theirs
    assert 1.0 < sets.sum(axis=1).mean() < 3.0
    np.testing.assert_array_equal(control.label_sets(encoder[300:]), sets[:, :, 0])


def test_multi_label_sets_are_those_of_mapie() -> None:
    rng = np.random.default_rng(0)
    probs = rng.beta(0.5, 0.5, (900, 5))
    truth = (rng.random((900, 5)) < 0.8 * probs + 0.05).astype(int)
    truth[:, 0] |= truth.sum(axis=1) == 0  # a recall of 0 classes is defined otherwise there
    stored = calibrate_risk(probs[:300], probs[:300], np.zeros(300), truth[:300])
    cutoff = risk_control(0.05, stored, True).cutoff
    grid = np.linspace(0, 0.5, 5001)
    oracle = MultiLabelClassificationController(lambda x: probs[np.ravel(x)], target_level=0.95, predict_params=grid)
    oracle.calibrate(np.arange(300)[:, None], truth[:300])
    assert cutoff == pytest.approx(float(oracle.best_predict_param[0]), abs=2e-4)


def test_texts_unlike_the_training_texts_are_not_answered() -> None:
    encoder, fused, values, labels = rows(500, 0, 1.0)
    novelty = np.where(np.arange(500) % 50 == 0, 0.3, 0.0)
    stored = calibrate_risk(encoder, fused, values, labels, novelty=novelty)
    assert stored["rows"] == 500
    control = risk_control(0.1, stored, False)
    probs = np.tile([1.0, 0.0, 0.0, 0.0], (4, 1))
    scores = np.array([0.0, 0.01, 0.5, 1.0])
    assert control.answered(probs, scores).tolist() == [True, False, False, False]
    assert control.label_sets(probs, novelty=scores).sum(axis=1).tolist() == [1, 4, 4, 4]
    assert control.answered(probs).all()
    # Errors that are not answered leave more room for the others.
    assert control.confidence <= risk_control(0.1, calibrate_risk(encoder, fused, values, labels), False).confidence
    # A model of an earlier version answers as it did.
    earlier = risk_control(0.1, {k: v for k, v in stored.items() if k != "outside"}, False)
    assert earlier.answered(probs, scores).all()
    assert earlier.label_sets(probs, novelty=scores).sum(axis=1).tolist() == [1] * 4


def test_the_guarantee_holds_although_some_texts_are_never_answered() -> None:
    wrong, missed = [], []
    for seed in range(100):
        encoder, fused, values, labels = rows(200, seed, 1.0)
        novel = (np.random.default_rng(seed).random(700) < 0.02).astype(float)
        stored = calibrate_risk(encoder, fused, values, labels, novelty=novel[:200])
        control = risk_control(0.1, stored, False)
        _, probs, _, truth = rows(500, 10_000 + seed, 1.0)
        answered, sets = control.answered(probs, novel[200:]), control.label_sets(probs, novelty=novel[200:])
        wrong.append((answered & (probs.argmax(axis=1) != truth)).mean())
        missed.append(1 - sets[np.arange(500), truth].mean())
    assert 0.08 < np.mean(wrong) <= 0.105
    assert 0.06 < np.mean(missed) <= 0.105
