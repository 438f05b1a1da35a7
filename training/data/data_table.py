"""Reads data frames, data sets, lists, files and Hub ids into one data frame."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...configuration.secrets import redact
from .annotations import EXPORT_SUFFIXES, read_export
from .arrow_columns import to_objects, to_series
from .cell_files import DELIMITERS
from .files import SUFFIXES, check_not_empty, read_batches, read_columns
from .label_cells import read_labels
from .label_encoding import check_binary, name_labels

CLASSES_SUFFIX = ".classes.json"  # of the file next to a CSV or JSONL file, which cannot hold metadata
LABEL_COLUMNS = ("label", "labels")
SCORES, TEXT_PAIR = "llm_scores", "text_pair"


@dataclass(frozen=True)
class TableLayout:
    """Where texts and labels are in the data, and how rows without a text or with several annotators are read.

    Args:
        text_column: Name of the text column.
        text_pair_column: Name of the column with the second texts of pairs. Default: `text_pair`, if there is one.
        label_column: Name of the label column. Default: `label`, or `labels`; the latter first for multi-label.
        label_columns: Multi-label (or one-hot) data with one 0/1 column a class.
        empty_texts: How to treat rows whose text is missing, empty or blank: `"error"`; `"skip"`: leave them out, with
            a warning; `"keep"`: keep them, with None as text.
        annotators: How to combine several annotators: `"majority"` or `"soft"`, see `annotations.read_export`.
    """

    text_column: str = "text"
    label_column: str | None = None
    label_columns: Sequence[str] | None = None
    empty_texts: str = "error"
    annotators: str = "majority"
    text_pair_column: str | None = None

    @property
    def columns(self) -> set[str]:
        """The columns to read from a file."""
        labels = {self.label_column} if self.label_column else {*LABEL_COLUMNS}
        return {self.text_column, self.text_pair_column or TEXT_PAIR, SCORES, *(self.label_columns or ())} | labels


def hub_data(name: str, **options: Any) -> Any:
    """A data set on the Hub, or in its cache.

    Raises:
        FileNotFoundError: If it cannot be had; `name` may also be that of a file.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, **options)
    except (FileNotFoundError, ConnectionError) as error:
        reason = redact(str(error)).partition("\n")[0].rstrip(".")
        kinds = ", ".join((*SUFFIXES, *EXPORT_SUFFIXES))
        raise FileNotFoundError(
            f"There is no file {name!r} here, and no data set of this name was fetched from the Hub ({reason}). Give "
            f"the path of a file that ends in {kinds}, or a Hub id such as 'fancyzhx/ag_news'."
        ) from error


