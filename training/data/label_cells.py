"""Parses label cells: lists in one cell, spaces around a name, numbers as class names."""

import ast
import contextlib
import json
import logging
import re
from collections.abc import Callable, Collection, Hashable, Sequence
from datetime import date
from typing import Any, cast

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

_VECTORS = (list, tuple, set, frozenset, np.ndarray)
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_WHOLE = re.compile(r"(0|-?[1-9]\d{0,14})\.0")  # pandas writes integer columns with missing values like this


def read_labels(column: Sequence[Any], cells: bool = False) -> list[Any]:
    """Read the labels of a column as classes or lists of classes, with None for a missing label.

    Spaces around names are stripped, and floats with integer values become ints. Sets, tuples, arrays,
    `{"choices": [...]}` and texts that hold a list become lists.

    Args:
        column: n labels.
        cells: Whether they are cells of a CSV or TSV file: texts, "" for a missing one. They become numbers (or
            booleans) if all of them are spelt as Python prints these: "0" and "1", not "01" or "1.10".

    Raises:
        ValueError: For labels that are dates, or objects that name no classes. The error names the row.
    """
    found = _each(column, _plain_label)
    stripped = next((v for v in sorted(_texts(column)) if v.strip() != v), None)
    if stripped is not None and stripped.strip():
        logger.warning("Spaces around labels are left out: %r is the class %r.", stripped, stripped.strip())
    return typed_cells([None if v == "" else v for v in found]) if cells else found


def typed_cells(cells: list[Any]) -> list[Any]:
    """Convert texts to ints or bools if all are spelt as Python prints these. "1.0" becomes 1, and None stays None."""
    kinds = _texts(cells)
    convert: Callable[[str], Any]
    if not kinds or set(map(type, cells)) - {str, type(None)}:
        return cells
    if all(_INTEGER.fullmatch(kind) for kind in kinds):
        convert = int
    elif all(_WHOLE.fullmatch(kind) for kind in kinds):
        convert = lambda text: int(float(text))  # noqa: E731
    elif kinds <= {"True", "False"}:
        convert = "True".__eq__
    else:
        return cells
    values = {kind: convert(kind) for kind in kinds}
    return [None if cell is None else values[cell] for cell in cells]


def split_labels(column: Sequence[Any], known: Collection[Any] = ()) -> list[Any]:
    """Split the cells of a multi-label column into lists. Names in a text are separated by `|`, `;` or `,`.

    A column has one separator, the first of these that occurs in it: in `film, tv|sport`, `film, tv` is one class.

    Args:
        column: Labels as returned by `read_labels`.
        known: Known classes. A text that equals one of them is not split.

    Raises:
        ValueError: For a list that cannot be parsed. The error names the row.
    """
    whole = {str(name) for name in known}
    texts = _texts(column) - whole
    separator = next((s for s in "|;," if any(s in text for text in texts)), "|")

    def split(cell: Any, row: int) -> Any:
        if not isinstance(cell, str):
            return cell if cell is None or is_vector(cell) else [cell]
        if cell in whole:
            return [cell]
        if cell.startswith("["):
            raise ValueError(f"Row {row}: the labels {cell[:60]!r} are no list; expected '[\"a\", \"b\"]' or 'a|b'.")
        return [part.strip() for part in cell.split(separator) if part.strip()]

    return [split(cell, i) for i, cell in enumerate(column)]


def single_labels(column: Sequence[Any]) -> list[Any]:
    """Replace lists of one class with that class, in labels as returned by `read_labels`.

    Raises:
        ValueError: For a list of several classes, which needs `multi_label=True`.
    """
    if not has_vectors(column):
        return list(column)
    for i, value in enumerate(column):
        if is_vector(value) and len(value) > 1:
            raise ValueError(
                f"Row {i} has several labels, {shorten(list(value))}, expected one class; several classes a text need "
                "`multi_label=True`."
            )
    return [(value[0] if len(value) else None) if is_vector(value) else value for value in column]


