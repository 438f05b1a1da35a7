"""Files that are read as columns: the same cells, whatever their quotes, lines and block borders; labels by kind."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelfusion.training.data import TableLayout, cell_files, cell_quotes, prepare, with_labels
from labelfusion.training.data.arrow_columns import has_blanks
from labelfusion.training.data.files import read_columns, read_rows

CELLS = st.text(alphabet='ab ,"\n\t;é', max_size=6)
often = settings(
    deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def columns(path: Path) -> dict[str, list[Any]]:
    """What is read at once, which must be what is read row by row."""
    found = {name: list(values) if isinstance(values, list) else values.to_pylist()
             for name, values in read_columns(path).items()}  # fmt: skip
    rows = list(read_rows(path))
    assert {name: [row[name] for row in rows] for name in found} == found
    return found


@often
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=8),
    suffix=st.sampled_from([".csv", ".tsv"]),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_cells_of_a_writer_come_back(
    tmp_path: Path, rows: list[tuple[str, str]], suffix: str, end: str, quoting: Any, encoding: str
) -> None:
    file = io.StringIO(newline="")
    delimiter = "," if suffix == ".csv" else "\t"
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([("text", "label"), *rows])
    path = tmp_path / f"d{suffix}"
    path.write_bytes(file.getvalue().encode(encoding))
    try:
        found = columns(path)
    except ValueError as error:
        if suffix == ".tsv" and "expected one way of reading it" in str(error):
            return  # it can be read in two ways
        raise
    assert found == {"text": [text for text, _ in rows], "label": [label for _, label in rows]}


@pytest.mark.parametrize("block", [64, 1000])
def test_borders_of_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(cell_files, "_BLOCK", block)
    monkeypatch.setattr(cell_quotes, "_PIECE", 7)
    texts = [f'{"é" * (i % 5)}, said "{i}"{chr(10) * (i % 3)}' for i in range(200)]
    pd.DataFrame({"text": texts, "label": ["a", "b"] * 100}).to_csv(tmp_path / "d.csv", index=False)
    assert columns(tmp_path / "d.csv")["text"] == texts
    plain = [f"text {i}, with words" for i in range(200)]
    pd.DataFrame({"text": plain, "label": ["a", "b"] * 100}).to_csv(tmp_path / "d.csv", index=False)
    assert columns(tmp_path / "d.csv")["text"] == plain


def test_cells_of_several_lines_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_files, "_BLOCK", 1000)
    monkeypatch.setattr(cell_files, "find_quotes", None)
    texts = [f'line {i}\n\n"{i}",\r\nline é' for i in range(200)]
    pd.DataFrame({"text": texts, "label": ["a", "b"] * 100}).to_csv(tmp_path / "d.csv", index=False)
    assert read_columns(tmp_path / "d.csv")["text"].to_pylist() == texts  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("d.csv", 'text,label\n5" disk,a\n"3"" disk, old",b\n', ['5" disk', '3" disk, old']),
        ("d.csv", 'text,label\n"a\nb",a\n\nc,b\n', ["a\nb", "c"]),
        ("d.csv", '\n\ntext,label\n5" disk,a\n\nc,b', ['5" disk', "c"]),
        ("d.csv", 'text,label\n"a,b\n"c,d\n', ['"a', '"c']),
        ("d.csv", 'text,label\n"q"s,a\nb,c\n', ['"q"s', "b"]),
        ("d.csv", 'text,label\n"yes" or "no",a\nb,c\n', ['"yes" or "no"', "b"]),
        ("d.csv", 'text,label\nc,d\n"never,a\n', ["c", '"never']),
        ("d.tsv", 'text\tlabel\n"q"s\ta\n"x"\tb\n', ['"q"s', '"x"']),
        ("d.csv", 'sep=;\r\ntext;label\r\n"a;\nb";a\r\nc, d;b\r\n', ["a;\nb", "c, d"]),
        ("d.csv", 'sep=,\ntext,label\n5" disk,a\n"c, d",b\n', ['5" disk', "c, d"]),
        ("d.tsv", 'SEP=\t\ntext\tlabel\n"c"\tb\n', ["c"]),
        ("d.tsv", 'text\tlabel\nsaid "no" to\ta\n"x"\tb\n', ['said "no" to', "x"]),
        ("d.tsv", 'text\tlabel\n"No" is no\ta\nx\tb\n', ['"No" is no', "x"]),
        ("d.tsv", 'text\tlabel\n"x\ty"\ta\nx\tb\n', ["x\ty", "x"]),
    ],
)
def test_quotes_as_they_are_meant(tmp_path: Path, name: str, content: str, texts: list[str]) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / name).write_bytes(content.encode(encoding))
        assert columns(tmp_path / name)["text"] == texts


def test_errors_name_the_row(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    for content, error in (
        ('text,label\n"a\nb",a\nc,d,e\n', "row 1 has 3 cells"),
        ('text,label\n"a\nb",a\n"c"d,"e\nf"\n', "row 1 has quotes that do not match"),
        ("text,label\na,b\nc\n", "row 1 has 1 cells in line 3"),
        ('text,label\n"ok",b\n"q"s,a\n', r"row 1 has quotes that do not match \(line 3: ',' expected"),
        ('text,label\nx,b\n"tail,"q , r"\n', r"row 1 has quotes that do not match \(line 3: ',' expected"),
        ('text,label\n"ok",b\n"never,a\nx,b\n', 'the `"` that opens a cell in line 3 is never closed'),
        ('text,label\n"never,a\n"ok",b\n', r"row 0 has quotes that do not match \(lines 2 to 3: ',' expected"),
        ('text,label\n"a,b"\n"c,d"\n', "row 0 has 1 cells in line 2"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=error):
            read_columns(path)
        with pytest.raises(ValueError, match=error):
            list(read_rows(path))
    path.write_bytes("text,label\na,b\ncafé,b\n".encode("cp1252"))
    with pytest.raises(ValueError, match="line 3 is not UTF-8"):
        read_columns(path)


def written(path: Path, table: dict[str, Any]) -> Path:
    """The table as a file of Parquet or CSV."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    else:
        pd.DataFrame(table).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["d.csv", "d.parquet"])
