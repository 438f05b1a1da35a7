"""Converts columns to arrays: labels in any spelling to class indices, and the `llm_scores` column."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .label_cells import has_vectors, is_missing, is_vector, shorten

_HOW_TO_LABEL = "Label it or drop it; an LLM can label texts that are passed as `unlabelled`: docs/unlabelled.md."


def encode_labels(
    raw: Sequence[Any],
    classes: Sequence[Any],
    multi_label: bool,
    other_names: Sequence[Any] = (),
    unseen: list[str] | None = None,
) -> NDArray[Any]:
    """Convert labels, as `label_cells.read_labels` returns them, to indices or 0/1 vectors.

    A label is the spelling of a class (1 matches "1" and "1.0"), or an index if no class name is a number.
    A multi-label entry is a 0/1 vector or a list of classes.

    Args:
        raw: n labels.
        classes: K classes.
        multi_label: Whether an entry is a list.
        other_names: Alternative names of the K classes, as used in the data.
        unseen: A list to which the names of U unknown classes are added; `None`: an unknown class is an error.

    Returns:
        int64 `(n,)` in [0, K + U), or float32 `(n, K + U)` of 0/1 for multi-label.

    Raises:
        ValueError: For a missing or unknown label. The error names the row.
    """
    index: dict[Any, int] = {c: i for i, c in enumerate(classes)}
    for names in (map(str, classes), (str(c).strip() for c in classes), other_names):
        index |= {name: i for i, name in enumerate(names) if name not in index}
    spelt, counted = _places(map(_plain_number, classes)), _places(map(to_number, classes))
    numeric = any(to_number(c) is not None for c in classes)

    def position(value: Any, row: int) -> int:
        if is_missing(value):
            raise ValueError(f"Row {row} has no label. {_HOW_TO_LABEL}")
        if is_vector(value):
            raise ValueError(f"Row {row} has the label {value!r}, expected one class; lists need `multi_label=True`.")
        found = index.get(value, index.get(str(value), spelt.get(_plain_number(value))))
        if found is None and not isinstance(value, str):  # the number 1 matches "01" if no other class is 1
            found = counted.get(to_number(value))
        if found is None and not numeric and not isinstance(value, str) and to_number(value) in range(len(classes)):
            found = int(value)
        if found is None and unseen is not None:
            unseen.append(str(value))
            found = index[value] = len(classes) + len(unseen) - 1
        if found is None:
            raise ValueError(f"Row {row} has the unknown label {value!r}; the classes are {shorten(classes)}.")
        return found

    if not multi_label:
        known: dict[Any, int] = {}
        if not has_vectors(raw):
            known = {value: position(value, raw.index(value)) for value in dict.fromkeys(raw)}
            if len(set(map(type, raw))) == 1:
                return np.fromiter(map(known.__getitem__, raw), dtype=np.int64, count=len(raw))
        return np.array([position(v, i) for i, v in enumerate(raw)], dtype=np.int64)
    named = not numeric or (all(isinstance(c, str) for c in classes) and _looks_binary(raw))
    vectors: list[tuple[int, Any]] = []
    lists: list[tuple[int, list[int]]] = []
    for i, value in enumerate(raw):
        if not is_vector(value):
            raise ValueError(f"Row {i}: multi-label labels must be a list of classes or a 0/1 vector, got {value!r}.")
        items = list(value)
        if _is_binary_vector(items, len(classes), named):
            vectors.append((i, items))
        else:
            lists.append((i, [position(v, i) for v in items]))
    out = np.zeros((len(raw), len(classes) + len(unseen or ())), dtype=np.float32)
    for i, items in vectors:
        out[i, : len(classes)] = items
    for i, places in lists:
        out[i, places] = 1.0
    return out


def parse_scores(column: Iterable[Any], num_labels: int, num_providers: int | None = None) -> NDArray[np.float32]:
    """Convert the `llm_scores` column (lists, arrays or JSON text; null for missing) to float32 `(n, P, K)` with NaN.

    A flat list of K numbers holds the scores of a single provider.

    Raises:
        ValueError: For another shape or numbers outside [0, 1]. The error names the row.
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
    """Convert a cell of the `llm_scores` column to a list with one entry per provider; `None` if it is empty."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "null")
        except (ValueError, RecursionError):  # not JSON, or numbers or nesting beyond Python's limits
            raise ValueError(f"`llm_scores` row {row} is text that is not JSON: {value[:60]!r}.") from None
    if is_missing(value) or (is_vector(value) and len(value) == 0):
        return None
    if not is_vector(value):
        raise ValueError(f"`llm_scores` row {row} is {repr(value)[:60]}; expected providers x classes, or null.")
    items = list(value)
    if items and not any(is_vector(v) for v in items) and any(v is not None for v in items):
        return [items]
    return items


def find_classes(raw: list[Any], given: Sequence[Any] | None, multi_label: bool) -> list[Any]:
    """The given classes, or else the sorted classes that occur. Columns of an unnamed 0/1 matrix are numbered.

    `raw` are labels as `label_cells.read_labels` returns them.
    """
    if given is not None:
        return list(given)
    values = [v for row in raw if is_vector(row) for v in row] if multi_label else raw
    if multi_label and _looks_binary(raw):
        return [str(i) for i in range(len(raw[0]))]
    found = set(values)
    if any(map(is_missing, found)) or (multi_label and any(map(is_missing, raw))):
        row = next(i for i, value in enumerate(raw) if is_missing(value) or (multi_label and None in list(value)))
        raise ValueError(f"Row {row} has no label. {_HOW_TO_LABEL}")
    if len(found) < 2:
        raise ValueError(f"The data have {len(found)} class(es), {shorten(sorted(map(str, found)))}; two are needed.")
    kinds = {isinstance(v, str) for v in found}
    return sorted(found) if len(kinds) == 1 else sorted(set(map(str, found)))


def name_labels(raw: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Replace indices and 0/1 vectors with the names in `names`. A negative index is a missing label."""
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
    """Convert a 0/1 matrix to float32, or raise an error that names the row."""
    try:
        out = values.astype(np.float32)
    except (TypeError, ValueError):
        kept = np.frompyfunc(lambda v: v if _is_number(v) and v in (0, 1) else np.nan, 1, 1)
        out = kept(values).astype(np.float32)
    if not np.isin(out, (0.0, 1.0)).all():
        row = int(np.flatnonzero(~np.isin(out, (0.0, 1.0)).all(axis=1))[0])
        raise ValueError(f"`{argument}`: row {row} holds {values[row].tolist()}; expected 0 and 1 only.")
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def to_number(value: Any) -> float | None:
    """Convert a number or the text of one to float; `None` for other labels."""
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"\s*[+-]?\d+(\.\d+)?\s*", value) else None
    return float(value) if _is_number(value) else None


def _places(keys: Iterable[Any]) -> dict[Any, int]:
    """The index of each key. None and keys that occur twice are left out."""
    listed = list(keys)
    return {key: i for i, key in enumerate(listed) if key is not None and listed.count(key) == 1}


def _plain_number(value: Any) -> str:
    """Normalize spellings of an integer (1, 1.0, "1" and "1.0", not "01") to one text; else the text of `value`."""
    text = str(value).strip()
    return text[:-2] if re.fullmatch(r"(0|-?[1-9]\d*)\.0", text) else text
