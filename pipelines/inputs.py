"""Reads inputs of the pipeline: texts, optionally with LLM scores."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..configuration.text_pair import TextPair, pair_up
from ..scoring.score_batch import check_scores

Row: TypeAlias = tuple[str | None, Any]  # text (None if missing), and its scores as given


def read_input(item: Any, position: int = 0, empty_texts: str = "error") -> Row:
    """Read one input: a text, or a mapping with `text` and optionally `text_pair` and `llm_scores`.

    Other keys are ignored. With `text_pair`, the text is a `TextPair`.

    Raises:
        ValueError: For anything else, and for a text that is missing, empty or blank (with `empty_texts="skip"`, such
            a text is None instead). The error names the position.
    """
    scores = None
    if isinstance(item, Mapping):
        if "text" not in item:
            raise ValueError(f"Input {position} has no key `text`; its keys are {sorted(map(str, item))}.")
        scores = item.get("llm_scores")
        if item.get("text_pair") is None:
            item = item["text"]
        else:
            item = pair_up(item["text"], item["text_pair"], f"Input {position}")
    if isinstance(item, str) and item.strip():
        return item, scores
    if not (item is None or isinstance(item, str) or (isinstance(item, float) and np.isnan(item))):
        raise ValueError(
            f"Input {position} is {type(item).__name__}, expected a string or a dict "
            "{'text': ..., 'text_pair': ..., 'llm_scores': ...}; the last two are optional."
        )
    if empty_texts != "skip":
        raise ValueError(
            f"Input {position} has no text: it is {item!r}. Drop it, or let it go without an answer: "
            "`empty_texts='skip'`."
        )
    return None, scores


def column_texts(table: Any, text_column: str, text_pair_column: str | None = None) -> list[Any]:
    """The texts of an Arrow table; pairs if it has a column with second texts (default: `text_pair`).

    Raises:
        ValueError: If a named column is missing.
    """
    for name, option in ((text_column, "text_column"), (text_pair_column, "text_pair_column")):
        if name is not None and name not in table.column_names:
            raise ValueError(f"There is no column {name!r} (`{option}`); the columns are {table.column_names}.")
    texts, second = table.column(text_column).to_pylist(), text_pair_column or "text_pair"
    if second not in table.column_names:
        return list(texts)
    pairs = zip(texts, table.column(second).to_pylist(), strict=True)
    return [pair_up(text, text_pair, f"Row {row}") for row, (text, text_pair) in enumerate(pairs)]


def read_inputs(items: Iterable[Any], llm_scores: Any = None, empty_texts: str = "error") -> list[Row]:
    """Apply `read_input` to all `items`, with `llm_scores` (one entry per item) if given.

    Raises:
        ValueError: For an item that cannot be read, or if the numbers of scores and items differ.
    """
    rows = [read_input(item, i, empty_texts) for i, item in enumerate(items)]
    if llm_scores is None:
        return rows
    if not hasattr(llm_scores, "__len__") or len(llm_scores) != len(rows):
        count = len(llm_scores) if hasattr(llm_scores, "__len__") else f"{type(llm_scores).__name__}, not a list,"
        raise ValueError(f"`llm_scores` has {count} entries for {len(rows)} texts.")
    return [(text, scores) for (text, _), scores in zip(rows, llm_scores, strict=True)]


def check_pairs(rows: Iterable[Row], config: LabelFusionConfig) -> Iterator[Row]:
    """Yield the rows.

    Raises:
        ValueError: For a single text, if the model was fitted on pairs.
    """
    for text, scores in rows:
        if config.text_pairs and text is not None and text.strip() and not isinstance(text, TextPair):
            raise ValueError(
                "This model was fitted on pairs of texts, and got a single one. Give {'text': ..., 'text_pair': ...}, "
                "or a column `text_pair` (`text_pair_column`)."
            )
        yield text, scores


def iterate(items: Any) -> Iterator[Any]:
    """Iterate over an iterable, or over a dataset that only supports `len()` and indexing."""
    if hasattr(items, "__iter__"):
        yield from items
    else:
        for i in range(len(items)):
            yield items[i]


def given_scores(values: Sequence[Any], config: LabelFusionConfig, first: int = 0) -> NDArray[np.float32]:
    """Read scores that are given with the texts.

    Args:
        values: n entries: None, or `(num_providers, num_labels)` numbers with None or NaN for a provider without an
            answer; with one provider also `(num_labels,)`.
        config: The model's config.
        first: Position of the first text, for error messages.

    Returns:
        float32 `(n, num_providers, num_labels)`, NaN for missing.

    Raises:
        ValueError: For another shape, or numbers that are not probabilities.
    """
    shape = (config.num_providers, config.num_labels)
    scores = np.full((len(values), *shape), np.nan, dtype=np.float32)
    if shape[0] == 0:
        return scores
    for i, value in enumerate(values):
        if value is None:
            continue
        try:
            entry = _as_array(value, shape)
        except (TypeError, ValueError):
            entry = None
        if entry is None or entry.shape != shape:
            given = "no array of numbers" if entry is None else f"shape {entry.shape}"
            raise ValueError(
                f"`llm_scores` of input {first + i} has {given}, expected {shape}: (num_providers, num_labels), with "
                "None or NaN for a missing answer."
            )
        scores[i] = entry
    for p, provider in enumerate(config.providers):
        source = f"`llm_scores` of {provider.name!r}, rows counted from input {first}"
        scores[:, p] = check_scores(scores[:, p], len(values), shape[1], config.multi_label, source)
    return scores


def _as_array(value: Any, shape: tuple[int, int]) -> NDArray[np.float32]:
    if isinstance(value, list | tuple) and any(row is None for row in value) and len(value) == shape[0]:
        value = [[np.nan] * shape[1] if row is None else row for row in value]
    array = np.asarray(value, dtype=np.float32)
    return array[None] if shape[0] == 1 and array.shape == shape[1:] else array
