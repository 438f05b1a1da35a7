"""Converts data frames, data sets, lists, files and Hub ids to arrays of texts, labels and scores."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...configuration.text_pair import pair_up
from .arrow_columns import by_kind, has_blanks, is_text, to_arrow, to_objects
from .data_table import (
    CLASSES_SUFFIX,
    LABEL_COLUMNS,
    SCORES,
    TEXT_PAIR,
    TableLayout,
    column_names,
    has_cells,
    is_file,
    is_table,
    read_table,
    with_labels,
)
from .label_cells import is_missing, read_labels, shorten, single_labels, split_labels, typed_cells
from .label_encoding import check_binary, encode_labels, find_classes, name_labels, parse_scores, to_number

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CLASSES_SUFFIX",
    "LabelledTexts",
    "TableLayout",
    "concatenate",
    "is_table",
    "prepare",
    "read_table",
    "with_labels",
]

logger = logging.getLogger(__name__)

EMPTY_TEXTS = ("error", "skip", "keep")


@dataclass
class LabelledTexts:
    """Texts with labels and LLM scores, for n rows, K classes and P providers.

    Args:
        column: n texts as a list, or as an Arrow column, which takes half the memory.
        labels: int64 `(n,)` class indices, or float32 `(n, K)` of 0/1 for multi-label; `None` without labels. With U
            `unseen` classes, indices up to K + U - 1, or `(n, K + U)`.
        llm_scores: float32 `(n, P, K)`, NaN where a provider has no answer; `None` without the column.
        classes: K classes as in the data: names or integers.
        unseen: Names of the U classes that occur in the data but not in `classes`.
        rows: int64 `(n,)` row index of each text in the data; `None`: no row was skipped.
        count: Number of rows in the data, including skipped rows.
    """

    column: "list[str] | pa.ChunkedArray"
    labels: NDArray[Any] | None
    llm_scores: NDArray[np.float32] | None
    classes: list[Any]
    unseen: list[str] = field(default_factory=list)
    rows: NDArray[np.int64] | None = None
    count: int = 0

    def __post_init__(self) -> None:
        self.count = self.count or len(self.column)

    @classmethod
    def empty(cls, classes: list[Any], multi_label: bool) -> "LabelledTexts":
        """No rows, of the given classes."""
        labels = np.zeros((0, len(classes)), dtype=np.float32) if multi_label else np.zeros(0, dtype=np.int64)
        return cls([], labels, None, classes)

    def __len__(self) -> int:
        return len(self.column)

    @property
    def texts(self) -> list[str]:
        """The texts as a list, converted from Arrow on first use."""
        if not isinstance(self.column, list):
            self.column = self.column.to_pylist()
        return self.column

    def names(self) -> list[Any]:
        """Each row's class name, or list of class names."""
        assert self.labels is not None
        classes = [str(c) for c in (*self.classes, *self.unseen)]
        if self.labels.ndim == 1:
            return [classes[i] for i in self.labels]
        return [[c for c, yes in zip(classes, row, strict=True) if yes] for row in self.labels]


def prepare(
    data: Any,
    *,
    classes: Sequence[Any] | None = None,
    multi_label: bool = False,
    layout: TableLayout | None = None,
    num_providers: int | None = None,
    require_labels: bool = True,
    unseen_classes: bool = False,
) -> LabelledTexts:
    """Convert data to arrays.

    Args:
        data: See `read_table`.
        classes: The classes in order. Default: those the data declare, else the sorted ones that occur.
        multi_label: Whether a text may have several classes. Labels are then 0/1 vectors or lists of classes.
        layout: The columns, and how rows without a text are read.
        num_providers: Expected number of providers in `llm_scores`; `None`: as many as there are.
        require_labels: Whether labels are read; else they are ignored.
        unseen_classes: Accept labels that are not in `classes`, with a warning; any prediction for them will be wrong.
            Otherwise they are an error.

    Raises:
        ValueError: For a missing column, a missing or unknown label, or scores of the wrong shape. The error names the
            row.
    """
    if isinstance(data, LabelledTexts):
        return data
    with naming(data):
        return _prepare(
            data, classes, multi_label, layout or TableLayout(), num_providers, require_labels, unseen_classes
        )


@contextmanager
def naming(data: Any) -> Iterator[None]:
    """Prefix errors with the file name if `data` is a file."""
    try:
        yield
    except ValueError as error:
        name = str(data) if is_file(data) else ""
        if not name or str(error).startswith((f"{name}: ", f"{name} is empty")):
            raise
        raise ValueError(f"{name}: {error}") from None


