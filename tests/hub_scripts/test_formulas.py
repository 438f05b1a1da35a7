"""`--escape-formulas`: cells that a spreadsheet would run as a formula, in everything that writes CSV or TSV."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.commands.train import write_review
from labelfusion.hub_scripts.io.formulas import escape_formula
from labelfusion.hub_scripts.io.tables import Table, Writer
from llm_server import LABELS, LLMServer

FORMULAS = [
    "=1+2",
    "+A1",
    "-A1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "＝1",
    "=cmd|' /C calc'!A0",
    "-",
    "-1-2",
    "+1;x",
]
HARMLESS = ["-5", "+5", "-5.25", "-1e-05", "", "text", "a=b", "x-y", "'=1", "5", "a\nb", "–1"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_formulas_get_an_apostrophe(cell: str) -> None:
    assert escape_formula(cell) == "'" + cell


@pytest.mark.parametrize("cell", [*HARMLESS, -5, -0.5, None, True])
def test_other_cells_stay(cell: Any) -> None:
    assert escape_formula(cell) == cell


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(alphabet=st.sampled_from("=+-@＝ \t\r\n15.eab'")) | st.text())
def test_what_is_left_is_no_formula(cell: str) -> None:
    escaped = escape_formula(cell)
    assert escaped in (cell, "'" + cell)
    bare = escaped.lstrip(" ")
    if bare[:1] in tuple("=+-@\t\r\n"):
        float(escaped)  # a number
    assert escape_formula(escaped) == escaped


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_writer_escapes_cells_and_column_names_of_csv_and_tsv_alone(tmp_path: Path, suffix: str) -> None:
    row = {"text": "=1+2", "=name": "x", "number": "-5", "llm_scores": [[0.5, 0.5]]}
    path = tmp_path / f"out{suffix}"
    with Writer(path, escape_formulas=True) as writer:
        writer.write(dict(row))
    (read,) = Table(str(path))
    if suffix in (".csv", ".tsv"):
        assert read == {"text": "'=1+2", "'=name": "x", "number": "-5", "llm_scores": "[[0.5, 0.5]]"}
    else:
        assert read == row
    with Writer(path) as writer:
        writer.write(dict(row))
    assert next(iter(Table(str(path))))["text"] == "=1+2"


def test_score_escapes_its_file_and_asks_about_the_text_as_it_is(tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('text,id\n"=HYPERLINK(1)",-5\nplain,7\n')
    with LLMServer(keep=True) as server:
        provider = json.dumps({"model": "m", "api_base": server.url, "method": "json"})
        options = ["--llm", provider, "--labels", ",".join(LABELS), "--no-cache", "--escape-formulas"]
        assert main(["score", str(source), str(out), *options]) == 0
        sent = [body["messages"][-1]["content"] for body in server.bodies]
    assert sorted(sent) == ["<text>\n=HYPERLINK(1)\n</text>", "<text>\nplain\n</text>"]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["id"]) for row in rows] == [("'=HYPERLINK(1)", "-5"), ("plain", "7")]


def test_the_review_escapes_class_names(tmp_path: Path) -> None:
    entry = {"row": 0, "given": "=A", "suggested": ["-b", "c"], "encoder_given": 0.1, "encoder_suggested": 0.9}
    clf: Any = SimpleNamespace(suspected_labels=lambda: [{**entry, "llm_given": 0.1, "llm_suggested": 0.9}])
    for escape, shown in ((True, "'=A"), (False, "=A")):
        assert write_review(clf, tmp_path / "r.csv", 1, escape) == 1
        with (tmp_path / "r.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert (row["given"], row["suggested"]) == (shown, '["-b", "c"]')
