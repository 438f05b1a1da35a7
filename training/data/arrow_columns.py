"""Columns of Arrow: what can be known about a million texts or labels without a Python object for each of them."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

_Result = TypeVar("_Result")
_TEXTS = ("string", "large_string")


def to_series(column: "pa.ChunkedArray") -> pd.Series:
    """A column for a data frame: the same memory for texts, whole numbers and booleans, otherwise objects."""
    if _is_plain(column):
        return pd.Series(pd.arrays.ArrowExtensionArray(column), copy=False)
    array = np.empty(len(column), dtype=object)
    array[:] = column.to_pylist()
    return pd.Series(array, dtype=object)


def to_arrow(series: pd.Series) -> "pa.ChunkedArray | None":
    """The column of Arrow of texts, whole numbers or booleans that a series holds; None if it does not hold one."""
    import pyarrow as pa

    dtype: Any = series.dtype
    if not isinstance(dtype, pd.ArrowDtype) and getattr(dtype, "storage", None) != "pyarrow":
        return None
    found: Any = pa.array(series.array)
    column = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    return column if _is_plain(column) else None


def to_objects(series: pd.Series) -> list[Any]:
    """The values as Python objects."""
    column = to_arrow(series)
    return series.tolist() if column is None else column.to_pylist()


def is_text(column: "pa.ChunkedArray") -> bool:
    """Whether its values are texts."""
    return str(column.type) in _TEXTS


def _is_plain(column: "pa.ChunkedArray") -> bool:
    """Whether its values are texts (each kept once, or not), whole numbers or booleans."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return str(kind) in _TEXTS or bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def has_blanks(texts: "pa.ChunkedArray") -> bool:
    """Whether any of the texts is missing, empty or blank, in the sense of `str.isspace`."""
    import pyarrow.compute as pc

    return bool(
        texts.null_count or pc.any(pc.utf8_is_space(texts)).as_py() or pc.min(pc.binary_length(texts)).as_py() == 0
    )


def by_kind(
    series: pd.Series, function: Callable[[list[Any]], tuple[NDArray[Any], _Result]]
) -> tuple[NDArray[Any], _Result]:
    """`function` of all values, where its array has one row a value, which equal values have in common.

    Of a column of Arrow only the different values are given to `function`; all of them if it raises a `ValueError`,
    which then names the right row.
    """
    column = to_arrow(series)
    if column is not None and len(column):
        values, places = _kinds(column)
        used = np.flatnonzero(np.bincount(places, minlength=len(values)))
        row_of = np.zeros(len(values), dtype=np.intp)
        row_of[used] = np.arange(len(used))
        with suppress(ValueError):
            rows, result = function([values[i] for i in used])
            return rows[row_of][places], result
    return function(to_objects(series))


def _kinds(column: "pa.ChunkedArray") -> tuple[list[Any], NDArray[np.integer]]:
    """Values, among which may be some that do not occur, and for each row the place of its own."""
    import pyarrow as pa

    encoded = (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).combine_chunks()
    values, places = encoded.dictionary.to_pylist(), encoded.indices
    if places.null_count:
        places = places.cast(pa.int64()).fill_null(len(values))
        values.append(None)
    return values, places.to_numpy()
