"""Labelled texts from whatever people have: data frames, data sets, lists, files, Hub ids."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import (
    check_binary,
    encode_labels,
    find_classes,
    is_missing,
    is_vector,
    name_labels,
    parse_lists,
    parse_scores,
    shorten,
    to_number,
)

CLASSES_SUFFIX = ".classes.json"  # of the small file beside a CSV or JSONL file, which have no place for metadata
_CELLS: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}  # "NA" is a text and "None" a class
READERS: dict[str, Callable[..., pd.DataFrame]] = {
    ".csv": lambda path, **options: pd.read_csv(path, **_CELLS, **options),
    ".tsv": lambda path, **options: pd.read_csv(path, sep="\t", **_CELLS, **options),
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".json": pd.read_json,
    ".parquet": pd.read_parquet,
}


@dataclass
class LabelledTexts:
    """Texts with what is known about them; n rows, K classes, P providers.

    Args:
        texts: n texts.
        labels: int64 `(n,)` class indices, or float32 `(n, K)` of 0/1 for multi-label; `None` without labels.
        llm_scores: float32 `(n, P, K)`, NaN where a provider has no answer; `None` without the column.
        classes: K classes as the data spell them: names, or the integers themselves.
    """

    texts: list[str]
    labels: NDArray[Any] | None
    llm_scores: NDArray[np.float32] | None
    classes: list[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def names(self) -> list[Any]:
        """Each row's class name, or list of class names."""
        assert self.labels is not None
        classes = [str(c) for c in self.classes]
        if self.labels.ndim == 1:
            return [classes[i] for i in self.labels]
        return [[c for c, yes in zip(classes, row, strict=True) if yes] for row in self.labels]


def read_table(data: Any, split: str = "train", text_column: str = "text") -> tuple[pd.DataFrame, list[str] | None]:
    """Read anything tabular into a data frame.

    Args:
        data: DataFrame, `datasets.Dataset`, dict of columns, list of dicts, pair `(texts, labels)`, path of a CSV, TSV,
            JSON, JSONL or Parquet file, or id of a data set on the Hub (`id` or `id:split`).
        split: Split to take of a data set on the Hub or a `DatasetDict`.
        text_column: Name of the text column: of that which `(texts, labels)` get, and that has "" where a cell of a CSV
            or TSV file is empty.

    Returns:
        The data frame, with names for the indices of a `ClassLabel`, and the class names if the data set declares them:
        `ClassLabel`, or what `labelfusion score` leaves in a Parquet file or beside a CSV or JSONL file, the order of
        its scores.

    Raises:
        ValueError: For a type that is none of these, or a file of another kind.
        FileNotFoundError: For a path that does not exist.
    """
    if isinstance(data, pd.DataFrame):
        return data.reset_index(drop=True), None
    if isinstance(data, str | Path):
        path = Path(data)
        if path.suffix.lower() in READERS:
            if not path.is_file():
                raise FileNotFoundError(f"There is no file {str(path)!r}.")
            metadata = _metadata(path)
            options = {"dtype": {text_column: str}} if _has_cells(path) else {}  # "123" is a text, and so is ""
            says = json.loads(metadata.get(b"labelfusion", b"{}"))
            scored = says.get("labels")
            table = READERS[path.suffix.lower()](path, **options)
            if options and text_column in table:
                table[text_column] = table[text_column].fillna("")
            features = _features(metadata)
            table, names = _named(table, features, scored)
            if says.get("indices") and not features:
                for column in {"label", "labels"} & set(table.columns):
                    cells = table[column].tolist()
                    found = name_labels(parse_lists(cells) if column == "labels" else cells, scored)
                    table = table.assign(**{column: pd.Series(found, index=table.index, dtype=object)})
            return table, scored or names
        if path.exists() or isinstance(data, Path):
            raise ValueError(f"{str(path)!r} is not a data file; expected one of {', '.join(READERS)}.")
        from datasets import load_dataset

        name, _, part = str(data).partition(":")
        return read_table(load_dataset(name, split=part or split))
    if isinstance(data, tuple) and len(data) == 2:
        texts, labels = data
        if len(texts) != len(labels):
            raise ValueError(f"`(texts, labels)`: {len(texts)} texts but {len(labels)} labels.")
        column = "labels" if is_vector(next(iter(labels), None)) else "label"
        table = pd.DataFrame({text_column: pd.Series(list(texts), dtype=object), column: list(labels)})
        return _named(table, {column: getattr(labels, "features", None)})  # of a column of a datasets.Dataset
    if isinstance(data, dict) and hasattr(data, "keys") and not hasattr(data, "column_names"):
        return pd.DataFrame(dict(data)), None
    if isinstance(data, dict):  # a DatasetDict
        if split not in data:
            raise ValueError(f"The data set has no split {split!r}; it has {', '.join(data)}. Pass one of them.")
        return read_table(data[split])
    if hasattr(data, "features") and hasattr(data, "to_pandas"):
        return _named(data.to_pandas(), data.features)
    if isinstance(data, Sequence) and data and isinstance(data[0], dict):
        return pd.DataFrame(list(data)), None
    raise ValueError(
        f"Cannot read data of type {type(data).__name__}: expected a DataFrame, a datasets.Dataset, (texts, labels), a "
        "list of dicts, the path of a CSV, TSV, JSON, JSONL or Parquet file, or the id of a data set on the Hub."
    )


