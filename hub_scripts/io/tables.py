"""Data files row by row: CSV, TSV, JSON, JSONL, Parquet and Hub data sets.

They are read and written as streams; only JSON is read into memory as a whole.
"""

import csv
import json
import random
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ...configuration.text_pair import pair_up
from ...training.data import empty_error, is_empty_text, naming
from ...training.data.annotations import find_tool, read_export
from ...training.data.cell_files import DELIMITERS
from ...training.data.data_table import LABEL_COLUMNS, TEXT_PAIR, hub_data
from ...training.data.files import SUFFIXES, check_not_empty, read_rows
from ...training.data.labelled_texts import how_to_name_texts
from .formulas import escape_formula

Row = dict[str, Any]

SCORES = "llm_scores"
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?([eE][+-]?\d{1,3})?")


class Table:
    """A data set that can be iterated several times.

    Args:
        source: Path of a CSV, TSV, JSON, JSONL or Parquet file, or id of a data set on the Hub.
        split: Split of a data set on the Hub.
        text_pair_column: Column with the second texts of pairs. Default: `text_pair`, if there is one.
        **export: How to read the export of an annotation tool: options of `training.data.annotations.read_export`.

    Raises:
        ValueError: For a file of another kind.
        FileNotFoundError: For a path that does not exist.
    """

    def __init__(self, source: str, split: str = "train", text_pair_column: str | None = None, **export: Any) -> None:
        self.source, self.split, self._options = source, split, export
        self._text_pair_column = text_pair_column
        path = Path(source)
        self.counted: int | None = None  # rows, once they have been read
        self.suffix = path.suffix.lower() if path.suffix.lower() in SUFFIXES else ""
        self._is_export = find_tool(source) is not None
        if self._is_export:
            self.suffix = ".json"  # its rows are objects, whatever its name
        if self.suffix and not path.is_file():
            raise FileNotFoundError(f"There is no file {source!r}.")
        if self.suffix:
            check_not_empty(path)
        if not self.suffix and (path.exists() or source.startswith((".", "/", "~"))):
            raise ValueError(f"{source!r} is not a data file; expected one of {', '.join(SUFFIXES)}, or a Hub id.")

    @property
    def name(self) -> str:
        """File name or Hub id, for cards; never a folder of this machine."""
        return Path(self.source).name if self.suffix else self.source

    def version(self) -> str:
        """A version string that changes when the file changes."""
        if not self.suffix:
            return self.split
        stat = Path(self.source).stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"

    def __len__(self) -> int:
        """Number of rows; files other than Parquet are read once to count them."""
        if self.suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.ParquetFile(self.source).metadata.num_rows
        known = None if self.suffix else (self._hub.info.splits or {}).get(self.split)
        if known is not None and known.num_examples:
            return int(known.num_examples)
        if self.counted is None:
            self.counted = sum(1 for _ in self)
        return self.counted

    def __iter__(self) -> Iterator[Row]:
        """All rows as dicts."""
        if self._is_export:
            return map(dict, self._export)
        return read_rows(Path(self.source)) if self.suffix else iter(self._hub)

    def text_of(self, row: Row, text_column: str) -> Any:
        """The text of a row; a `TextPair`, or None if one is blank, if the row has a second text."""
        text, column = row.get(text_column), self._text_pair_column or TEXT_PAIR
        if column in row:
            return pair_up(text, row[column], f"A row of {self.name}")
        if self._text_pair_column is not None:
            raise ValueError(
                f"{self.name} has no column {column!r} (`text_pair_column`); its columns are {', '.join(row)}."
            )
        return text

    @property
    def has_cells(self) -> bool:
        """Whether all cells are texts, as in a CSV or TSV file."""
        return self.suffix in DELIMITERS

    def class_names(self, label_column: str | None = None) -> list[str] | None:
        """Class names that the data set declares (`ClassLabel`), or None."""
        features = None
        if self.suffix == ".parquet":
            import pyarrow.parquet as pq

            metadata = pq.ParquetFile(self.source).schema_arrow.metadata or {}
            features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features")
        elif not self.suffix and self._hub.features is not None:
            features = self._hub.features.to_dict()
        for column in (label_column,) if label_column else LABEL_COLUMNS:
            feature = (features or {}).get(column) or {}
            names = feature.get("names") or (feature.get("feature") or {}).get("names")
            if names:
                return list(names)
        return None

    def schema(self) -> Any:
        """Arrow schema of a Parquet file or a Hub data set; None where it is not declared."""
        if not self.suffix:
            return None if self._hub.features is None else self._hub.features.arrow_schema
        if self.suffix != ".parquet":
            return None
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.source).schema_arrow

    @cached_property
    def _export(self) -> list[Row]:
        return read_export(self.source, **self._options) or []

    @cached_property
    def _hub(self) -> Any:
        return hub_data(self.source, split=self.split, streaming=True)


def check_columns(table: Table, out: Path) -> None:
    """Raise for rows with columns that the first row lacks, before any query.

    Raises:
        ValueError: If `out` is of a kind that has the same columns in all rows, those of the first.
    """
    if table.suffix not in (".json", ".jsonl") or out.suffix.lower() in (".json", ".jsonl"):
        return
    first = next(iter(table), {})
    for number, row in enumerate(table):
        if other := sorted(row.keys() - first.keys()):
            raise ValueError(
                f"Row {number} of {table.name} has the columns {other}, which row 0 lacks; a {out.suffix} file has one "
                "set of columns: give OUT a name that ends in .jsonl."
            )


