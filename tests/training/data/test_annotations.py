"""Exports of annotation tools, as the tools themselves wrote them (`fixtures/annotation/make.py`)."""

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from labelfusion.evaluation.reports.training_report import training_summary
from labelfusion.hub_scripts.cli import main
from labelfusion.training.data import TableLayout, annotations, prepare
from labelfusion.training.data.annotations import find_tool, read_export
from labelfusion.training.fit_state import majority_labels
from labelfusion.training.folds import assign_folds
from llm_server import LLMServer

from labelfusion import AutoFusionClassifier

FILES = Path(__file__).parents[2] / "fixtures" / "annotation"
_SPEC = importlib.util.spec_from_file_location("annotation_make", FILES / "make.py")
assert _SPEC is not None
assert _SPEC.loader is not None
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)

PLAIN = dict(made.PLAIN)
VOTED = PLAIN | {made.QUOTED[0]: "sport"}
SEVERAL = {text: set(chosen) for (text, _), chosen in zip(made.PLAIN, made.SEVERAL, strict=True)}
WAYS = ("majority", "soft")
TIE, EMPTY = "1 tied between annotators", "1 unannotated"

SINGLE: list[Any] = [
    ("label_studio.json", "Label Studio", VOTED, [TIE, "1 skipped", "1 draft", EMPTY]),
    ("label_studio.min.json", "Label Studio, one row an annotation", VOTED, [TIE, "2 unannotated"]),
    ("label_studio.csv", "Label Studio, one row an annotation", VOTED, [TIE, "2 unannotated"]),
    ("label_studio.tsv", "Label Studio, one row an annotation", VOTED, [TIE, "2 unannotated"]),
    ("doccano.jsonl", "doccano", PLAIN, [EMPTY]),
    ("doccano.json", "doccano", PLAIN, [EMPTY]),
    ("doccano.csv", "doccano, CSV", PLAIN, [EMPTY]),
    ("doccano.txt", "fastText", PLAIN, [EMPTY]),
    ("doccano_annotators.jsonl", "doccano", VOTED, [TIE, EMPTY]),
    ("argilla.json", "Argilla", VOTED, [TIE, "2 pending", EMPTY, "does not tell drafts"]),
    ("argilla_flat.jsonl", "Argilla, flattened", VOTED, [TIE, "1 discarded", "1 draft", EMPTY]),
    ("argilla_flat.parquet", "Argilla, flattened", VOTED, [TIE, "1 discarded", "1 draft", EMPTY]),
    ("prodigy.jsonl", "Prodigy", VOTED, [TIE, "1 ignored", "1 rejected"]),
    ("prodigy_binary.jsonl", "Prodigy", PLAIN, []),
    ("fasttext.txt", "fastText", PLAIN, [EMPTY]),
    pytest.param("spacy.spacy", "spaCy", PLAIN, [EMPTY]),
]
NOTHING: dict[str, set[str]] = {"of no topic at all": set()}
MULTIPLE: list[Any] = [
    ("label_studio_multiple.json", SEVERAL | NOTHING),
    ("label_studio_multiple.min.json", SEVERAL | NOTHING),
    ("label_studio_multiple.csv", SEVERAL | NOTHING),
    ("doccano_multiple.jsonl", SEVERAL),
    ("doccano_multiple.csv", SEVERAL),
    ("argilla_multiple.json", SEVERAL),
    ("argilla_multiple_flat.jsonl", SEVERAL),
    ("argilla_multiple_flat.parquet", SEVERAL),
    ("prodigy_multiple.jsonl", SEVERAL | NOTHING),
    ("prodigy_binary.jsonl", {text: {name} for text, name in PLAIN.items()}),
    ("fasttext_multiple.ft", SEVERAL),
    pytest.param("spacy_multiple.spacy", SEVERAL),
]


@pytest.fixture(autouse=True)
def _said_anew() -> None:
    annotations._say.cache_clear()