def prepare(
    data: Any,
    *,
    classes: Sequence[Any] | None = None,
    multi_label: bool = False,
    label_columns: Sequence[str] | None = None,
    text_column: str = "text",
    num_providers: int | None = None,
    require_labels: bool = True,
) -> LabelledTexts:
    """Bring data into arrays.

    Args:
        data: See `read_table`.
        classes: The classes in order. Default: those the data declare, else the sorted ones that occur.
        multi_label: Whether a text may have several classes. Labels are then 0/1 vectors or lists of classes.
        label_columns: Multi-label (or one-hot) data with one 0/1 column a class.
        text_column: Name of the text column.
        num_providers: Expected number of providers in `llm_scores`; `None`: as many as there are.
        require_labels: Whether labels are read; else they are ignored.

    Raises:
        ValueError: For a missing column, a missing or unknown label, or scores of the wrong shape; the row is named.
    """
    table, declared = read_table(data, text_column=text_column)
    if len(table) == 0:
        raise ValueError("The data have no rows.")
    if text_column not in table:
        raise ValueError(
            f"The data have no column {text_column!r}; the columns are {', '.join(map(str, table.columns))}."
        )
    texts = table[text_column].tolist()
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"Row {i}: `{text_column}` is {text!r}, expected a string. Drop the row, or give ''.")
    labels: NDArray[Any] | None = None
    if require_labels:
        labels, classes = _read_labels(table, declared, classes, multi_label, label_columns, _has_cells(data))
    classes = list(next((c for c in (classes, label_columns, declared) if c is not None), []))
    scores = None
    if "llm_scores" in table:
        scores = parse_scores(table["llm_scores"].tolist(), len(classes), num_providers)
        order, wanted = [str(c) for c in declared or []], [str(c) for c in classes]
        if order != wanted and sorted(order) == sorted(wanted):  # the scores are in the order of the declaration
            scores = scores[:, :, [order.index(c) for c in wanted]]
    return LabelledTexts(texts, labels, scores, classes)


def concatenate(a: LabelledTexts, b: LabelledTexts) -> LabelledTexts:
    """The rows of `a`, then those of `b`; scores that one of them lacks are missing."""
    assert a.labels is not None
    assert b.labels is not None
    scores = None
    shape = next((x.llm_scores.shape[1:] for x in (a, b) if x.llm_scores is not None), None)
    if shape is not None:
        parts = [x.llm_scores if x.llm_scores is not None else np.full((len(x), *shape), np.nan) for x in (a, b)]
        scores = np.concatenate(parts).astype(np.float32)
    return LabelledTexts(a.texts + b.texts, np.concatenate([a.labels, b.labels]), scores, a.classes)


def _has_cells(data: Any) -> bool:
    """Whether `data` is the path of a CSV or TSV file, in which an empty text and a missing one look alike."""
    return isinstance(data, str | Path) and Path(data).suffix.lower() in (".csv", ".tsv")


