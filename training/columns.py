"""Cells of a table to arrays: labels in every spelling, and the `llm_scores` column."""

import ast
import contextlib
import json
import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def encode_labels(
    raw: Sequence[Any], classes: Sequence[Any], multi_label: bool, other_names: Sequence[Any] = ()
) -> NDArray[Any]:
    """Labels to int64 `(n,)` indices, or float32 `(n, K)` 0/1 vectors for multi-label.

    A label is a class, in any spelling of a number ("1", 1, 1.0), or an index where no class is called a number.
    A multi-label entry is a 0/1 vector or a list of classes. `other_names` are what the data call the K classes.

    Raises:
        ValueError: For a missing or unknown label, naming the row.
    """
    index: dict[Any, int] = {c: i for i, c in enumerate(classes)}
    for names in (map(str, classes), other_names):
        index |= {name: i for i, name in enumerate(names) if name not in index}
    numbers: dict[float | None, int] = {to_number(c): i for i, c in enumerate(classes) if to_number(c) is not None}

    def position(value: Any, row: int) -> int:
        value = value.item() if isinstance(value, np.generic) else value
        if is_missing(value):
            raise ValueError(f"Row {row} has no label. Drop the row: unlabelled texts cannot be trained on.")
        if is_vector(value):
            raise ValueError(f"Row {row} has the label {value!r}, expected one class; lists need multi_label=True.")
        number = to_number(value)
        found = index.get(value, index.get(str(value), numbers.get(number)))
        if found is None and not numbers and not isinstance(value, str) and number in range(len(classes)):
            found = int(value)
        if found is None:
            raise ValueError(f"Row {row} has the unknown label {value!r}; the classes are {shorten(classes)}.")
        return found

    if not multi_label:
        return np.array([position(v, i) for i, v in enumerate(raw)], dtype=np.int64)
    out = np.zeros((len(raw), len(classes)), dtype=np.float32)
    named = not numbers or (all(isinstance(c, str) for c in classes) and _looks_binary(raw))
    for i, value in enumerate(raw):
        if not is_vector(value):
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
    rows = [parse_row(value, i) for i, value in enumerate(column)]
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
            try:
                values = np.array([np.nan if v is None else v for v in scores], dtype=np.float32)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(
                    f"`llm_scores` row {i}, provider {p}: {shorten([scores])[:60]}; expected a list of numbers."
                ) from None
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


def parse_row(value: Any, row: int) -> list[Any] | None:
    """One cell of the `llm_scores` column as a list with one entry a provider; `None` if it is empty."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "null")
        except (ValueError, RecursionError):  # no JSON, or numbers or nesting beyond what Python reads
            raise ValueError(f"`llm_scores` row {row} is text that is not JSON: {value[:60]!r}.") from None
    if is_missing(value) or (is_vector(value) and len(value) == 0):
        return None
    if not is_vector(value):
        raise ValueError(f"`llm_scores` row {row} is {value!r}; expected providers x classes, or null.")
    items = list(value)
    if items and not any(is_vector(v) for v in items) and any(v is not None for v in items):
        return [items]
    return items


def find_classes(raw: list[Any], given: Sequence[Any] | None, multi_label: bool) -> list[Any]:
    """The given classes, else the sorted ones that occur; a matrix of 0/1 without names numbers them."""
    if given is not None:
        return list(given)
    values = [v for row in raw if is_vector(row) for v in row] if multi_label else raw
    if multi_label and _looks_binary(raw):
        return [str(i) for i in range(len(raw[0]))]
    for i, value in enumerate(values):
        if is_missing(value):
            raise ValueError(f"Row {i} has no label. Drop the row: unlabelled texts cannot be trained on.")
        if not isinstance(value, Hashable) or isinstance(value, tuple):
            raise ValueError(f"Row {i} has the label {value!r}, expected one class; lists need multi_label=True.")
    found = {v.item() if isinstance(v, np.generic) else v for v in values}
    if len(found) < 2:
        raise ValueError(f"The data have {len(found)} class(es), {shorten(sorted(map(str, found)))}; two are needed.")
    kinds = {isinstance(v, str) for v in found}
    return sorted(found) if len(kinds) == 1 else sorted(set(map(str, found)))


def name_labels(raw: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Indices and 0/1 vectors in the order of `names` as these names; a negative index is a missing label."""
    binary = _looks_binary(raw) and len(raw[0]) == len(names)

    def name(value: Any) -> Any:
        if is_vector(value):
            items = list(value)
            if binary or (len(set(items)) < len(items) and _is_binary_vector(items, len(names), True)):
                return [n for n, yes in zip(names, items, strict=True) if yes]
            return [name(v) for v in items]
        if not _is_number(value) or is_missing(value) or str(value) in {"True", "False"} & set(names):
            return value
        if value < 0:
            return None
        return names[int(value)] if value < len(names) else str(value)

    return [name(value) for value in raw]