def read_table(
    data: Any,
    split: str = "train",
    text_column: str = "text",
    label_column: str | None = None,
    columns: Collection[str] | None = None,
    **export: Any,
) -> tuple[pd.DataFrame, list[str] | None]:
    """Read anything tabular into a data frame.

    Args:
        data: DataFrame, Arrow or Polars table, `datasets.Dataset`, dict of columns, list of dicts, pair
            `(texts, labels)`, path of a CSV, TSV, JSON, JSONL or Parquet file, or id of a data set on
            the Hub (`id` or `id:split`).
        split: Split to take of a data set on the Hub or a `DatasetDict`.
        text_column: Name of the text column for a pair `(texts, labels)`.
        label_column: Name of the label column; `None`: `label` or `labels`.
        columns: The columns to read from a file; `None`: all.
        **export: Other options of `annotations.read_export`, for exports of annotation tools.

    Returns:
        The data frame (all cells of a CSV or TSV file are texts), where names replace the indices of a `ClassLabel`;
        and the class names if the data set declares them. They come from a `ClassLabel`, or from the metadata that
        `labelfusion score` writes into a Parquet file or next to a CSV or JSONL file, in the order of its scores.

    Raises:
        ValueError: If the type of the data or of the file is not supported.
        FileNotFoundError: If the path does not exist.
    """
    data = _as_frame(data)
    rows = read_export(data, text_column=text_column, label_column=label_column, **export)
    if rows is not None:
        return _from_rows(rows), None
    if isinstance(data, pd.DataFrame):
        return data.reset_index(drop=True), None
    if isinstance(data, str | Path):
        path = Path(data)
        if path.suffix.lower() in SUFFIXES:
            return _read_file(path, label_column, columns)
        if path.exists() or isinstance(data, Path):
            kinds = ", ".join((*SUFFIXES, *EXPORT_SUFFIXES))
            raise ValueError(f"{str(path)!r} is not a data file; expected one of {kinds}.")
        name, _, part = str(data).partition(":")
        return read_table(hub_data(name, split=part or split), split, text_column, label_column, columns, **export)
    if isinstance(data, tuple) and len(data) == 2:
        texts, labels = data
        if len(texts) != len(labels):
            raise ValueError(f"`(texts, labels)`: {len(texts)} texts but {len(labels)} labels.")
        column = label_column or "label"
        table = _from_rows(texts) if len(texts) and isinstance(texts[0], dict) else None
        table = pd.DataFrame({text_column: _objects(texts)}) if table is None else table
        table = table.assign(**{column: _objects(labels)})
        return _named(table, {column: getattr(labels, "features", None)}, column)  # `labels` may be a `datasets.Column`
    if isinstance(data, dict) and hasattr(data, "keys") and not hasattr(data, "column_names"):
        return pd.DataFrame(dict(data)), None
    if isinstance(data, dict):  # a DatasetDict
        if split not in data:
            raise ValueError(f"The data set has no split {split!r}; it has {', '.join(data)}. Pass one of them.")
        return read_table(data[split], split, text_column, label_column, columns, **export)
    if hasattr(data, "features") and hasattr(data, "to_pandas"):
        if hasattr(data, "__len__"):
            return _named(data.to_pandas(), data.features or {}, label_column)
        rows = list(data)  # a stream, which may not declare its columns
        return _named(_from_rows(rows), data.features or {}, label_column)
    if isinstance(data, Sequence) and len(data) and isinstance(data[0], dict):
        return _from_rows(data), None
    pairs = isinstance(data, list) and len(data) and isinstance(data[0], tuple | list)
    raise ValueError(
        f"Cannot read data of type {type(data).__name__}: expected a DataFrame, a datasets.Dataset, (texts, labels), a "
        "list of dicts, the path of a CSV, TSV, JSON, JSONL or Parquet file, or the id of a data set on the Hub."
        + (" For pairs, give two lists: `fit(texts, labels)`." if pairs else "")
    )


def is_table(data: Any) -> bool:
    """Whether `data` is tabular, not a plain list or array of texts or labels."""
    if isinstance(data, str | Path | dict) or hasattr(data, "columns") or hasattr(data, "column_names"):
        return True
    if isinstance(data, tuple):
        return len(data) == 2 and not all(isinstance(x, str) for x in data)
    return isinstance(data, Sequence) and len(data) > 0 and isinstance(data[0], dict)


def with_labels(data: Any, y: Any, label_column: str | None = None) -> Any:
    """Convert scikit-learn's `(X, y)` to data for `prepare`. Without `y`, `data` are returned unchanged.

    `y` may be a data frame with one column of labels, or with one 0/1 column per class.

    Raises:
        ValueError: If there are not as many labels as texts, or the data are a file, which has its own.
    """
    if y is None:
        return data
    if isinstance(data, str | Path):
        raise ValueError(
            f"The data are {str(data)!r}, the path of a file or a Hub id, and `y` was given too: leave out `y`; labels "
            "are read from the file."
        )
    data, y = _as_frame(data), _as_frame(y)
    if hasattr(y, "columns"):
        names = list(y.columns)
        y = y[names[0]].tolist() if len(names) == 1 else name_labels(check_binary(y.to_numpy(), "y").tolist(), names)
    if hasattr(data, "columns"):
        if len(data) != len(y):
            raise ValueError(f"`y`: {len(data)} texts but {len(y)} labels.")
        labels = _objects(y).set_axis(data.index)
        kept = data.drop(columns=list(LABEL_COLUMNS), errors="ignore")
        return kept.assign(**{label_column or "label": labels})
    return list(data), y