def is_table(data: Any) -> bool:
    """Whether `data` is tabular, not a plain list or array of texts or labels."""
    if isinstance(data, str | Path | dict) or hasattr(data, "columns") or hasattr(data, "column_names"):
        return True
    if isinstance(data, tuple):
        return len(data) == 2 and not all(isinstance(x, str) for x in data)
    return isinstance(data, Sequence) and len(data) > 0 and isinstance(data[0], dict)


def with_labels(data: Any, y: Any) -> Any:
    """Data as `prepare` reads them, from scikit-learn's `(X, y)` where `y` is given.

    `y` may be a data frame of one column of labels, or of a 0/1 column a class.
    """
    if y is None:
        return data
    if hasattr(y, "columns"):
        names = list(y.columns)
        y = y[names[0]].tolist() if len(names) == 1 else name_labels(check_binary(y.to_numpy(), "y").tolist(), names)
    if hasattr(data, "columns"):
        if len(data) != len(y):
            raise ValueError(f"`y`: {len(data)} texts but {len(y)} labels.")
        labels = pd.Series(list(y), index=data.index, dtype=object)
        kept = data.drop(columns=["label", "labels"], errors="ignore")
        return kept.assign(**{"labels" if is_vector(next(iter(y), None)) else "label": labels})
    return list(data), y


def _metadata(path: Path) -> dict[bytes, bytes]:
    """What a Parquet file, and the small file beside any other, say about its data."""
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
    table: pd.DataFrame, features: Any, scored: list[str] | None = None
) -> tuple[pd.DataFrame, list[str] | None]:
    """The table with names for the indices of `ClassLabel`, and these names; `scored` renames them, in their order."""
    declared = None
    for column in ("labels", "label"):
        feature = features.get(column)
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if names and column in table:
            names = scored if scored and len(scored) == len(names) else names
            declared = declared or list(names)
            found = name_labels(table[column].tolist(), names)
            table = table.assign(**{column: pd.Series(found, index=table.index, dtype=object)})
    return table, declared


def _read_labels(
    table: pd.DataFrame,
    declared: list[str] | None,
    classes: Sequence[Any] | None,
    multi_label: bool,
    label_columns: Sequence[str] | None,
    cells: bool,
) -> tuple[NDArray[Any], list[Any]]:
    """Labels as of `LabelledTexts`, and the classes; the arguments are those of `prepare`.

    `cells`: an empty list of classes is an empty cell.
    """
    if label_columns:
        absent = [c for c in label_columns if c not in table]
        if absent:
            raise ValueError(f"`label_columns`: the data have no column {absent}.")
        classes, columns = list(label_columns if classes is None else classes), {str(c): c for c in label_columns}
        if len(classes) != len(columns):
            raise ValueError(
                f"`label_columns` are {len(columns)} columns, but there are {len(classes)} classes: "
                f"{shorten(classes)}. Give one column a class."
            )
        same = set(columns) == {str(c) for c in classes}  # otherwise `classes` renames the columns, in their order
        order = [columns[str(c)] for c in classes] if same else list(label_columns)
        labels = check_binary(table[order].to_numpy())
        if multi_label:
            return labels, classes
        if not (labels.sum(axis=1) == 1).all():
            raise ValueError("`label_columns`: single-label rows have exactly one 1; pass multi_label=True.")
        return labels.argmax(axis=1).astype(np.int64), classes
    column = "labels" if "labels" in table else "label"
    if column not in table:
        raise ValueError(
            f"The data have no column 'label' or 'labels'; the columns are {', '.join(map(str, table.columns))}. "
            "Rename yours, or pass `label_columns=[...]` for one 0/1 column a class."
        )
    raw = table[column].tolist()
    if multi_label:
        raw = parse_lists(["" if cells and is_missing(v) else v for v in raw])
    if declared and not any(to_number(name) is not None for name in declared):  # then a number is an index
        raw = name_labels(raw, declared)
    classes = find_classes(raw, classes if classes is not None else declared, multi_label)
    return encode_labels(raw, classes, multi_label, _other_names(declared, classes)), classes


def _other_names(declared: list[str] | None, classes: Sequence[Any]) -> list[str]:
    """What the data call the classes in their order, where none has the same name: `classes` renames them."""
    given = {str(c).casefold() for c in classes}
    renamed = declared and len(declared) == len(classes) and given.isdisjoint(c.casefold() for c in declared)
    return list(declared or []) if renamed else []
