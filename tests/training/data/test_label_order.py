"""What a label means: indices the names that their data declare, numbers the classes of that name, columns theirs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from labelfusion.hub_scripts.cli import main
from labelfusion.training.data import CLASSES_SUFFIX, TableLayout, prepare
from llm_server import LLMServer

from labelfusion import AutoFusionClassifier

NAMES = ["film", "sport", "tech"]
ORDER = ["tech", "film", "sport"]
WORDS = {"film": "movie plot actor", "sport": "team game match", "tech": "chip code phone"}
ROWS = [(f"the {WORDS[NAMES[i % 3]].split()[i % 2]} is good w{i % 10}", NAMES[i % 3]) for i in range(48)]
TEXTS, LABELS = [t for t, _ in ROWS], [n for _, n in ROWS]


def declared(labels: list[Any], order: list[str] = ORDER, column: str = "label") -> Dataset:
    """A data set of names, or lists of names, that keeps their indices in `order`."""
    feature = ClassLabel(names=order)
    features = Features({"text": Value("string"), column: List(feature) if column == "labels" else feature})
    return Dataset.from_dict({"text": TEXTS[: len(labels)], column: labels}, features=features)


@pytest.fixture
def make(tiny_encoder_dir: str) -> Any:
    known: dict[str, Any] = {"llm": None, "encoder_training": "probe", "fusion": "pool"}
    return lambda **options: AutoFusionClassifier(tiny_encoder_dir, **known | options)


@pytest.mark.parametrize("kind", ["dataset", "parquet", "column"])
def test_indices_mean_the_declared_names(kind: str, tmp_path: Path) -> None:
    data: Any = declared(LABELS)
    if kind == "parquet":
        data.to_parquet(str(tmp_path / "x.parquet"))
        data = tmp_path / "x.parquet"
    if kind == "column":
        data = (data["text"], data["label"])
        if not hasattr(data[1], "features"):
            pytest.skip("datasets before 4 gives lists")
    for classes in (None, NAMES, [*NAMES, "other"]):
        assert prepare(data, classes=classes).names() == LABELS
    assert prepare(data).classes == ORDER
    with pytest.raises(ValueError, match="unknown label 'sport'"):
        prepare(data, classes=["film", "tech"])


def test_lists_of_indices_mean_the_declared_names() -> None:
    expected = [["film"], [], ["tech", "sport"], ["film", "tech"]]
    for classes in (None, NAMES):
        found = prepare(declared(expected, column="labels"), classes=classes, multi_label=True).names()
        assert [set(row) for row in found] == [set(row) for row in expected]
    two = declared([["b"], ["a"], ["b", "a"]], ["b", "a"], "labels")  # [0, 1] is no 0/1 vector here
    assert prepare(two, classes=["a", "b"], multi_label=True).names() == [["b"], ["a"], ["a", "b"]]


def test_other_classes_rename_the_declared_ones() -> None:
    assert prepare(declared(ORDER), classes=["c", "a", "b"]).names() == ["c", "a", "b"]
    assert prepare(declared(ORDER), classes=[0, 1, 2]).names() == ["0", "1", "2"]
    with pytest.raises(ValueError, match="unknown label 'tech'"):  # the same classes, spelled otherwise
        prepare(declared(ORDER), classes=["Film", "Sport", "Tech"])


def test_scored_under_other_names(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    declared(ORDER).to_parquet(str(path))
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"labelfusion": json.dumps({"labels": ["T", "F", "S"]}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    for classes in (None, ["F", "S", "T"]):
        assert prepare(path, classes=classes).names() == ["T", "F", "S"]


def test_a_missing_index_is_a_missing_label() -> None:
    with pytest.raises(ValueError, match="Row 1 has no label"):
        prepare(Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]}, features=declared(LABELS).features))


def test_indices_in_a_scored_file_mean_the_classes_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.with_name(path.name + CLASSES_SUFFIX).write_text(json.dumps({"labels": ORDER}))
    pd.DataFrame({"text": TEXTS[:3], "label": [0, 1, 2]}).to_json(path, orient="records", lines=True)
    assert prepare(path, classes=NAMES).names() == ORDER
    vectors = np.eye(3, dtype=int).tolist()
    pd.DataFrame({"text": TEXTS[:3], "labels": vectors}).to_json(path, orient="records", lines=True)
    assert prepare(path, classes=NAMES, multi_label=True).names() == [[name] for name in ORDER]


def test_columns_of_a_data_set_are_lists(make: Any) -> None:
    data = declared(LABELS)
    clf = make().fit(data["text"], data["label"])
    assert clf.predict(data["text"]).tolist() == clf.predict(TEXTS).tolist()
    assert clf.score(data["text"], data["label"]) == clf.score(data) > 0.8


def test_a_model_is_measured_on_the_names_of_the_data(make: Any) -> None:
    clf = make().fit(TEXTS, LABELS)
    truth = clf.score(TEXTS, LABELS)
    assert truth > 0.8
    data = declared(LABELS)
    assert clf.score(data) == clf.evaluate(data)["fusion"]["accuracy"] == truth
    assert make(labels=NAMES).fit(data).score(TEXTS, LABELS) > 0.8


def test_the_command_reads_the_declared_names(tmp_path: Path, tiny_encoder_dir: str) -> None:
    names, indices = tmp_path / "names.csv", tmp_path / "indices.parquet"
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(names, index=False)
    declared(LABELS).to_parquet(str(indices))
    options = ["--encoder", tiny_encoder_dir, "--encoder-training", "probe"]
    runs = {"a": [str(names), "--eval", str(indices)], "b": [str(indices), "--labels", ",".join(NAMES)]}
    for name, data in runs.items():
        assert main(["train", *data, *options, "--output-dir", str(tmp_path / name)]) == 0
        assert AutoFusionClassifier.from_pretrained(tmp_path / name).score(TEXTS, LABELS) > 0.8
    assert main(["evaluate", str(tmp_path / "a"), str(indices), "--output-dir", str(tmp_path / "e")]) == 0
    report = json.loads((tmp_path / "e" / "report.json").read_text())
    assert report["sources"]["Fusion"]["accuracy"]["value"] > 0.8


def test_a_number_is_the_class_of_that_name_before_it_is_an_index() -> None:
    def read(labels: list[Any], classes: list[Any] | None) -> list[str]:
        return prepare(pd.DataFrame({"text": TEXTS[: len(labels)], "label": labels}), classes=classes).names()

    assert read([0, 1, 2], ["2", "1", "0"]) == ["0", "1", "2"]
    assert read([1, 2, 3], ["1", "2", "3"]) == ["1", "2", "3"]
    assert read([1.0, 2.0], ["2", "1"]) == ["1", "2"]
    assert read([1, 2], ["2.0", "1.0"]) == ["1.0", "2.0"]
    assert read([1, 2], ["02", "01"]) == ["01", "02"]
    assert read([1, 2, "other"], None) == ["1", "2", "other"]
    assert read([True, False], ["True", "False"]) == ["True", "False"]
    assert read([True, False], ["1", "0"]) == ["1", "0"]
    assert read([0, 2, 1], ["c", "b", "a"]) == ["c", "a", "b"]  # words: indices
    with pytest.raises(ValueError, match="unknown label 0"):
        read([0, 1], ["1", "2"])


def test_declared_names_that_are_numbers(tmp_path: Path) -> None:
    data = declared(["1", "0", "0"], ["1", "0"])
    assert prepare(data).names() == prepare(data, classes=["0", "1"]).names() == ["1", "0", "0"]
    path = tmp_path / "s.csv"
    path.with_name(path.name + CLASSES_SUFFIX).write_text(json.dumps({"labels": ["1", "0"]}))
    pd.DataFrame({"text": TEXTS[:3], "label": [1, 0, 0]}).to_csv(path, index=False)
    assert prepare(path).names() == prepare(path, classes=[0, 1]).names() == ["1", "0", "0"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", [["1", "0"], ["1", "2", "news"]])
def test_scored_files_of_classes_that_are_numbers(names: list[str], suffix: str, tmp_path: Path) -> None:
    data = declared([names[i % len(names)] for i in range(12)], names)
    data.to_parquet(str(tmp_path / "in.parquet"))
    with LLMServer(labels=names) as server:
        command = ["score", str(tmp_path / "in.parquet"), str(tmp_path / f"out.{suffix}"), "--llm", "m"]
        assert main([*command, "--api-base", server.url, "--method", "json", "--no-cache"]) == 0
    assert prepare(tmp_path / f"out.{suffix}").names() == prepare(data).names() == (names * 6)[:12]


def test_lists_of_numbers_are_classes_or_vectors() -> None:
    def read(labels: list[Any], classes: list[Any] | None) -> list[list[str]]:
        data = pd.DataFrame({"text": TEXTS[: len(labels)], "labels": labels})
        return prepare(data, classes=classes, multi_label=True).names()

    assert read([[0], [1], [1, 0]], ["1", "0"]) == [["0"], ["1"], ["1", "0"]]
    assert read([[0, 1], [1, 1]], None) == [["1"], ["0", "1"]]


def test_a_loaded_model_of_numbers_is_fitted_again(make: Any, tmp_path: Path) -> None:
    numbers = [NAMES.index(name) + 1 for name in LABELS]
    make().fit(TEXTS, numbers).save_pretrained(tmp_path / "m")
    loaded = AutoFusionClassifier.from_pretrained(tmp_path / "m", encoder_training="probe", fusion="pool")
    assert loaded.fit(TEXTS, numbers).classes_.tolist() == [1, 2, 3]
    assert set(loaded.predict(TEXTS)) <= {1, 2, 3}
    assert loaded.score(TEXTS, numbers) > 0.8


def test_columns_of_labels_are_taken_by_name() -> None:
    table = pd.DataFrame({"text": TEXTS, **{name: [int(name == n) for n in LABELS] for name in NAMES}})

    def read(classes: list[str] | None, multi_label: bool = False) -> Any:
        return prepare(table, classes=classes, layout=TableLayout(label_columns=NAMES), multi_label=multi_label).names()

    assert read(None) == read(ORDER) == LABELS
    assert read(ORDER, multi_label=True) == [[name] for name in LABELS]
    assert read(["A", "B", "C"])[:3] == ["A", "B", "C"]  # other names, in the order of the columns
    with pytest.raises(ValueError, match="`label_columns` are 3 columns, but there are 2 classes"):
        read(["film", "sport"])


def test_labels_are_ignored_where_texts_are_classified(make: Any) -> None:
    clf = make().fit(TEXTS, LABELS)
    expected = clf.predict(TEXTS[:3]).tolist()
    for labels in ([None, "film", "news"], [-1, 0, 7], [[], ["film"], None]):
        assert clf.predict(pd.DataFrame({"text": TEXTS[:3], "label": labels})).tolist() == expected
    columns = {name: [np.nan, 1, 2] for name in NAMES}
    renamed = clf.set_params(label_columns=NAMES)
    assert renamed.predict(pd.DataFrame({"text": TEXTS[:3], **columns})).tolist() == expected