def _prepare(
    data: Any,
    classes: Sequence[Any] | None,
    multi_label: bool,
    layout: TableLayout,
    num_providers: int | None,
    require_labels: bool,
    unseen_classes: bool,
) -> LabelledTexts:
    """Implement `prepare` for data that are not `LabelledTexts` yet."""
    text_column = layout.text_column
    table, declared = read_table(
        data,
        text_column=text_column,
        label_column=layout.label_column,
        columns=layout.columns,
        multi_label=multi_label,
        annotators=layout.annotators,
        labelled=require_labels,
    )
    count = len(table)
    if count == 0 and len(table.columns):
        raise ValueError("The data have no rows.")
    if text_column not in table:
        names = column_names(data, table)
        if not names:
            raise ValueError("The data are empty: they have no rows and no columns.")
        raise ValueError(
            f"The data have no column {text_column!r} (`text_column`); the columns are {', '.join(names)}. "
            f"{how_to_name_texts(names, layout.label_column)}"
        )
    texts, rows = check_texts(_texts(table, layout), text_column, layout.empty_texts)
    if rows is not None:
        table = table.iloc[rows]
    labels: NDArray[Any] | None = None
    unseen: list[str] = []
    if require_labels:
        other = unseen if unseen_classes else None
        labels, classes = _read_labels(table, data, declared, classes, multi_label, layout, other)
    classes = list(next((c for c in (classes, layout.label_columns, declared) if c is not None), []))
    if unseen:
        _warn_unseen(unseen, classes)
    scores = None
    if SCORES in table:
        scores = parse_scores(to_objects(table[SCORES]), len(classes), num_providers)
        order, names = [str(c) for c in declared or []], [str(c) for c in classes]
        if order != names and sorted(order) == sorted(names):  # the scores are in the order of `declared`
            scores = scores[:, :, [order.index(c) for c in names]]
    return LabelledTexts(texts, labels, scores, classes, unseen, rows, count)


def how_to_name_texts(names: Collection[str], label_column: str | None = None) -> str:
    """A sentence that says how to name the text column, by the first of `names` that may be it."""
    others = [name for name in names if name not in (label_column, *LABEL_COLUMNS, SCORES)]
    return f"Name the one with the texts: `text_column={(others or ['...'])[0]!r}`; see docs/data.md."


def _texts(table: pd.DataFrame, layout: TableLayout) -> pd.Series:
    """The text column; a series of `TextPair` if there is a column with second texts. None where one is missing."""
    first, second = layout.text_column, layout.text_pair_column or TEXT_PAIR
    if second not in table:
        if layout.text_pair_column is not None:
            shown = ", ".join(map(str, table.columns))
            raise ValueError(f"The data have no column {second!r} (`text_pair_column`); the columns are {shown}.")
        return table[first]
    pairs = np.empty(len(table), dtype=object)
    for row, (text, text_pair) in enumerate(zip(to_objects(table[first]), to_objects(table[second]), strict=True)):
        pairs[row] = pair_up(text, text_pair, f"Row {row}")
    return pd.Series(pairs, dtype=object)


def check_texts(
    series: pd.Series, text_column: str = "text", empty_texts: str = "error"
) -> "tuple[list[str] | pa.ChunkedArray, NDArray[np.int64] | None]":
    """Check texts; returns them with the indices of the kept rows (`None`: all). See `TableLayout` for `empty_texts`.

    Raises:
        ValueError: For values that are not texts, or with `"error"` for empty, blank or missing texts. The error names
            the rows.
    """
    if empty_texts not in EMPTY_TEXTS:
        raise ValueError(f"`empty_texts` is {empty_texts!r}; expected 'error' or 'skip'.")
    column = to_arrow(series)
    if column is not None and is_text(column) and not has_blanks(column):
        return column, None
    texts = to_objects(series)
    if set(map(type, texts)) == {str} and all(map(str.strip, texts)):
        return texts, None
    empty = [i for i, text in enumerate(texts) if is_empty_text(text, i, text_column)]
    if not empty:
        return texts, None
    if empty_texts == "error":
        raise empty_error(len(empty), empty, len(texts), text_column)
    if empty_texts == "keep":
        for i in empty:
            texts[i] = None
        return texts, None
    if len(empty) == len(texts):
        raise ValueError(f"No row has a text in the column {text_column!r}.")
    logger.warning("%d of %d rows have no text and are left out.", len(empty), len(texts))
    rows = np.setdiff1d(np.arange(len(texts)), empty)
    return [texts[i] for i in rows], rows


def is_empty_text(text: Any, row: int, text_column: str = "text") -> bool:
    """Whether a text is missing, empty or blank.

    Raises:
        ValueError: For a value that is not a text.
    """
    if isinstance(text, str):
        return not text or text.isspace()
    if not is_missing(text):
        given = f"{type(text).__name__} {str(text)[:40]}"
        raise ValueError(f"Row {row}: `text_column` {text_column!r} holds the {given}, expected a text (a string).")
    return True


def empty_error(count: int, first: Sequence[int], total: int, text_column: str) -> ValueError:
    """The error for rows without a text."""
    shown = ", ".join(map(str, first[:5])) + (", ..." if count > 5 else "")
    return ValueError(
        f"{count} of {total} rows have no text in the column {text_column!r}: row {shown}. Drop them, or let them go "
        "without an answer: `empty_texts='skip'`."
    )