def _as_frame(data: Any) -> Any:
    """Convert a table of another library, such as Arrow or Polars, to a pandas data frame. Other data are returned."""
    if isinstance(data, pd.DataFrame | pd.Series) or hasattr(data, "features"):
        return data
    if not (hasattr(data, "__arrow_c_stream__") and hasattr(data, "columns")):
        return data
    import pyarrow as pa

    return pa.table(data).to_pandas(types_mapper=pd.ArrowDtype)


def _objects(values: Any) -> pd.Series:
    """Make a series of dtype object, without any conversion of the values."""
    array = np.empty(len(values), dtype=object)
    array[:] = values if isinstance(values, list) else list(values)
    return pd.Series(array, dtype=object)


def _from_rows(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _objects([row.get(name) for row in rows]) for name in names})


def column_names(data: Any, table: pd.DataFrame) -> list[str]:
    """The names of all columns of `data`. `table` may hold only the requested ones."""
    if is_file(data):
        _, first = next(read_batches(Path(data)), (0, {}))
        return list(first)
    return [str(name) for name in table.columns]


def is_file(data: Any) -> bool:
    """Whether `data` is the path of a data file."""
    return isinstance(data, str | Path) and Path(data).suffix.lower() in SUFFIXES


def has_cells(data: Any) -> bool:
    """Whether `data` is the path of a CSV or TSV file, in which all cells are texts."""
    return isinstance(data, str | Path) and Path(data).suffix.lower() in DELIMITERS


def _read_file(
    path: Path, label_column: str | None, columns: Collection[str] | None
) -> tuple[pd.DataFrame, list[str] | None]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    check_not_empty(path)
    metadata = _metadata(path)
    says = json.loads(metadata.get(b"labelfusion", b"{}"))
    scored = says.get("labels")
    read = read_columns(path, columns, (label_column,) if label_column else LABEL_COLUMNS)
    columns_read = {name: _objects(v) if isinstance(v, list) else to_series(v) for name, v in read.items()}
    table = pd.DataFrame(columns_read, copy=False)
    features = _features(metadata)
    table, names = _named(table, features, label_column, scored)
    if says.get("indices") and not features:
        for column in {label_column, *LABEL_COLUMNS} & set(table.columns):
            found = name_labels(read_labels(to_objects(table[column]), has_cells(path)), scored)
            table = table.assign(**{str(column): _objects(found)})
    return table, scored or names


def _metadata(path: Path) -> dict[bytes, bytes]:
    """Metadata from a Parquet file and from the classes file next to a data file."""
    found: dict[bytes, bytes] = {}
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        found = dict(pq.read_schema(path).metadata or {})
    beside = path.with_name(path.name + CLASSES_SUFFIX)
    return found | ({b"labelfusion": beside.read_bytes()} if beside.is_file() else {})


def _features(metadata: dict[bytes, bytes]) -> Any:
    declared = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features")
    if not declared:
        return {}
    from datasets import Features

    return Features.from_dict(declared)


def _named(
    table: pd.DataFrame, features: Any, label_column: str | None = None, scored: list[str] | None = None
) -> tuple[pd.DataFrame, list[str] | None]:
    """Replace `ClassLabel` indices in the table with names, and return both. `scored` overrides the names in order."""
    declared = None
    for column in (label_column,) if label_column else reversed(LABEL_COLUMNS):
        feature = features.get(column)
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if names and column in table:
            names = scored if scored and len(scored) == len(names) else names
            declared = declared or list(names)
            table = table.assign(**{column: _objects(name_labels(to_objects(table[column]), names))})
    return table, declared
