"""Reads CSV, TSV, JSON, JSON Lines and Parquet files.

Cells are not converted: cells of a CSV or TSV file and strings of a JSON file stay texts, even if they look like
numbers or dates. A file that cannot be read correctly is an error that names the file and the row.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cell_files import DELIMITERS, find_encoding, named, read_all_cells, read_cells, read_error

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
BATCH = 10_000  # rows per batch
_SHORT, _BLANK = 1000, b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"  # bytes of an empty file, and what may be in it


def check_not_empty(path: Path) -> None:
    """Check that a file holds more than blank lines.

    Raises:
        ValueError: If not; says what is expected in it.
    """
    if path.suffix.lower() == ".parquet" or path.stat().st_size > _SHORT or path.read_bytes().strip(_BLANK):
        return
    expected = {
        ".csv": "a header line such as `text,label`",
        ".tsv": "a header line such as `text` and `label`, with a tab between them",
    }.get(path.suffix.lower(), 'objects such as {"text": "...", "label": "..."}')
    raise ValueError(f"{path} is empty: expected {expected}.")


def read_batches(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """Read a file in batches of some thousand rows, each as its row count and its columns.

    Args:
        path: File whose name ends in one of `SUFFIXES`.
        columns: Names of the columns to read, if the file has them; `None`: all.

    Raises:
        ValueError: If the file cannot be read correctly. The error names the row and the fix.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        yield from read_cells(path, columns)
    elif suffix == ".parquet":
        with _opened(path, columns) as (file, names):
            for batch in file.iter_batches(batch_size=1 << 13, columns=names):
                yield batch.num_rows, {name: batch.column(name).to_pylist() for name in names}
    else:
        yield from _in_columns(read_objects(path), columns)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a file as dicts. Raises the errors of `read_batches`."""
    if path.suffix.lower() in (".json", ".jsonl"):
        yield from read_objects(path)
        return
    for _, batch in read_batches(path):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(names, values, strict=True))


def read_columns(
    path: Path, columns: Collection[str] | None = None, repeated: Collection[str] = ()
) -> "dict[str, list[Any] | pa.ChunkedArray]":
    """Read a whole file as columns, with None where a row lacks a column. Arguments and errors as in `read_batches`.

    Columns of a CSV, TSV or Parquet file are Arrow columns, so that cells become Python objects only when needed. Text
    columns in `repeated` are dictionary-encoded.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return {**read_all_cells(path, columns, repeated)}
    if suffix == ".parquet":
        with _opened(path, columns, repeated) as (file, names):
            table = file.read(columns=names)
            table.validate(full=True)  # Arrow would otherwise check texts only on access
            return {name: table.column(name) for name in names}
    found: dict[str, list[Any]] = {}
    count = 0
    for size, batch in read_batches(path, columns):
        for name in found.keys() - batch.keys():
            found[name] += [None] * size
        for name, values in batch.items():
            found.setdefault(name, [None] * count).extend(values)
        count += size
    return {**found}


@contextmanager
def _opened(
    path: Path, columns: Collection[str] | None, repeated: Collection[str] = ()
) -> "Iterator[tuple[pq.ParquetFile, list[str]]]":
    """Open a Parquet file; yields it with those of the requested columns that it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        kinds = {field.name: field.type for field in pq.read_schema(path)} if repeated else {}
        texts = [name for name in repeated if str(kinds.get(name)) in ("string", "large_string")]
        # By batches, Arrow would still keep a whole row group. Whole columns are faster without a buffer.
        stream = {} if repeated else {"buffer_size": 1 << 16, "pre_buffer": False}
        file = pq.ParquetFile(path, read_dictionary=texts, **stream)
        yield file, [name for name in file.schema_arrow.names if columns is None or name in columns]
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file that can be read ({error}). Write it again.") from None


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a JSON file: a list, one object per line, or a column-wise table as pandas writes it."""
    with named(path), path.open(encoding=find_encoding(path)) as file:
        start = next((line for line in file if line.strip()), "")
        file.seek(0)
        if start.lstrip().startswith("["):
            yield from _objects(path, _load(path, file.read()))
            return
        first = _loaded(start)
        if not isinstance(first, dict) or _is_columns(first):
            rows = _try_columns(file.read())
            if rows is not None:
                yield from rows
                return
            file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                row = _loaded(line)
                if not isinstance(row, dict):
                    raise read_error(
                        path,
                        f"line {number} is not JSON" if row is _BROKEN else f"line {number} is {line.strip()[:40]!r}",
                        'one object a line, such as {"text": "...", "label": "..."}, or a list of objects',
                    )
                yield row


_BROKEN = object()


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _BROKEN


def _load(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"line {error.lineno} is" if isinstance(error, json.JSONDecodeError) else "it is"
        found = f"{place} not JSON ({getattr(error, 'msg', error)})"
        raise read_error(path, found, "a list of objects, one a row") from None


def _objects(path: Path, rows: list[Any]) -> Iterator[dict[str, Any]]:
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise read_error(path, f"row {i} is {str(row)[:40]!r}", "a list of objects, one a row")
    yield from rows


def _is_columns(found: dict[str, Any]) -> bool:
    """Whether an object is a column-wise table: lists of equal length, or objects with the same keys."""
    kinds, values = {type(value) for value in found.values()}, list(found.values())
    if kinds == {list}:
        return len({len(value) for value in values}) == 1 and len(values) > 1
    return kinds == {dict} and all(value.keys() == values[0].keys() for value in values)


def _try_columns(text: str) -> list[dict[str, Any]] | None:
    found = _loaded(text)
    if not isinstance(found, dict) or not _is_columns(found):
        return [found] if isinstance(found, dict) else None
    columns = [value.values() if isinstance(value, dict) else value for value in found.values()]
    return [dict(zip(found, values, strict=True)) for values in zip(*columns, strict=True)]


def _in_columns(
    rows: Iterator[dict[str, Any]], columns: Collection[str] | None
) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    batch: dict[str, list[Any]] = {}
    count = 0
    for row in rows:
        for name, value in row.items():
            if columns is None or name in columns:
                cells = batch.get(name)
                if cells is None:
                    cells = batch[name] = []
                if len(cells) < count:  # earlier rows lack the column
                    cells.extend([None] * (count - len(cells)))
                cells.append(value)
        count += 1
        if count == BATCH:
            yield count, _filled(batch, count)
            batch, count = {}, 0
    if count:
        yield count, _filled(batch, count)


def _filled(batch: dict[str, list[Any]], count: int) -> dict[str, list[Any]]:
    for cells in batch.values():
        cells.extend([None] * (count - len(cells)))
    return batch
