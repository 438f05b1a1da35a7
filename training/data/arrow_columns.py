"""Operations on Arrow columns that avoid creating a Python object for each of a million texts or labels."""

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
    """Convert a column to a series. Texts, integers and booleans share the memory; other types become objects."""
    if _is_plain(column):
        return pd.Series(pd.arrays.ArrowExtensionArray(column), copy=False)
    array = np.empty(len(column), dtype=object)
    array[:] = column.to_pylist()
    return pd.Series(array, dtype=object)


def to_arrow(series: pd.Series) -> "pa.ChunkedArray | None":
    """Return the Arrow column of texts, integers or booleans behind a series; None if there is none."""
    import pyarrow as pa

    dtype: Any = series.dtype
    if not isinstance(dtype, pd.ArrowDtype) and getattr(dtype, "storage", None) != "pyarrow":
        return None
    found: Any = pa.array(series.array)
    column = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    return column if _is_plain(column) else None


def to_objects(series: pd.Series) -> list[Any]:
    """Convert the values to Python objects."""
    column = to_arrow(series)
    return series.tolist() if column is None else column.to_pylist()


def is_text(column: "pa.ChunkedArray") -> bool:
    """Whether its values are texts."""
    return str(column.type) in _TEXTS


def _is_plain(column: "pa.ChunkedArray") -> bool:
    """Whether its values are texts (dictionary-encoded or not), integers or booleans."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return str(kind) in _TEXTS or bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def has_blanks(texts: "pa.ChunkedArray") -> bool:
    """Whether any text is missing, empty or blank, as defined by `str.isspace`."""
    import pyarrow.compute as pc

    return bool(
        texts.null_count or pc.any(pc.utf8_is_space(texts)).as_py() or pc.min(pc.binary_length(texts)).as_py() == 0
    )


def by_kind(
    series: pd.Series, function: Callable[[list[Any]], tuple[NDArray[Any], _Result]]
) -> tuple[NDArray[Any], _Result]:
    """Apply `function`, which returns an array with one row per value and the same row for equal values.

    For an Arrow column, `function` gets only the distinct values. If it raises a `ValueError`, it is called again with
    all values, so that its error names the right row.
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
    """Dictionary values (some may not occur) and the index of each row's value."""
    import pyarrow as pa

    encoded = (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).combine_chunks()
    values, places = encoded.dictionary.to_pylist(), encoded.indices
    if places.null_count:
        places = places.cast(pa.int64()).fill_null(len(values))
        values.append(None)
    return values, places.to_numpy()
