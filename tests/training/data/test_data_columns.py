"""Texts and labels in the shapes in which people have them: lists, columns, cells of a CSV."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from labelfusion.training.data import TableLayout, prepare
from sklearn.model_selection import cross_val_score

from labelfusion import AutoFusionClassifier

NAMES = ["film", "sport", "tech"]
WORDS = {"film": "movie plot actor", "sport": "team game match", "tech": "chip code phone"}
ROWS = [(f"the {WORDS[NAMES[i % 3]].split()[i % 2]} is good w{i % 10}", NAMES[i % 3]) for i in range(36)]
TEXTS, LABELS = [t for t, _ in ROWS], [n for _, n in ROWS]
LISTS = [[name] if i % 4 else [name, "film"] for i, name in enumerate(LABELS)]


@pytest.fixture
def make(tiny_encoder_dir: str) -> Any:
    known: dict[str, Any] = {"llm": None, "encoder_training": "probe", "fusion": "pool", "progress": False}
    return lambda **options: AutoFusionClassifier(tiny_encoder_dir, **known | options)


def test_lists_need_no_column_of_a_certain_name(make: Any) -> None:
    clf = make(text_column="body").fit(TEXTS, LABELS, eval_data=(TEXTS[:9], LABELS[:9]))
    assert clf.score(TEXTS, LABELS) == clf.score(pd.DataFrame({"body": TEXTS, "label": LABELS})) > 0.8
    assert clf.evaluate((TEXTS, LABELS))["rows"] == 36
    assert np.isfinite(cross_val_score(make(text_column="body"), TEXTS, LABELS, cv=2)).all()


def test_lists_of_classes_beside_a_data_frame(make: Any) -> None:
    table = pd.DataFrame({"text": TEXTS}, index=range(36, 0, -1))
    vectors = pd.DataFrame({name: [int(name in row) for row in LISTS] for name in ["tech", "film", "sport"]})
    expected = make(multi_label=True).fit(TEXTS, LISTS).predict_proba(TEXTS)
    for y in (LISTS, vectors):
        clf = make(multi_label=True).fit(table, y)
        assert clf.classes_.tolist() == NAMES
        np.testing.assert_allclose(clf.predict_proba(TEXTS), expected, atol=1e-6)
        assert clf.score(table, y) == clf.score(TEXTS, LISTS)
    one = make().fit(table.assign(labels="old"), pd.DataFrame({"y": LABELS}))
    assert one.score(table, LABELS) > 0.8
    with pytest.raises(ValueError, match=r"`y`: row 0 holds \[2.*expected 0 and 1 only"):
        make(multi_label=True).fit(table, vectors + 2)
    with pytest.raises(ValueError, match="`y`: 36 texts but 3 labels"):
        make().fit(table, LABELS[:3])
    with pytest.raises(ValueError, match="multi_label=True"):
        make(labels=NAMES).fit(table, LISTS)


@pytest.mark.parametrize(("name", "cell"), [("d.csv", "{},{}"), ("d.tsv", "{}\t{}")])
def test_empty_cells(name: str, cell: str, tmp_path: Path) -> None:
    def write(*rows: tuple[str, str]) -> Path:
        (tmp_path / name).write_text("".join(cell.format(*row) + "\n" for row in [("body", "labels"), *rows]))
        return tmp_path / name

    path = write(("", "a"), ("x", "b|a"), ("12", ""))
    data = prepare(path, layout=TableLayout("body", empty_texts="keep"), multi_label=True)
    assert data.texts == [None, "x", "12"]
    assert data.names() == [["a"], ["a", "b"], []]
    assert prepare(write(("1", "a"), ("2", "b")), layout=TableLayout("body")).texts == ["1", "2"]
    with pytest.raises(ValueError, match="Row 1 has no label"):
        prepare(write(("x", "a"), ("y", "")), layout=TableLayout("body"))


def several(*cells: Any) -> list[list[str]]:
    return prepare(pd.DataFrame({"text": TEXTS[: len(cells)], "labels": cells}), multi_label=True).names()


def test_a_column_has_one_separator() -> None:
    assert several("film, tv", "sport|film, tv", "") == [["film, tv"], ["film, tv", "sport"], []]
    assert several("film, tv", "sport;film, tv") == [["film, tv"], ["film, tv", "sport"]]
    assert several("film, tv", "tv") == [["film", "tv"], ["tv"]]


def test_lists_in_the_manner_of_python_and_json() -> None:
    expected = [["it's a film", "tech"], ["tech"]]
    assert several("""["it's a film", 'tech']""", "['tech']") == expected
    assert several("""["it's a film", "tech"]""", '["tech"]') == expected
    for cell in ("[film, tech", "['film' 'tech']", "[film]"):
        with pytest.raises(ValueError, match=r"Row 1: the labels .* are no list"):
            several("tech", cell)


def test_missing_values_of_pandas() -> None:
    for labels in (pd.array([1, None], dtype="Int64"), pd.array(["a", None], dtype="string")):
        for classes in (None, ["a", "b"]):
            with pytest.raises(ValueError, match="Row 1 has no label"):
                prepare(pd.DataFrame({"text": ["x", "y"], "label": labels}), classes=classes)
    scores = [[[0.9, 0.1]], pd.NA, "", [], None]
    found = prepare(pd.DataFrame({"text": TEXTS[:5], "label": list("ababa"), "llm_scores": scores})).llm_scores
    assert found is not None
    assert np.isnan(found).all(axis=(1, 2)).tolist() == [False, True, True, True, True]


def test_a_text_that_is_no_utf_8(make: Any) -> None:
    clf = make().fit(["\ud800 movie", *TEXTS[1:]], LABELS)
    assert clf.predict(["\ud800 movie"])[0] in NAMES
