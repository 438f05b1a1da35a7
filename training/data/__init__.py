"""Reads files, tables and annotation exports into texts with labels and scores."""

from .data_table import CLASSES_SUFFIX, SCORES, TEXT_PAIR, is_file, is_table, read_table, with_labels
from .labelled_texts import (
    LabelledTexts,
    TableLayout,
    concatenate,
    empty_error,
    find_label_column,
    is_empty_text,
    naming,
    prepare,
    read_classes,
)

__all__ = [
    "CLASSES_SUFFIX",
    "SCORES",
    "TEXT_PAIR",
    "LabelledTexts",
    "TableLayout",
    "concatenate",
    "empty_error",
    "find_label_column",
    "is_empty_text",
    "is_file",
    "is_table",
    "naming",
    "prepare",
    "read_classes",
    "read_table",
    "with_labels",
]
