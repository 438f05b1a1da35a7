"""What to label next: the choice, its reasons, and the way through an annotation tool back into `fit`."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_data import NAMES, frame, scores_for, texts_and_labels

from labelfusion import AutoFusionClassifier
from labelfusion.suggestions import Suggestions


@pytest.fixture(scope="module")
def fitted(tiny_encoder_dir: str) -> AutoFusionClassifier:
    return AutoFusionClassifier(tiny_encoder_dir, "recorded", encoder_training="probe").fit(frame(60))


def _pool(n: int = 40, **columns: Any) -> pd.DataFrame:
    return frame(n, seed=5).drop(columns=["label", "llm_scores"]).assign(**columns)


def test_the_most_useful_texts_with_rows_ids_and_true_reasons(fitted: AutoFusionClassifier) -> None:
    pool = _pool(id=[f"r{i}" for i in range(40)])
    _, labels = texts_and_labels(40, 5)
    scores = scores_for(labels, seed=5)
    found = fitted.suggest(pool.assign(llm_scores=scores.tolist()), 10)
    assert isinstance(found, Suggestions)
    assert len(found) == len(set(found.indices)) == 10
    answers = fitted.predict_sources(pool.text.tolist(), llm_scores=scores)
    for task, row, score, reasons in zip(found.tasks, found.indices, found.scores, found.reasons, strict=True):
        assert (task.text, task.id) == (pool.text[row], f"r{row}")
        assert 0 <= score <= 1
        encoder, llm = answers.encoder_probabilities[row], answers.llm_scores[row, 0]
        disagree = encoder.argmax() != llm.argmax()
        assert any(r.startswith("sources disagree") for r in reasons) == disagree
        if disagree:
            told = next(r for r in reasons if r.startswith("sources disagree"))
            assert f"encoder: {NAMES[encoder.argmax()]} {encoder.max():.2f}" in told
            assert f"{NAMES[llm.argmax()]} {llm.max():.2f}" in told
        best, second = np.sort(answers.probabilities[row])[:-3:-1]
        assert any(r.startswith("close: ") for r in reasons) == (best - second < 0.3)
        assert task.labels == [NAMES[answers.probabilities[row].argmax()]]
        assert task.confidence == pytest.approx(best, abs=1e-3)
    doubts = fitted.suggest(pool.assign(llm_scores=scores.tolist()), 40).scores
    assert found.scores.mean() > doubts.mean()


def test_scores_that_contradict_the_encoder_are_chosen_first(fitted: AutoFusionClassifier) -> None:
    texts = _pool().text.tolist()
    encoder = fitted.predict_sources(texts, llm_policy="never").encoder_probabilities
    scores = np.eye(3)[encoder.argmax(axis=1)][:, None]
    scores[7] = np.eye(3)[(encoder[7].argmax() + 1) % 3]
    found = fitted.suggest(texts, 3, llm_scores=scores)
    assert 7 in found.indices
    assert any("sources disagree" in reason for reason in found.reasons[found.indices.tolist().index(7)])


def test_labelled_repeated_and_blank_texts_are_not_suggested(fitted: AutoFusionClassifier) -> None:
    texts = _pool().text.tolist()
    given = [texts[0], texts[0], "", None, "  ", *texts[1:6]]
    found = fitted.suggest(given, 50, labelled=texts[3:6])
    assert sorted(found.indices) == [0, 5, 6]
    with pytest.raises(ValueError, match="no text to label"):
        fitted.suggest(texts, 5, labelled=pd.DataFrame({"text": texts}))


def test_no_llm_is_asked_unless_told(tiny_encoder_dir: str) -> None:
    asked: list[str] = []

    def llm(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.tile([0.2, 0.7, 0.1], (len(texts), 1))

    clf = AutoFusionClassifier(tiny_encoder_dir, llm, encoder_training="probe", cache=False).fit(
        frame(30).drop(columns="llm_scores")
    )
    asked.clear()
    texts = _pool().text.tolist()
    clf.suggest(texts, 3)
    assert not asked
    clf.suggest(texts, 3, llm_policy=0.25)
    assert len(asked) == 10


def test_before_fit_typical_texts(tiny_encoder_dir: str) -> None:
    texts = _pool().text.tolist()
    clf = AutoFusionClassifier(tiny_encoder_dir, llm=None)
    found = clf.suggest(texts, 6)
    assert len(set(found.indices)) == 6
    assert all(reasons[0].startswith(("typical of a cluster", "a cluster of its own")) for reasons in found.reasons)
    assert [row["suggested"] for row in found.rows()] == [None] * 6
    assert (clf.suggest(texts, 6).indices == found.indices).all()
    with pytest.raises(ValueError, match="names of the classes"):
        found.label_studio()
    with pytest.raises(ValueError, match="not fitted"):
        clf.suggest(texts, 6, llm_policy="always")


def test_before_fit_the_scores_of_llms_are_suggestions(tiny_encoder_dir: str) -> None:
    labels = np.arange(40) % 3
    table = _pool(llm_scores=scores_for(labels, accuracy=1.0).tolist())
    found = AutoFusionClassifier(tiny_encoder_dir, llm=None, labels=NAMES).suggest(table, 5)
    assert [task.labels for task in found.tasks] == [[NAMES[labels[row]]] for row in found.indices]
    unnamed = AutoFusionClassifier(tiny_encoder_dir, llm=None).suggest(table, 5)
    assert [task.labels for task in unnamed.tasks] == [None] * 5


def test_several_classes(tiny_encoder_dir: str) -> None:
    texts, labels = texts_and_labels(60)
    y = np.eye(3, dtype=int)[labels]
    y[::5, 0] = 1
    clf = AutoFusionClassifier(tiny_encoder_dir, None, NAMES, multi_label=True, encoder_training="probe").fit(texts, y)
    found = clf.suggest(_pool().text.tolist(), 5)
    tasks, interface = found.label_studio()
    assert 'choice="multiple"' in interface
    assert len(tasks) == 5
    assert found.argilla()[1]["questions"][0]["type"] == "multi_label_selection"


@pytest.mark.parametrize("tool", ["label_studio", "argilla"])
def test_from_suggestions_through_a_tool_into_fit(
    fitted: AutoFusionClassifier, tiny_encoder_dir: str, tmp_path: Path, tool: str
) -> None:
    """A stand-in for the annotators writes their labels as the tools' exports hold them."""
    pool, (_, labels) = _pool(id=[f"r{i}" for i in range(40)]), texts_and_labels(40, 5)
    truth = {text: NAMES[label] for text, label in zip(pool.text, labels, strict=True)}
    found = fitted.suggest(pool, 20)
    records: list[dict[str, Any]] = getattr(found, tool)()[0]
    for number, record in enumerate(records, 1):
        if tool == "label_studio":
            result = dict(record["predictions"][0]["result"][0], id="x")
            result["value"] = {"choices": [truth[record["data"]["text"]]]}
            annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": [result]}
            record.update(id=number, annotations=[annotation], drafts=[])
        else:
            answer = {"value": truth[record["fields"]["text"]], "user_id": "00000000-0000-0000-0000-000000000001"}
            record.update(responses={"label": [answer]}, status="completed", _server_id=str(number))
    path = tmp_path / "export.json"
    path.write_text(json.dumps(records))
    clf = AutoFusionClassifier(tiny_encoder_dir, None, encoder_training="probe").fit(path)
    assert clf.classes_.tolist() == NAMES
    more = clf.suggest(pool, 40, labelled=path)
    assert sorted([*more.indices, *found.indices]) == list(range(40))