def concatenate(a: LabelledTexts, b: LabelledTexts) -> LabelledTexts:
    """Concatenate the rows of `a` and `b`. If only one has scores, those of the other are NaN."""
    assert a.labels is not None
    assert b.labels is not None
    scores = None
    shape = next((x.llm_scores.shape[1:] for x in (a, b) if x.llm_scores is not None), None)
    if shape is not None:
        parts = [x.llm_scores if x.llm_scores is not None else np.full((len(x), *shape), np.nan) for x in (a, b)]
        scores = np.concatenate(parts).astype(np.float32)
    rows = None
    if a.rows is not None or b.rows is not None:
        first, second = (np.arange(len(x)) if x.rows is None else x.rows for x in (a, b))
        rows = np.concatenate([first, second + a.count])
    return LabelledTexts(
        a.texts + b.texts, np.concatenate([a.labels, b.labels]), scores, a.classes, [], rows, a.count + b.count
    )


def find_label_column(names: Collection[Any], multi_label: bool, label_column: str | None = None) -> str | None:
    """Select the label column from `names`; None if there is none."""
    order = (label_column,) if label_column else LABEL_COLUMNS[:: -1 if multi_label else 1]
    return next((name for name in order if name in names), None)


def read_classes(
    column: Sequence[Any], multi_label: bool, cells: bool, known: Sequence[Any] | None = None
) -> list[Any]:
    """Read the labels of a column in the form that `encode_labels` expects.

    Args:
        column: n raw labels.
        multi_label: Whether they are lists.
        cells: Whether they are cells of a CSV or TSV file. For multi-label, an empty cell is an empty list of classes.
        known: Known classes. Cells stay texts if all of them are known classes.
    """
    labels = read_labels(column)
    if multi_label:
        empty: list[Any] = []
        return split_labels([empty if cells and v in ("", None) else v for v in labels], known or ())
    labels = single_labels(labels)
    if not cells:
        return labels
    labels = [None if label == "" else label for label in labels]
    names = {str(name) for name in known or ()}
    return labels if names and names.issuperset(set(labels) - {None}) else typed_cells(labels)


def _read_labels(
    table: pd.DataFrame,
    data: Any,
    declared: list[str] | None,
    classes: Sequence[Any] | None,
    multi_label: bool,
    layout: TableLayout,
    unseen: list[str] | None,
) -> tuple[NDArray[Any], list[Any]]:
    """Return labels as in `LabelledTexts`, and the classes. The arguments are those of `prepare`.

    `table` was read from `data`. The names of unknown classes are added to `unseen`.
    """
    cells, label_column, label_columns = has_cells(data), layout.label_column, layout.label_columns
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
        same = set(columns) == {str(c) for c in classes}  # otherwise `classes` renames the columns in order
        order = [columns[str(c)] for c in classes] if same else list(label_columns)
        columns_of_cells = [_column_of_class(table[c], cells) for c in order]
        labels = check_binary(np.array(columns_of_cells, dtype=object).T)
        if multi_label:
            return labels, classes
        if not (labels.sum(axis=1) == 1).all():
            raise ValueError("`label_columns`: single-label rows have exactly one 1; pass `multi_label=True`.")
        return labels.argmax(axis=1).astype(np.int64), classes
    column = find_label_column(table.columns, multi_label, label_column)
    if column is None:
        wanted = repr(label_column) if label_column else "'label' or 'labels'"
        shown = ", ".join(column_names(data, table))
        raise ValueError(
            f"The data have no column {wanted}; the columns are {shown}. Name yours by `label_column`, or give "
            "`label_columns` for one 0/1 column a class: docs/data.md."
        )
    given = classes if classes is not None else declared

    def encode(values: list[Any]) -> tuple[NDArray[Any], tuple[list[Any], list[str]]]:
        odd: list[str] = []
        raw = read_classes(values, multi_label, cells, given)
        if declared and not any(to_number(name) is not None for name in declared):  # so numbers are indices
            raw = name_labels(raw, declared)
        found = find_classes(raw, given, multi_label)
        other_names = _other_names(declared, found)
        return encode_labels(raw, found, multi_label, other_names, None if unseen is None else odd), (found, odd)

    labels, (classes, odd) = by_kind(table[column], encode)
    if unseen is not None:
        unseen += odd
    return labels, classes


def _column_of_class(series: pd.Series, cells: bool) -> list[Any]:
    values = to_objects(series)
    return typed_cells([v or None for v in values]) if cells else values


def _warn_unseen(unseen: list[str], classes: Sequence[Any]) -> None:
    logger.warning(
        "Rows of the class %s count as wrong answers: the model does not know it. Its classes are %s.",
        shorten(unseen),
        shorten(classes),
    )


def _other_names(declared: list[str] | None, classes: Sequence[Any]) -> list[str]:
    """Declared names that `classes` renames in order; empty if any declared name is also in `classes`."""
    given = {str(c).casefold() for c in classes}
    renamed = declared and len(declared) == len(classes) and given.isdisjoint(c.casefold() for c in declared)
    return list(declared or []) if renamed else []