@pytest.fixture
def make(tiny_encoder_dir: str) -> Callable[..., AutoFusionClassifier]:
    known: dict[str, Any] = {"llm": None, "encoder_training": "probe", "fusion": "pool", "progress": False}
    return lambda **options: AutoFusionClassifier(tiny_encoder_dir, **known | options)


def rows(name: str | Path, **options: Any) -> list[dict[str, Any]]:
    found = read_export(FILES / name, **options)
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "tool", "expected", "said"), SINGLE)
def test_one_class_a_text(
    name: str, tool: str, expected: dict[str, str], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert find_tool(FILES / name) == tool
    data = prepare(FILES / name)
    assert dict(zip(data.texts, data.names(), strict=True)) == expected
    assert len(data) == len(expected)
    prepare(FILES / name)
    assert len(caplog.messages) == 1  # said once
    assert caplog.messages[0].startswith(f"{name}: {len(expected)} labelled rows from ")
    assert f" records ({tool})." in caplog.messages[0]
    for part in said:
        assert part in caplog.messages[0]
    assert ("Left out" in caplog.messages[0]) == bool(said)


@pytest.mark.parametrize(("name", "expected"), MULTIPLE)
def test_several_classes_a_text(name: str, expected: dict[str, set[str]]) -> None:
    options = {"label_column": "topic"} if name.endswith(".csv") and "studio" in name else {}
    found = rows(name, multi_label=True, **options)
    assert {row["text"]: set(row[options.get("label_column", "labels")]) for row in found} == expected
    if any(len(chosen) > 1 for chosen in expected.values()):
        with pytest.raises(
            ValueError, match=rf"{name}: the text of record 0 has several classes, .*`multi_label=True`"
        ):
            rows(name, **options)


@pytest.mark.parametrize("name", [p[0] for p in SINGLE if len(p) == 4 and TIE in p[3]])
def test_soft_labels_are_a_row_for_each_vote(name: str) -> None:
    found = Counter((row["text"], row["label"]) for row in rows(name, annotators="soft"))
    votes = [(text, vote) for text, all_ in (made.QUOTED, made.TIED) for vote in all_]
    assert found == Counter([*PLAIN.items(), *votes])
    assert len(rows(name, annotators="soft", multi_label=True)) == 23
    with pytest.raises(ValueError, match="`annotators` is 'mean'; expected one of majority, soft"):
        rows(name, annotators="mean")


def test_majority_of_several_classes(tmp_path: Path) -> None:
    """A class counts if more than half of the annotators chose it; a class that exactly half chose is a tie."""
    options = [{"id": x, "text": x} for x in "abc"]
    votes = {"most": ["ab", "a", "ac"], "tie": ["ab", "a"], "none": ["a", "b", "c"]}
    lines = [
        {"text": text, "_task_hash": 1, "options": options, "accept": list(v), "answer": "accept", "_annotator_id": i}
        for text, all_ in votes.items()
        for i, v in enumerate(all_)
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert rows(path, multi_label=True) == [{"text": "most", "labels": ["a"]}, {"text": "none", "labels": []}]
    assert len(rows(path, multi_label=True, annotators="soft")) == 8


def test_the_last_annotation_of_an_annotator_counts(tmp_path: Path) -> None:
    tasks = json.loads((FILES / "label_studio.json").read_text())
    first = tasks[0]["annotations"][0]
    second = json.loads(json.dumps(first))
    second["result"][0]["value"]["choices"] = ["tech"]
    second["updated_at"] = "2036-01-01T00:00:00.000000Z"
    tasks[0]["annotations"] = [second, first]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    assert rows(tmp_path / "export.json")[0]["label"] == "tech"
    flat = json.loads((FILES / "label_studio.min.json").read_text())
    newer = {**flat[0], "annotation_id": 999, "topic": "tech", "updated_at": second["updated_at"]}
    (tmp_path / "min.json").write_text(json.dumps([newer, *flat]))  # the newest one first, as the tool has them
    assert rows(tmp_path / "min.json")[0]["label"] == "tech"


def test_the_field_with_the_classes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepare(FILES / "label_studio_multiple.csv", layout=TableLayout(label_column="topic"), multi_label=True)
    assert dict(zip(data.texts, map(set, data.names()), strict=True)) == SEVERAL | NOTHING
    source, out = FILES / "label_studio_two_fields.json", tmp_path / "out.jsonl"
    with LLMServer(labels=["film", "sport", "tech"]) as server:
        asking = ["--llm", "m", "--api-base", server.url, "--method", "json", "--no-cache"]
        assert main(["score", str(source), str(out), *asking]) == 2
        said = "several choice fields: topic, mood. Name the one to learn (`--label-column`)"
        assert said in capsys.readouterr().err
        assert main(["score", str(source), str(out), *asking, "--label-column", "topic"]) == 0
    scored = prepare(out, layout=TableLayout(label_column="topic"))
    assert dict(zip(scored.texts, scored.names(), strict=True)) == PLAIN


def test_one_label_that_is_accepted_or_rejected() -> None:
    found = Counter(row["label"] for row in rows("prodigy_one_label.jsonl"))
    assert found == {"sport": 6, "not sport": 12}


def test_what_can_be_read_in_several_ways_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"two_fields.json: several choice fields: topic, mood.*label_column`"):
        rows("label_studio_two_fields.json")
    assert rows("label_studio_two_fields.json", label_column="mood")[0]["mood"] == "good"
    with pytest.raises(ValueError, match=r"no 'tone' .* among its choice fields: topic, mood"):
        rows("label_studio_two_fields.json", label_column="tone")
    with pytest.raises(ValueError, match=r"several fields that may hold the choices: source, topic"):
        rows("label_studio_multiple.csv", multi_label=True)
    tasks = json.loads((FILES / "label_studio.json").read_text())
    for task in tasks:
        task["data"]["body"] = task["data"].pop("text")
    path = tmp_path / "bodies.json"
    path.write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=r"no field 'text'; the fields with texts are source, body.*`text_column`"):
        rows(path)
    assert {row["body"] for row in rows(path, text_column="body")} == set(VOTED)
    for task in tasks:
        del task["data"]["source"]
    path.write_text(json.dumps(tasks))
    assert {row["text"] for row in rows(path)} == set(VOTED)  # there is no other text
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"text": "a", "label": "b", "answer": "reject"}\n')
    with pytest.raises(ValueError, match=r"bare.jsonl: The column 'answer' holds .* Prodigy.*rename 'answer'"):
        find_tool(bare)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a", "spans": [], "answer": "accept", "_view_id": "ner_manual"}, "but of 'ner_manual"),
        ({"id": 1, "text": "a", "label": [[0, 1, "PER"]], "Comments": []}, "spans are no classes of a text"),
        ({"id": 1, "data": {"text": 3}, "annotations": []}, "no field 'text'; the fields with texts are none"),
        ({"id": 1, "data": {"text": "a"}, "annotations": [7]}, "names its annotations by number only"),
        (
            {
                "id": 1,
                "data": {"text": "a"},
                "annotations": [{"result": [{"from_name": "part", "value": {"labels": ["PER"], "start": 0}}]}],
            },
            "the project has no choice field, only part",
        ),
        (
            {
                "id": 1,
                "data": {"text": "a"},
                "annotations": [{"result": [{"from_name": "x", "value": {"choices": ["a"], "start": 0, "end": 1}}]}],
            },
            "about parts of a text",
        ),
        (
            {"id": "1", "fields": {"text": "a"}, "status": "completed", "suggestions": {}}
            | {"responses": {"rank": [{"value": [{"v": 1}], "user_id": "u"}]}},
            "which is no class",
        ),
    ],
)  # fmt: skip
def test_annotations_that_are_no_classes(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = tmp_path / "export.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=f"export.jsonl.*{message}"):
        rows(path)


def test_an_export_without_labels(tmp_path: Path) -> None:
    tasks = json.loads((FILES / "label_studio.json").read_text())
    path = tmp_path / "new.json"
    path.write_text(json.dumps([{**task, "annotations": [], "drafts": []} for task in tasks]))
    with pytest.raises(
        ValueError,
        match=r"0 labelled rows from 23 records \(Label Studio\)\. Left out: 23 unannotated. Nothing is left",
    ):
        prepare(path)
    assert len(rows(path, labelled=None)) == len(rows(path, labelled=False)) == 23
    assert len(rows("label_studio.json", labelled=None)) == 19


ORDINARY: list[list[dict[str, Any]]] = [
    [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
    [{"id": 1, "text": "a", "label": "x"}, {"id": 2, "text": "b", "label": "y"}],
    [{"id": 1, "text": "a", "label": ["x"]}, {"id": 2, "text": "b", "label": ["y"]}],
    [{"text": "a", "label": "x", "data": {"k": 1}}, {"text": "b", "label": "y", "data": {"k": 2}}],
    [{"text": "a", "label": "x", "answer": "yes"}, {"text": "b", "label": "y", "answer": "no"}],
    [{"text": "a", "label": "x", "status": "completed", "id": 1}, {"text": "b", "label": "y", "status": "", "id": 2}],
    [{"text": "a __label__x", "label": "x", "annotator": "ann"}, {"text": "b", "label": "y", "annotator": "ben"}],
    [{"text": "a", "label": "x", "fields": "f", "responses": "r", "status": "s"}] * 2,
    [{"id": 1, "text": "a", "label": "x", "Comments": "c", "llm_scores": "[[0.5, 0.5]]"}] * 2,
]


@pytest.mark.parametrize("table", ORDINARY)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_ordinary_tables_are_no_exports(tmp_path: Path, table: list[dict[str, Any]], suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(table))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif suffix == "csv":
        pd.DataFrame(table).to_csv(path, index=False)
    else:
        pd.DataFrame(table).to_parquet(path)
    assert read_export(path) is None
    assert read_export(table) is None
    assert read_export(pd.DataFrame(table)) is None
    assert read_export(datasets.Dataset.from_list(table)) is None


def test_other_files(tmp_path: Path) -> None:
    plain = tmp_path / "notes.txt"
    plain.write_text("just a text\n")
    with pytest.raises(ValueError, match=r"notes.txt: no `__label__`"):
        prepare(plain)
    plain.write_text("__label__a one\n__label__ two\n")
    with pytest.raises(ValueError, match=r"notes.txt: line 2 has a `__label__` without a name"):
        prepare(plain)
    (tmp_path / "empty.jsonl").write_text("")
    assert find_tool(tmp_path / "empty.jsonl") is None
    assert find_tool("user/name") is None
    assert find_tool(tmp_path / "absent.json") is None


def test_only_the_first_record_of_a_file_is_looked_at(tmp_path: Path) -> None:
    """However long it is, and whatever comes after it."""
    for start, suffix in (("[", "json"), ("", "jsonl")):
        path = tmp_path / f"long.{suffix}"
        record = {"data": {"text": "long " * 60_000}, "annotations": []}
        path.write_text(f"{start}{json.dumps(record)}\nnot JSON")
        assert find_tool(path) == "Label Studio"


def test_without_spacy_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy.tokens", None)
    with pytest.raises(ImportError, match=r"spacy.spacy is a file of spaCy, .* pip install spacy"):
        prepare(FILES / "spacy.spacy")


def test_a_broken_file_of_spacy(tmp_path: Path) -> None:
    (tmp_path / "x.spacy").write_bytes(b"no zlib")
    with pytest.raises(ValueError, match=r"^x\.spacy: no `DocBin`"):
        prepare(tmp_path / "x.spacy")


def test_scores_in_a_file_of_spacy_are_no_labels(tmp_path: Path) -> None:
    import spacy
    from spacy.tokens import DocBin

    document = spacy.blank("en")("a text")
    document.cats = {"a": 0.7, "b": 0.3}
    DocBin(docs=[document]).to_disk(tmp_path / "scores.spacy")
    with pytest.raises(ValueError, match=r"scores.spacy: document 0 has the `cats` .*0.7.*expected 0 or 1"):
        prepare(tmp_path / "scores.spacy")


def test_exports_in_memory(make: Callable[..., AutoFusionClassifier]) -> None:
    """Lists of a tool's records, and Argilla's data sets as `to_datasets` gives them."""
    records = json.loads((FILES / "label_studio.json").read_text())
    flat = datasets.Dataset.from_parquet(str(FILES / "argilla_flat.parquet"))
    frame = pd.read_csv(FILES / "label_studio.csv")
    for data in (records, flat, datasets.DatasetDict(train=flat), flat.to_pandas(), frame):
        found = prepare(data)
        assert dict(zip(found.texts, found.names(), strict=True)) == VOTED
    assert make().fit(flat).evaluate(flat)["rows"] == len(VOTED)


def test_every_way_in(
    tmp_path: Path, make: Callable[..., AutoFusionClassifier], tiny_encoder_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit`, `evaluate`, `predict` in Python; `score`, `train`, `evaluate`, `predict` as commands."""
    for name in ("label_studio.json", "prodigy.jsonl", "doccano.csv", "fasttext.txt"):
        clf = make().fit(FILES / name)
        assert clf.classes_.tolist() == ["film", "sport", "tech"]
        assert clf.evaluate(FILES / name)["rows"] == (18 if "." in name and name[0] in "df" else 19)
        assert len(clf.predict(FILES / name)) == len(rows(name, labelled=False))
    source, scored, model = FILES / "label_studio.json", tmp_path / "scored.csv", tmp_path / "model"
    with LLMServer(labels=["film", "sport", "tech"]) as server:
        asking = ["--llm", "m", "--api-base", server.url, "--method", "json", "--store", str(tmp_path / "s.sqlite")]
        assert main(["score", str(source), str(scored), *asking]) == 0
        assert server.requests == 19
        assert main(["score", str(source), str(tmp_path / "soft.csv"), *asking, "--annotators", "soft"]) == 0
        assert server.requests == 20  # a text is paid for once, whatever its votes
    table = pd.read_csv(scored)
    assert table.columns.tolist() == ["id", "text", "label", "llm_scores"]
    assert dict(zip(table["text"], table["label"], strict=True)) == VOTED
    assert len(pd.read_csv(tmp_path / "soft.csv")) == 23
    training = ["--encoder", tiny_encoder_dir, "--encoder-training", "probe", "--output-dir", str(model)]
    capsys.readouterr()
    assert main(["train", str(source), "--test", str(FILES / "prodigy.jsonl"), "--annotators", "soft", *training]) == 0
    assert AutoFusionClassifier.from_pretrained(model).annotators == "soft"
    assert "23 rows of label" in capsys.readouterr().out
    assert json.loads((model / "evaluation" / "report.json").read_text())["rows"] == 19  # of `--test`
    assert main(["evaluate", str(model), str(source), "--output-dir", str(tmp_path / "report")]) == 0
    assert json.loads((tmp_path / "report" / "report.json").read_text())["rows"] == 19  # a text counts once
    for name in ("label_studio.json", "fasttext.txt", "argilla_flat.parquet"):
        out = tmp_path / f"{name}.out.parquet"
        assert main(["predict", str(model), str(FILES / name), str(out)]) == 0
        found = pd.read_parquet(out)
        assert found["text"].tolist() == [row["text"] for row in rows(name, labelled=False)]  # the unlabelled ones, too
        assert "label" not in found


def test_votes_on_a_text_are_asked_once_share_a_fold_and_are_measured_once(
    make: Callable[..., AutoFusionClassifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    folds: list[tuple[list[str], list[int]]] = []

    def llm(texts: list[str]) -> Any:
        asked.extend(texts)
        return [[1 / 3] * 3] * len(texts)

    def assign(labels: Any, num_folds: int, groups: Any = None, seed: int = 0) -> Any:
        found = assign_folds(labels, num_folds, groups, seed)
        folds.append((list(groups), found.tolist()))
        return found

    monkeypatch.setattr("labelfusion.training.fit_state.assign_folds", assign)
    clf = make(llm=llm, annotators="soft").fit(FILES / "label_studio.json")
    assert len(asked) == len(set(asked)) == 20
    assert folds
    for texts, fold in folds:
        assert len(texts) == 23
        assert len(set(zip(texts, fold, strict=True))) == 20
    assert clf.evaluate(FILES / "label_studio.json")["rows"] == 19
    assert clf.tradeoff(FILES / "label_studio.json")["rows"] == 19


def test_training_learns_the_shares_of_the_votes(tmp_path: Path, make: Callable[..., AutoFusionClassifier]) -> None:
    """Three of four annotators call a movie a film: soft labels teach 0.75, the majority teaches 1."""
    votes = {"movie": ["film", "film", "sport", "film"], "team": ["sport", "film", "sport", "sport"]}
    lines = [
        {"text": f"the {word} w{i % 10}", "_input_hash": f"{word}{i}", "accept": [vote], "answer": "accept"}
        | {"_annotator_id": who}
        for i in range(30)
        for word, chosen in votes.items()
        for who, vote in enumerate(chosen)
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    film = {how: make(annotators=how).fit(path).predict_proba(["the movie w3", "the team w3"])[:, 0] for how in WAYS}
    assert film["majority"][0] > 0.9
    assert film["majority"][1] < 0.1
    assert film["soft"].tolist() == pytest.approx([0.75, 0.25], abs=0.05)


def test_figures_of_the_fit_are_against_the_majority(tmp_path: Path, make: Callable[..., AutoFusionClassifier]) -> None:
    """A model that always gives the majority is right on all texts, and on three quarters of the votes."""
    votes = {"movie": ["film", "film", "sport", "film"], "team": ["sport", "film", "sport", "sport"]}
    lines = [
        {"text": f"the {word} w{i}", "_input_hash": f"{word}{i}", "accept": [vote], "answer": "accept"}
        | {"_annotator_id": who}
        for i in range(30)
        for word, chosen in votes.items()
        for who, vote in enumerate(chosen)
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    clf = make(annotators="soft").fit(path)
    assert clf.report_["out_of_sample"]["accuracy"] == 1.0
    clf.report_["data"] = "votes"
    assert "majority of the annotators" in training_summary(clf)


def test_a_fit_counts_each_text_once(
    tmp_path: Path, make: Callable[..., AutoFusionClassifier], caplog: pytest.LogCaptureFixture
) -> None:
    """The LLM is wrong on the third of the texts that have nine votes each, so on most of the votes."""
    lines = [
        {"text": f"the {word} w{i}", "_input_hash": f"{word}{i}", "accept": [label], "answer": "accept"}
        | {"_annotator_id": f"a{who}"}
        for i in range(30)
        for word, label in (("movie", "film"), ("team", "sport"))
        for who in range(9 if i % 3 == 0 else 1)
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))

    def llm(texts: list[str]) -> Any:
        film = [("movie" in text) == (int(text.split("w")[-1]) % 3 > 0) for text in texts]
        return [[0.9, 0.1] if is_film else [0.1, 0.9] for is_film in film]

    clf = make(llm=llm, annotators="soft").fit(path)
    before = clf.report_["calibration"]["llms"][0]["before"]
    assert before["log_loss"] == pytest.approx(-(2 * np.log(0.9) + np.log(0.1)) / 3, abs=1e-3)
    assert "another order of the classes" not in caplog.text


def test_majority_labels() -> None:
    texts = ["a", "b", "a", "c", "a", "c"]
    rows, labels = majority_labels(texts, np.array([1, 2, 1, 0, 0, 1]), 3)
    assert (rows.tolist(), labels.tolist()) == ([0, 1], [1, 2])
    sets = np.array([[1, 1], [0, 0], [1, 0], [1, 1], [1, 0], [1, 0]], dtype=np.float32)
    rows, labels = majority_labels(texts, sets, 2)
    assert (rows.tolist(), labels.tolist()) == ([0, 1], [[1, 0], [0, 0]])