def check_texts(table: Table, text_column: str, empty_texts: str) -> int:
    """Check the texts before any query; return the number of missing, empty or blank ones.

    Raises:
        ValueError: If there are any and `empty_texts` is "error", or for a value that is not text; names the rows.
    """
    empty: list[int] = []
    count = total = 0
    for total, row in enumerate(table, 1):
        if text_column not in row and total == 1:
            raise ValueError(
                f"{table.name} has no column {text_column!r} (`text_column`); its columns are {', '.join(row)}. "
                f"{how_to_name_texts(row)}"
            )
        with naming(table.source):
            blank = is_empty_text(table.text_of(row, text_column), total - 1, text_column)
        if blank:
            count += 1
            empty += [total - 1] if count <= 5 else []
    table.counted = total
    if count and empty_texts == "error":
        with naming(table.source):
            raise empty_error(count, empty, total, text_column)
    return count


def sample_texts(table: Table, text_column: str, size: int) -> list[str]:
    """`size` texts spread over the table, which may be sorted by class; deterministic, without blank texts."""
    rng, seen = random.Random(0), 0
    kept: list[str] = []
    for row in table:
        text = table.text_of(row, text_column)
        if isinstance(text, str) and text.strip():
            seen += 1
            if len(kept) < size:
                kept.append(text)
            elif (place := rng.randrange(seen)) < size:
                kept[place] = text
    return kept


class Writer:
    """Writes rows to a file of any of `SUFFIXES`. The file appears once the writer closes without error.

    Args:
        path: The file.
        schema: Arrow schema of the input's columns, if known; else a Parquet file takes that of the first rows.
        numbers: Columns of text cells to write as numbers, from CSV or TSV into another kind: `{column: int or float}`.
        metadata: Key-value metadata of a Parquet file.
        escape_formulas: Put an apostrophe in front of cells of a CSV or TSV file that a spreadsheet would run.
    """

    def __init__(
        self,
        path: str | Path,
        schema: Any = None,
        numbers: dict[str, type] | None = None,
        metadata: dict[str, str] | None = None,
        escape_formulas: bool = False,
    ) -> None:
        self.path, self._escaped = Path(path), escape_formula if escape_formulas else _as_it_is
        self._suffix = self.path.suffix.lower()
        self._schema, self._metadata = schema, metadata or {}
        self._numbers = {} if self._suffix in DELIMITERS else numbers or {}
        self._rows: list[Row] = []
        self._file: Any = None
        self._writer: Any = None
        self._started = False

    def __enter__(self) -> "Writer":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(self.path.name + ".tmp")
        if self._suffix != ".parquet":
            self._file = open(self._temporary, "w", encoding="utf-8", newline="")
        return self

    def write(self, row: Row) -> None:
        """Add a row."""
        for column, kind in self._numbers.items():
            row[column] = kind(row[column]) if row[column] != "" else None
        if self._suffix in (".json", ".jsonl"):
            line = json.dumps(row, ensure_ascii=False, default=str)
            self._file.write(f"{line}\n" if self._suffix == ".jsonl" else f"{',' if self._started else '['}\n{line}")
            self._started = True
        elif self._suffix in DELIMITERS:
            if self._writer is None:
                delimiter = DELIMITERS[self._suffix]
                self._writer = csv.DictWriter(self._file, list(row), delimiter=delimiter, lineterminator="\n")
                self._writer.writerow({name: self._escaped(name) for name in row})
            cells = {k: json.dumps(v) if isinstance(v, list | dict) else self._escaped(v) for k, v in row.items()}
            self._writer.writerow(cells)
        else:
            self._rows.append(row)
            if len(self._rows) >= 5000:
                self._write_parquet()

    def _write_parquet(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            scores = pa.field(SCORES, pa.list_(pa.list_(pa.float32())))
            rows = [{k: v for k, v in row.items() if k != SCORES} for row in self._rows]
            schema = (self._schema or pa.Table.from_pylist(rows).schema).append(scores)
            metadata = {**(schema.metadata or {}), **{k.encode(): v.encode() for k, v in self._metadata.items()}}
            if b"huggingface" in metadata:
                metadata[b"huggingface"] = _with_scores(metadata[b"huggingface"])
            self._schema = schema.with_metadata(metadata)
            self._writer = pq.ParquetWriter(self._temporary, self._schema)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._suffix == ".parquet":
            if kind is None and (self._rows or self._writer is None):
                self._write_parquet()
            if self._writer is not None:
                self._writer.close()
        else:
            if self._suffix == ".json":
                self._file.write("\n]\n" if self._started else "[]\n")
            self._file.close()
        if kind is None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink(missing_ok=True)


def _as_it_is(cell: Any) -> Any:
    return cell


def _with_scores(features: bytes) -> bytes:
    """The description of the columns that `datasets` keeps in a Parquet file, with the column of scores added."""
    data = json.loads(features)
    if "features" in data.get("info", {}):
        value = {"dtype": "float32", "_type": "Value"}
        data["info"]["features"][SCORES] = {"feature": {"feature": value, "_type": "List"}, "_type": "List"}
    return json.dumps(data).encode()


def number_columns(table: Table, text_column: str, label_column: str | None = None) -> dict[str, type]:
    """The columns of a CSV or TSV file whose cells are all numbers, `{column: int or float}`; of other files none.

    "007" and numbers too long for 64 bits stay texts: they are names of something. So are labels such as "1.10".
    """
    labels = {label_column, *LABEL_COLUMNS}
    kinds: dict[str, type | None] = {}
    for row in table if table.suffix in DELIMITERS else ():
        for column, cell in row.items():
            kind = kinds.setdefault(column, int)
            if cell and kind is int and not _INTEGER.fullmatch(cell):
                kind = float
            if cell and kind is float and (column in labels or not _NUMBER.fullmatch(cell)):
                kind = None
            kinds[column] = kind
    return {column: kind for column, kind in kinds.items() if kind is not None and column != text_column}