def _texts(column: Sequence[Any]) -> set[str]:
    """The distinct texts among the values."""
    kinds = set(map(type, column))
    return {v for v in (set(column) if kinds <= {str, type(None)} else column) if isinstance(v, str)}


def _each(column: Sequence[Any], function: Callable[[Any], Any]) -> list[Any]:
    """Apply `function` to each value, in text and integer columns once per distinct value. Errors name the row."""
    kinds = set(map(type, column))
    if kinds <= {str, type(None)} or kinds <= {int, type(None)}:
        known: dict[Hashable, Any] = {}
        for value in set(column):
            try:
                known[value] = function(value)
            except ValueError as error:
                raise ValueError(f"Row {list(column).index(value)}: {error}") from None
        same = all(new is old for old, new in known.items())
        return list(column) if same else [_copied(known[value]) for value in column]
    out = []
    for i, value in enumerate(column):
        try:
            out.append(function(value))
        except ValueError as error:
            raise ValueError(f"Row {i}: {error}") from None
    return out


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _plain_label(value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip()
        return _plain_list(found) if (found := _structure(value)) is not None else value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return _plain_list(_chosen(value))
    if is_vector(value):
        return _plain_list(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, date | pd.Timestamp):
        raise ValueError(
            f"the label is the date {value}, not a text. `datasets` and pandas turn texts like 2024-05-01 into dates: "
            "give the file itself, or load the column as `Value('string')`."
        )
    return None if is_missing(value) else value


def _plain_list(values: Any) -> list[Any]:
    found = [
        _plain_label(value) for value in (sorted(values, key=str) if isinstance(values, set | frozenset) else values)
    ]
    if any(is_vector(value) for value in found):
        raise ValueError(f"the labels {str(values)[:60]!r} are lists in a list; expected a list of classes.")
    return found


def _chosen(value: dict[Any, Any]) -> list[Any]:
    """Classes that an object names: its only value if that is a list, or its keys with 1 if all values are 0 or 1."""
    values = list(value.values())
    if len(values) == 1 and is_vector(values[0]):
        return list(values[0])
    if all(isinstance(v, bool | int | float) and v in (0, 1) for v in values):
        return [name for name, yes in value.items() if yes]
    raise ValueError(
        f"the labels {str(value)[:60]!r} name no classes; expected a list of classes, {{'choices': [...]}}, or 0 or 1 "
        "for each class."
    )


def _structure(text: str) -> Any:
    """Parse a text that holds a list or an object into a list; None for a class name."""
    if not text.startswith(("[", "(", "{")):
        return None
    for read in (_from_json, ast.literal_eval):
        if read is ast.literal_eval and re.search(r"""['"]\s+['"]""", text):
            break  # a printed NumPy array, whose adjacent strings Python would concatenate
        found: Any = None
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # JSON raises a ValueError
            found = cast("Callable[[str], Any]", read)(text)
        if isinstance(found, dict):
            return _chosen(found)
        if is_vector(found):
            return found
    return None


def _from_json(text: str) -> Any:
    return json.loads(text, parse_float=lambda number: float(number) if repr(float(number)) == number else number)


def is_missing(value: Any) -> bool:
    """Whether a cell is None, NaN or `pandas.NA`."""
    return value is None or (not is_vector(value) and not isinstance(value, dict | str) and bool(pd.isna(value)))


def has_vectors(column: Sequence[Any]) -> bool:
    """Whether `is_vector` holds for any of the values."""
    return any(issubclass(kind, _VECTORS) for kind in set(map(type, column)))


def is_vector(value: Any) -> bool:
    """Whether a cell is a list, tuple, set or array."""
    return isinstance(value, _VECTORS)


def shorten(items: Sequence[Any], limit: int = 12) -> str:
    """Format the first items for a message."""
    shown = ", ".join(repr(i) for i in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