def _looks_binary(raw: Sequence[Any]) -> bool:
    if not raw or not all(is_vector(r) for r in raw):
        return False
    lengths = {len(r) for r in raw}
    return len(lengths) == 1 and lengths.pop() > 1 and all(_is_number(v) and v in (0, 1) for r in raw for v in r)


def _is_binary_vector(items: list[Any], num_labels: int, named: bool) -> bool:
    if len(items) != num_labels or not all(_is_number(v) and v in (0, 1) for v in items):
        return False
    return named or num_labels > 2 or len(set(items)) < len(items)


def check_binary(values: NDArray[Any], argument: str = "label_columns") -> NDArray[np.float32]:
    """A 0/1 matrix as float32, or an error that names the row."""
    out = values.astype(np.float32)
    if not np.isin(out, (0.0, 1.0)).all():
        row = int(np.flatnonzero(~np.isin(out, (0.0, 1.0)).all(axis=1))[0])
        raise ValueError(f"`{argument}`: row {row} holds {values[row].tolist()}; expected 0 and 1 only.")
    return out


def parse_lists(column: Sequence[Any]) -> list[Any]:
    """Multi-label cells of a CSV: lists in the manner of JSON or Python, or names separated by `|`, `;` or `,`.

    A column has one separator, the first of these that occurs in it: with `film, tv|sport`, `film, tv` is one class.

    Raises:
        ValueError: For a list that cannot be read, naming the row.
    """
    cells = [value.strip() if isinstance(value, str) else value for value in column]
    texts = [cell for cell in cells if isinstance(cell, str) and not cell.startswith("[")]
    separator = next((s for s in "|;," if any(s in text for text in texts)), "|")

    def parse(cell: Any, row: int) -> Any:
        if not isinstance(cell, str):
            return cell
        if cell.startswith("["):
            return _parse_list(cell, row)
        return [part.strip() for part in cell.split(separator) if part.strip()]

    return [parse(cell, i) for i, cell in enumerate(cells)]


def _parse_list(text: str, row: int) -> list[Any]:
    for read in (json.loads, ast.literal_eval):
        if read is ast.literal_eval and re.search(r"""['"]\s+['"]""", text):
            break  # an array as numpy prints it: Python would join its names
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # Python's own, of odd text
            found = read(text)
            if isinstance(found, list):
                return found
    raise ValueError(f"Row {row}: the labels {text[:60]!r} are no list; expected '[\"a\", \"b\"]' or 'a|b'.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def to_number(value: Any) -> float | None:
    """The number that a label is or spells; `None` for a word."""
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"\s*[+-]?\d+(\.\d+)?\s*", value) else None
    return float(value) if _is_number(value) else None


def is_missing(value: Any) -> bool:
    """Whether a cell is None, NaN or `pandas.NA`."""
    return not is_vector(value) and bool(pd.isna(value))


def is_vector(value: Any) -> bool:
    """Whether a cell is a list, tuple, set or array."""
    return isinstance(value, list | tuple | set | np.ndarray)


def shorten(items: Sequence[Any], limit: int = 12) -> str:
    """The first items as text, for a message."""
    shown = ", ".join(repr(i) for i in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