def test_names_that_xml_and_tools_find_hard(tiny_encoder_dir: str) -> None:
    names = ['Sci/Tech & "more"', "<b>", "ü,;"]
    data = frame(30)
    data["label"] = data.label.map(dict(zip(NAMES, names, strict=True)))
    clf = AutoFusionClassifier(
        tiny_encoder_dir, None, encoder_training="probe", text_column="the text", label_column="the label"
    ).fit(data.rename(columns={"text": "the text", "label": "the label"}))
    tasks, interface = clf.suggest(_pool().text.tolist(), 5).label_studio()
    view = ET.fromstring(interface)
    assert [choice.get("value") for choice in view.iter("Choice")] == clf.classes_.tolist()
    field, choices = view.find("Text"), view.find("Choices")
    assert field is not None
    assert choices is not None
    assert field.get("value") == "$text"
    for task in tasks:
        assert list(task["data"]) == ["text"]
        (result,) = task["predictions"][0]["result"]
        assert (result["from_name"], result["to_name"]) == (choices.get("name"), field.get("name"))
        assert set(result["value"]["choices"]) <= set(names)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, None])
def test_the_number_of_texts_is_checked(fitted: AutoFusionClassifier, n: Any) -> None:
    with pytest.raises(ValueError, match="`n` must be a positive integer"):
        fitted.suggest(["a", "b"], n)


def test_other_mistakes(fitted: AutoFusionClassifier) -> None:
    with pytest.raises(ValueError, match="one string"):
        fitted.suggest("a single text")
    with pytest.raises(ValueError, match="1 entries for 2 texts"):
        fitted.suggest(["a", "b"], llm_scores=[[0.2, 0.7, 0.1]])
