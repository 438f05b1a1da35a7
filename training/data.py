"""Labelled texts from whatever people have: data frames, data sets, lists, files, Hub ids."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

READERS: dict[str, Callable[[Any], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".tsv": lambda path: pd.read_csv(path, sep="\t"),
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


def read_table(data: Any, split: str = "train") -> tuple[pd.DataFrame, list[str] | None]:
    """Read anything tabular into a data frame.

    Args:
        data: DataFrame, `datasets.Dataset`, dict of columns, list of dicts, pair `(texts, labels)`, path of a CSV, TSV,
            JSON, JSONL or Parquet file, or id of a data set on the Hub.
        split: Split to take of a data set on the Hub or a `DatasetDict`.

    Returns:
        The data frame, and the class names if the data set declares them (`ClassLabel`).

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
            return READERS[path.suffix.lower()](path), None
        if path.exists() or isinstance(data, Path):
            raise ValueError(f"{str(path)!r} is not a data file; expected one of {', '.join(READERS)}.")
        from datasets import load_dataset

        return read_table(load_dataset(data, split=split))
    if isinstance(data, tuple) and len(data) == 2:
        texts, labels = data
        if len(texts) != len(labels):
            raise ValueError(f"`(texts, labels)`: {len(texts)} texts but {len(labels)} labels.")
        column = "labels" if _is_vector(next(iter(labels), None)) else "label"
        return pd.DataFrame({"text": list(texts), column: list(labels)}), None
    if isinstance(data, dict) and hasattr(data, "keys") and not hasattr(data, "column_names"):
        return pd.DataFrame(dict(data)), None
    if isinstance(data, dict):  # a DatasetDict
        if split not in data:
            raise ValueError(f"The data set has no split {split!r}; it has {', '.join(data)}. Pass one of them.")
        return read_table(data[split])
    if hasattr(data, "features") and hasattr(data, "to_pandas"):
        return data.to_pandas(), _declared_names(data.features)
    if isinstance(data, Sequence) and data and isinstance(data[0], dict):
        return pd.DataFrame(list(data)), None
    raise ValueError(
        f"Cannot read data of type {type(data).__name__}: expected a DataFrame, a datasets.Dataset, (texts, labels), a "
        "list of dicts, the path of a CSV, JSONL or Parquet file, or the id of a data set on the Hub."
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
        require_labels: Whether data without labels is an error.

    Raises:
        ValueError: For a missing column, a missing or unknown label, or scores of the wrong shape; the row is named.
    """
    table, declared = read_table(data)
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
    if label_columns:
        absent = [c for c in label_columns if c not in table]
        if absent and require_labels:
            raise ValueError(f"`label_columns`: the data have no column {absent}.")
        classes = list(label_columns) if classes is None else list(classes)
        if not absent:
            labels = _check_binary(table[list(label_columns)].to_numpy())
            if not multi_label:
                if not (labels.sum(axis=1) == 1).all():
                    raise ValueError("`label_columns`: single-label rows have exactly one 1; pass multi_label=True.")
                labels = labels.argmax(axis=1).astype(np.int64)
    else:
        column = "labels" if "labels" in table else "label"
        if column in table:
            raw = [_parse_list(v) if multi_label else v for v in table[column].tolist()]
            classes = _classes(raw, classes if classes is not None else declared, multi_label)
            labels = encode_labels(raw, classes, multi_label)
        elif require_labels:
            raise ValueError(
                f"The data have no column 'label' or 'labels'; the columns are {', '.join(map(str, table.columns))}. "
                "Rename yours, or pass `label_columns=[...]` for one 0/1 column a class."
            )
    classes = list(classes or [])
    scores = None
    if "llm_scores" in table:
        scores = parse_scores(table["llm_scores"].tolist(), len(classes), num_providers)
    return LabelledTexts(texts, labels, scores, classes)


def encode_labels(raw: Sequence[Any], classes: Sequence[Any], multi_label: bool) -> NDArray[Any]:
    """Labels to int64 `(n,)` indices, or float32 `(n, K)` 0/1 vectors for multi-label.

    A single label is a class or, where the classes are names, also its index. A multi-label entry is a 0/1 vector or a
    list of classes.

    Raises:
        ValueError: For a missing or unknown label, naming the row.
    """
    index: dict[Any, int] = {c: i for i, c in enumerate(classes)}
    index |= {str(c): i for i, c in enumerate(classes) if str(c) not in index}
    named = all(isinstance(c, str) for c in classes)

    def position(value: Any, row: int) -> int:
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or (isinstance(value, float) and np.isnan(value)):
            raise ValueError(f"Row {row} has no label. Drop the row: unlabelled texts cannot be trained on.")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value in index:
            return index[value]
        if named and isinstance(value, int) and 0 <= value < len(classes):
            return value
        raise ValueError(f"Row {row} has the unknown label {value!r}; the classes are {_shorten(classes)}.")

    if not multi_label:
        return np.array([position(v, i) for i, v in enumerate(raw)], dtype=np.int64)
    out = np.zeros((len(raw), len(classes)), dtype=np.float32)
    for i, value in enumerate(raw):
        if not _is_vector(value):
            raise ValueError(f"Row {i}: multi-label `labels` must be a list of classes or a 0/1 vector, got {value!r}.")
        items = list(value)
        if _is_binary_vector(items, len(classes), named):
            out[i] = items
        else:
            out[i, [position(v, i) for v in items]] = 1.0
    return out


def parse_scores(column: Iterable[Any], num_labels: int, num_providers: int | None = None) -> NDArray[np.float32]:
    """The `llm_scores` column (lists, arrays or their JSON text; null for missing) as float32 `(n, P, K)` with NaN.

    One flat list of K numbers is taken as the scores of a single provider.

    Raises:
        ValueError: For another shape or numbers outside [0, 1], naming the row.
    """
    rows = [_parse_row(value, i) for i, value in enumerate(column)]
    found = {len(r) for r in rows if r is not None}
    if len(found) > 1:
        raise ValueError(f"`llm_scores`: rows have different numbers of providers: {sorted(found)}.")
    count = num_providers if num_providers is not None else (found.pop() if found else 1)
    if found and found != {count}:
        raise ValueError(f"`llm_scores` holds {found.pop()} providers a row, but {count} are declared.")
    out = np.full((len(rows), count, num_labels), np.nan, dtype=np.float32)
    for i, row in enumerate(rows):
        for p, scores in enumerate(row or []):
            if scores is None:
                continue
            values = np.array([np.nan if v is None else v for v in scores], dtype=np.float32)
            if values.shape != (num_labels,):
                raise ValueError(f"`llm_scores` row {i}, provider {p}: {values.size} scores for {num_labels} classes.")
            if np.isnan(values).any():
                continue
            if values.min() < -1e-4 or values.max() > 1 + 1e-4:
                raise ValueError(
                    f"`llm_scores` row {i}, provider {p}: {values.tolist()}; scores are probabilities in [0, 1]."
                )
            out[i, p] = values.clip(0.0, 1.0)
    return out


def _parse_row(value: Any, row: int) -> list[Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(f"`llm_scores` row {row} is text that is not JSON: {value[:60]!r}.") from None
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if not _is_vector(value):
        raise ValueError(f"`llm_scores` row {row} is {value!r}; expected providers x classes, or null.")
    items = list(value)
    if items and not any(_is_vector(v) for v in items) and any(v is not None for v in items):
        return [items]
    return items


def _classes(raw: list[Any], given: Sequence[Any] | None, multi_label: bool) -> list[Any]:
    if given is not None:
        return list(given)
    values = [v for row in raw if _is_vector(row) for v in row] if multi_label else raw
    if multi_label and raw and all(_is_vector(r) for r in raw) and _looks_binary(raw):
        return [str(i) for i in range(len(raw[0]))]
    for i, value in enumerate(values):
        if value is None or (isinstance(value, float) and np.isnan(value)):
            raise ValueError(f"Row {i} has no label. Drop the row: unlabelled texts cannot be trained on.")
    found = {v.item() if isinstance(v, np.generic) else v for v in values}
    if len(found) < 2:
        raise ValueError(f"The data have {len(found)} class(es), {_shorten(sorted(map(str, found)))}; two are needed.")
    kinds = {isinstance(v, str) for v in found}
    return sorted(found) if len(kinds) == 1 else sorted(map(str, found))


def _declared_names(features: Any) -> list[str] | None:
    for column in ("label", "labels"):
        feature = features.get(column)
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if names:
            return list(names)
    return None


def _looks_binary(raw: list[Any]) -> bool:
    lengths = {len(r) for r in raw}
    return len(lengths) == 1 and lengths.pop() > 1 and all(_is_number(v) and v in (0, 1) for r in raw for v in r)


def _is_binary_vector(items: list[Any], num_labels: int, named: bool) -> bool:
    if len(items) != num_labels or not all(_is_number(v) and v in (0, 1) for v in items):
        return False
    return named or num_labels > 2 or len(set(items)) < len(items)


def _check_binary(values: NDArray[Any]) -> NDArray[np.float32]:
    out = values.astype(np.float32)
    if not np.isin(out, (0.0, 1.0)).all():
        row = int(np.flatnonzero(~np.isin(out, (0.0, 1.0)).all(axis=1))[0])
        raise ValueError(f"`label_columns`: row {row} holds {values[row].tolist()}; expected 0 and 1 only.")
    return out


def _parse_list(value: Any) -> Any:
    """Multi-label cells of a CSV: a JSON list, or names separated by `|` or `;` or `,`."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return json.loads(text.replace("'", '"'))
    for separator in "|;,":
        if separator in text:
            return [part.strip() for part in text.split(separator) if part.strip()]
    return [text] if text else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def _is_vector(value: Any) -> bool:
    return isinstance(value, list | tuple | set | np.ndarray)


def _shorten(items: Sequence[Any], limit: int = 12) -> str:
    shown = ", ".join(repr(i) for i in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