def test_labels_by_kind_are_labels_by_row(tmp_path: Path, name: str) -> None:
    texts = [f"text {i}" for i in range(6)]

    def read(labels: list[Any], **options: Any) -> Any:
        return prepare(written(tmp_path / name, {"text": texts, "label": labels}), **options)

    for labels in (list("babacb"), ["01", "1", "01", "1", "1", "1"], [" a", "a", "b", "a ", "b", "a"]):
        assert read(labels).names() == [label.strip() for label in labels]
    assert read(list("label0")[:6]).classes == ["0", "a", "b", "e", "l"]  # and not the header of a CSV file
    assert read(["a|b", "b", "a", "b|a", "c", "b"], multi_label=True).names() == [
        ["a", "b"], ["b"], ["a"], ["a", "b"], ["c"], ["b"]
    ]  # fmt: skip
    assert read([3, 4, 3, 4, 4, 3]).names() == ["3", "4", "3", "4", "4", "3"]
    with pytest.raises(ValueError, match=f"{name}: Row 4 has the unknown label 'c'"):
        read(list("babacb"), classes=["a", "b"])
    with pytest.raises(ValueError, match=f"{name}: Row 5 has no label"):
        read([*"babac", None])
    found = read(list("badacd"), classes=["a", "b"], unseen_classes=True)
    assert found.unseen == ["d", "c"]
    assert found.names() == list("badacd")
    gap = written(tmp_path / name, {"text": ["", *texts[1:]], "label": list("cababa")})
    skipped = prepare(gap, layout=TableLayout(empty_texts="skip"))
    assert (skipped.classes, skipped.names(), skipped.texts) == (["a", "b"], list("ababa"), texts[1:])


def test_what_pandas_keeps_as_columns_of_arrow() -> None:
    for kind in ("string[pyarrow]", pd.ArrowDtype(pa.string()), pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))):
        table = pd.DataFrame({"text": ["x", "y", "z"], "label": ["b", "a", "b"]}, index=[7, 8, 9])
        data = prepare(table.astype({"text": "string[pyarrow]", "label": kind}))
        assert (data.texts, data.names()) == (["x", "y", "z"], ["b", "a", "b"])
        gap = pd.Series(["b", None, "a"], index=table.index).astype(kind)
        with pytest.raises(ValueError, match="Row 1 has no label"):
            prepare(table.assign(label=gap))
    for text in ("", " ", None):
        with pytest.raises(ValueError, match="1 of 3 rows have no text in the column 'text': row 1"):
            prepare(table.assign(text=pd.array(["x", text, "z"], dtype="string[pyarrow]")))


class Stream:
    """A table of another library, such as Polars, that only hands over Arrow data."""

    columns = ("text", "label")

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_tables_of_arrow(kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array(["x", "y", "z"]), "label": pa.array(["b", "a", "b"]).cast(kind)})
    for data in (table, Stream(table), table.to_pandas(types_mapper=pd.ArrowDtype)):
        found = prepare(data)
        assert (found.texts, found.names()) == (["x", "y", "z"], ["b", "a", "b"])
    for y in (["b", "a", "b"], table.select(["label"]), np.array(["b", "a", "b"])):
        assert prepare(with_labels(table.select(["text"]), y)).names() == ["b", "a", "b"]


def test_blank_is_what_python_calls_blank() -> None:
    for number in range(0x110000):
        if chr(number).isspace():
            assert has_blanks(pa.chunked_array([["a", chr(number) * 2]]))
    visible = [chr(n) for n in range(0x110000) if not chr(n).isspace() and not 0xD800 <= n < 0xE000]
    assert not has_blanks(pa.chunked_array([visible]))


def test_texts_of_parquet_that_are_no_utf_8(tmp_path: Path) -> None:
    texts = pa.array([b"ok", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"]}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"d\.parquet is no Parquet file that can be read .*UTF"):
        prepare(tmp_path / "d.parquet")


def test_class_labels_of_parquet(tmp_path: Path) -> None:
    features = {"label": {"names": ["b", "a"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"text": ["x", "y", "z"], "label": [0, 1, 0]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "d.parquet")
    data = prepare(tmp_path / "d.parquet")
    assert (data.classes, data.names()) == (["b", "a"], ["b", "a", "b"])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0]
