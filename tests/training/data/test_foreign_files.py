"""Files of others: whatever is in them, they are read, or refused with a `ValueError` that says what is wrong."""

import csv
import inspect
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from labelfusion.configuration import LabelFusionConfig, LLMProvider
from labelfusion.hub_scripts.io.journal import Journal
from labelfusion.hub_scripts.io.tables import Table
from labelfusion.scoring.local.verbalizers import resolve_verbalizers
from labelfusion.training.data import read_classes
from labelfusion.training.data.label_encoding import encode_labels, find_classes, parse_scores

often = settings(
    deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**400)
things = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
Result = TypeVar("Result")
DEEP = "[" * 100_000 + "]" * 100_000


def read_or_refuse(
    read: Callable[[], Result], refusals: tuple[type[Exception], ...] = (ValueError,)
) -> tuple[Result | None, str]:
    """What is read, or what is said instead."""
    try:
        return read(), ""
    except refusals as error:
        said = str(error)
    assert said
    return None, said


@often
@given(st.lists(scalars | st.text() | st.text(alphabet="[]'\"a|;, 1{}()-", max_size=20), max_size=5))
@example([DEEP])
@example(["[" + "9" * 5000 + "]"])
@example(["[1" + "+1" * 20_000 + "]"])
@example(["['a\0b']"])
@example(["[" + "-" * 5000 + "1]"])
def test_lists_of_labels(column: list[Any]) -> None:
    found, said = read_or_refuse(lambda: read_classes(column, multi_label=True, cells=True))
    if found is None:
        assert "Row" in said
        return
    assert len(found) == len(column)
    assert all(isinstance(value, list) for cell, value in zip(column, found, strict=True) if isinstance(cell, str))


@often
@given(st.lists(things, max_size=4), st.booleans())
def test_labels(raw: list[Any], multi_label: bool) -> None:
    try:
        raw = read_classes(raw, multi_label, cells=False)
        classes = find_classes(raw, None, multi_label)
        encoded = encode_labels(raw, classes, multi_label)
    except ValueError:
        return
    assert len(encoded) == len(raw)


@often
@given(st.lists(things | things.map(lambda thing: json.dumps(thing, default=str)) | st.text(), max_size=4))
@example([DEEP])
@example(["[[" + "9" * 5000 + ", 0.5]]"])
@example([[[10**400, 0.5]]])
@example([[["a", 0.5]]])
@example([[[[0.5], 0.5]]])
@example([{"a": 1}])
@example([[{"a": 1}]])
@example([["ab"]])
@example([[[float("inf"), 0.5]]])
def test_recorded_scores(column: list[Any]) -> None:
    scores, said = read_or_refuse(lambda: parse_scores(column, 2))
    if scores is None:
        assert len(said) < 1000
        return
    assert scores.shape[0] == len(column)
    assert not np.isinf(scores).any()
    assert ((scores >= 0) & (scores <= 1) | np.isnan(scores)).all()


@often
@given(st.binary() | st.text(alphabet='a,"\n\r\t\0;[]{}:1', max_size=60).map(str.encode))
@example(b"text\n" + b'"unclosed')
@example(b"\xff\xfe")
@example(DEEP.encode())
@example(b"[" + b"9" * 5000 + b"]")
@example(b'[1, "a"]\n')
@example(b"5\n")
def test_tables(tmp_path: Path, data: bytes) -> None:
    for suffix in (".csv", ".tsv", ".json", ".jsonl"):
        path = tmp_path / f"t{suffix}"
        path.write_bytes(data)
        rows, said = read_or_refuse(partial(lambda source: list(Table(source)), str(path)))
        assert str(path) in said if rows is None else all(isinstance(row, dict) for row in rows), suffix


@often
@given(
    st.lists(
        st.fixed_dictionaries({"text": st.text().filter(lambda t: "\0" not in t), "n": st.integers().map(str)}),
        max_size=3,
    )
)
def test_cells_come_back_as_they_were(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows = [{k: v.encode("utf-8", "replace").decode() for k, v in row.items()} for row in rows]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["text", "n"])
    writer.writeheader()
    writer.writerows(rows)
    path = tmp_path / "t.csv"
    path.write_bytes(file.getvalue().encode())
    assert list(Table(str(path))) == rows


@often
@given(
    st.lists(
        st.binary(max_size=30)
        | things.map(lambda thing: json.dumps(thing, default=str).encode())
        | st.dictionaries(st.sampled_from(["start", "spent", "rows"]), scalars).map(lambda d: json.dumps(d).encode()),
        max_size=4,
    )
)
@example([b"[]"])
@example([b"5"])
@example([b'{"start": [1]}'])
@example([b'{"spent": "a"}'])
@example([b'{"spent": NaN}'])
@example([b'{"start": ' + b"9" * 5000 + b"}"])
@example([DEEP.encode()])
def test_lines_of_a_journal(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    kept = Journal(path, {"a": 1})
    kept.put({"start": 0, "rows": 3})
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in lines)
    journal = Journal(path, {"a": 1})
    records = list(journal.records())
    assert all(isinstance(record["start"], int) for record in records)
    assert journal.spent >= 0
    journal.put({"start": 999_999, "rows": 1})
    assert [r["start"] for r in Journal(path, {"a": 1}).records()] == sorted([*(r["start"] for r in records), 999_999])


@pytest.mark.parametrize("header", [b"[]\n", b"5\n", b'{"run": 5}\n', b'{"run": null}\n', b"\xff\n", DEEP.encode()])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(header)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Journal(path, {"a": 1})
    assert path.read_bytes() == header


@pytest.mark.parametrize("header", [b"", b"{"])
def test_a_journal_without_its_first_line_is_begun_anew(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(header)  # killed before the line was written
    assert list(Journal(path, {"a": 1}).records()) == []


FIELDS = sorted(set(inspect.signature(LabelFusionConfig.__init__).parameters) - {"self", "kwargs", "encoder_config"})


@often
@given(st.dictionaries(st.sampled_from(FIELDS), things, max_size=3))
def test_a_config_is_read_or_refused(fields: dict[str, Any]) -> None:
    good = LabelFusionConfig(encoder_config={"model_type": "bert"}, llm_providers=["openai/m"]).to_dict()
    config, _ = read_or_refuse(lambda: LabelFusionConfig.from_dict({**good, **fields}), (ValueError, TypeError))
    if config is None:
        return
    assert config.num_providers == len(config.llm_providers)


PROVIDER = list(LLMProvider.from_any("openai/m").to_dict())


@often
@given(st.dictionaries(st.sampled_from([*PROVIDER, "unknown"]), things, max_size=3))
def test_a_provider_is_read_or_refused(fields: dict[str, Any]) -> None:
    provider, _ = read_or_refuse(lambda: LLMProvider.from_any({"model": "openai/m", **fields}), (ValueError, TypeError))
    if provider is None:
        return
    assert LLMProvider.from_any(provider.to_dict()).to_dict() == provider.to_dict()


@often
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=3, unique=True), things, things)
def test_verbalizers(labels: list[str], given_words: Any, descriptions: Any) -> None:
    words = given_words if isinstance(given_words, dict) else {labels[0]: given_words}
    told = {labels[0]: str(descriptions)}

    def resolve() -> list[list[str]]:
        provider = LLMProvider.from_any({"model": "local/m", "verbalizers": words})
        return resolve_verbalizers(labels, provider.verbalizers, told)

    found, _ = read_or_refuse(resolve)
    if found is None:
        return
    assert len(found) == len(labels)
    assert all(isinstance(word, str) and word for group in found for word in group)
