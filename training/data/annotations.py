"""Reads exports of Label Studio, doccano, Argilla, Prodigy, fastText and spaCy into rows of texts and labels.

`tool_of` detects the tool by the fields of a record. If several annotators labelled a text, its label is the majority
class, or each vote becomes its own row. The log loss over these rows equals the log loss against the vote shares, so
training learns from every vote (Sheng, Provost & Ipeirotis 2008, "Get another label?").
"""

import csv
import functools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .annotation_formats import (
    LABEL_STUDIO_COLUMNS,
    Annotated,
    Names,
    Record,
    argilla,
    argilla_rows,
    label_studio,
    label_studio_rows,
)
from .annotation_lines import doccano, doccano_rows, fasttext_lines, prodigy, spacy_docs
from .cell_files import DELIMITERS, find_encoding, named
from .files import read_rows

logger = logging.getLogger(__name__)

ANNOTATORS = ("majority", "soft")
EXPORT_SUFFIXES = (".spacy", ".txt", ".ft")  # written only by annotation tools and trainers
_NOT_LABELLED = "unannotated"
_LONGEST = 1 << 24  # characters; a longer JSON value is a whole table, not a record


_READERS: dict[str, Callable[[list[Record], Names], Iterator[Annotated]]] = {
    "Label Studio": label_studio,
    "Label Studio, one row an annotation": label_studio_rows,
    "Argilla": argilla,
    "Argilla, flattened": argilla_rows,
    "doccano": doccano,
    "doccano, CSV": doccano_rows,
    "Prodigy": prodigy,
    "spaCy": spacy_docs,
    "fastText": fasttext_lines,
}


def tool_of(record: Record) -> str | None:
    """Detect the annotation tool from the fields of a record; `None` for the row of an ordinary table.

    Raises:
        ValueError: If the row may or may not be from Prodigy.
    """
    keys = record.keys()
    if "llm_scores" in keys:  # output of `labelfusion score`
        return None
    if isinstance(record.get("data"), dict) and isinstance(record.get("annotations", record.get("completions")), list):
        return "Label Studio"
    if keys >= LABEL_STUDIO_COLUMNS:
        return "Label Studio, one row an annotation"
    if keys >= {"fields", "responses", "status"} and isinstance(record["responses"], dict):
        return "Argilla"
    if keys >= {"id", "status", "_server_id"} or any(str(key).endswith(".responses.status") for key in keys):
        return "Argilla, flattened"
    if record.get("answer") in ("accept", "reject", "ignore"):
        if keys & {"_input_hash", "_task_hash", "_view_id"} or isinstance(record.get("accept"), list):
            return "Prodigy"
        if "label" in keys:
            raise ValueError(
                "The column 'answer' holds 'accept', 'reject' or 'ignore', as in an export of Prodigy, but its columns "
                "`_input_hash`, `_task_hash` and `_view_id` are missing. Keep them, or rename 'answer' if it means "
                "something else."
            )
    if keys >= {"id", "text", "Comments"}:
        if any(isinstance(record.get(name), list) for name in ("label", "cats", "entities")):
            return "doccano"
        if isinstance(record.get("label"), str):
            return "doccano, CSV"
    return None


def find_tool(data: Any) -> str | None:
    """Detect the annotation tool that exported `data`; `None` if it is no export.

    Args:
        data: Path of a file, list of dicts, data frame or data set.

    Raises:
        ValueError: If a text file is not an export, or a table may or may not be one.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.is_file():
            return None
        suffix = path.suffix.lower()
        if suffix == ".spacy":
            return "spaCy"
        if suffix in (".txt", ".ft"):
            if any("__label__" in record["line"] for record in _lines(path)):
                return "fastText"
            raise ValueError(
                f"{path.name}: no `__label__` in it; a text file is read if it is in the format of fastText."
            )
        return _named(path.name, _first(path, suffix))
    if hasattr(data, "columns") or hasattr(data, "column_names"):
        names = data.columns if hasattr(data, "columns") else data.column_names
        return _named("The data", dict.fromkeys(names)) if isinstance(names, Iterable) else None
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return _named("The data", data[0])
    return None


def read_export(
    data: Any,
    *,
    text_column: str = "text",
    label_column: str | None = None,
    multi_label: bool = False,
    annotators: str = "majority",
    labelled: bool | None = True,
) -> list[Record] | None:
    """Read the rows of an export; `None` if `data` are not an export.

    Args:
        data: As for `find_tool`.
        text_column: Field with the texts, and name of the text column in the result. With the default, a single text
            field of another name is also accepted.
        label_column: Field with the classes, such as a choice field of Label Studio or a question of Argilla. Default:
            the only candidate.
        multi_label: Whether a text may have several classes.
        annotators: `"majority"`: the class with the most votes; for multi-label, each class that more than half of the
            annotators chose; tied texts are left out. `"soft"`: one row per vote.
        labelled: `True`: leave out texts without a label. `False`: return every text, without labels. `None`: like
            `True`, but like `False` if no text has a label.

    Returns:
        Rows with `id` (if the tool has one), the text and `label`, or for multi-label a list of classes in `labels`. If
        `label_column` is given, it names the label column. The number of excluded texts per reason is logged once.

    Raises:
        ValueError: If `annotators` is unknown, the export can be read in several ways, or a text has several classes
            without `multi_label`. The error names the record.
        ImportError: If spaCy is not installed and the file is a `.spacy` file.
    """
    if annotators not in ANNOTATORS:
        raise ValueError(f"`annotators` is {annotators!r}; expected one of {', '.join(ANNOTATORS)}.")
    tool = find_tool(data)
    if tool is None:
        return None
    source = Path(data).name if isinstance(data, str | Path) else "The data"
    names = Names(source, text_column, label_column, multi_label)
    records = list(_READERS[tool](list(_records(data, tool)), names))
    has_id = any(record.id is not None for record in records)
    texts = [({"id": record.id} if has_id else {}) | {text_column: record.text} for record in records]
    if labelled is False:
        return texts
    column = label_column or ("labels" if multi_label else "label")
    rows: list[Record] = []
    left_out: Counter[str] = Counter()
    several = 0
    for number, (record, text) in enumerate(zip(records, texts, strict=True)):
        votes = _votes(record, multi_label, source, number)
        several += len(votes) > 1
        chosen = votes if annotators == "soft" else _majority(votes, multi_label)
        if not votes:
            left_out[(record.reasons or [_NOT_LABELLED])[0]] += 1
        elif not chosen:
            left_out["tied between annotators"] += 1
        rows += [{**text, column: vote if multi_label else vote[0]} for vote in chosen]
    summary = _summary(source, tool, len(records), len(rows), left_out, several, annotators)
    if rows:
        _say(summary)
        return rows
    if labelled:
        raise ValueError(f"{summary} Nothing is left to learn from.")
    return texts


def _votes(record: Annotated, multi_label: bool, source: str, number: int) -> list[list[Any]]:
    """The choice of each annotator. Single-label drops annotators who chose nothing."""
    votes = [list(dict.fromkeys(vote)) for vote in record.votes.values()]
    if multi_label:
        return votes
    if several := next((vote for vote in votes if len(vote) > 1), None):
        raise ValueError(
            f"{source}: the text of record {number} has several classes, {several}; pass `multi_label=True`."
        )
    if votes and not any(votes):
        record.reasons.append("without a class")
    return [vote for vote in votes if vote]


def _majority(votes: list[list[Any]], multi_label: bool) -> list[list[Any]]:
    """Majority choice as a single vote; empty for a tie."""
    counts = Counter(name for vote in votes for name in vote)
    if multi_label:
        tied = any(2 * count == len(votes) for count in counts.values())
        return [] if tied or not votes else [[name for name, count in counts.items() if 2 * count > len(votes)]]
    best = counts.most_common(2)
    return [] if not best or (len(best) > 1 and best[0][1] == best[1][1]) else [[best[0][0]]]


def _summary(
    source: str, tool: str, records: int, rows: int, left_out: Counter[str], several: int, annotators: str
) -> str:
    said = f"{source}: {rows} labelled rows from {records} records ({tool})."
    if left_out:
        said += " Left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.most_common()) + "."
    if several:
        said += f" {several} records have several annotators (`annotators`: {annotators})."
    if tool == "Argilla":
        said += " This file does not tell drafts and discarded answers from others; `to_datasets` of Argilla does."
    return said


@functools.cache
def _say(message: str) -> None:
    """Log `message` once, even if the data are read several times."""
    logger.warning(message)


def _named(source: str, record: Record | None) -> str | None:
    try:
        return None if record is None else tool_of(record)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _first(path: Path, suffix: str) -> Record | None:
    """Read only the first row of a data file; `None` if no row can be read."""
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        return dict.fromkeys(pq.read_schema(path).names)
    if suffix in DELIMITERS:
        with path.open(encoding=find_encoding(path), errors="replace", newline="") as file:
            try:
                return next(csv.DictReader(file, delimiter=DELIMITERS[suffix]), None)
            except csv.Error:
                return None
    if suffix not in (".json", ".jsonl"):
        return None
    size = 1 << 16
    with path.open(encoding=find_encoding(path), errors="replace") as file:
        text = file.read(size)
        while True:
            try:
                found, _ = json.JSONDecoder().raw_decode(text.lstrip().removeprefix("[").lstrip())
                return found if isinstance(found, dict) else None
            except (ValueError, RecursionError):
                more = file.read(len(text)) if len(text) < _LONGEST else ""
            if not more:
                return None
            text += more


def _records(data: Any, tool: str) -> Iterator[Record]:
    if not isinstance(data, str | Path):
        if hasattr(data, "iloc"):  # a data frame
            data = data.astype(object).where(data.notna(), None).to_dict("records")
        yield from data
        return
    path = Path(data)
    if tool == "spaCy":
        yield from _documents(path)
    elif tool == "fastText":
        yield from _lines(path)
    else:
        yield from read_rows(path)


def _lines(path: Path) -> Iterator[Record]:
    with named(path), path.open(encoding=find_encoding(path), newline="") as file:
        text = file.read()
    lines = text.splitlines() if '"__label__' not in text else [row[0] for row in csv.reader(text.splitlines(True))]
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield {"number": number, "line": line}


def _documents(path: Path) -> Iterator[Record]:
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError:
        raise ImportError(f"{path.name} is a file of spaCy, which reads it: pip install spacy.") from None
    try:
        documents = list(DocBin().from_disk(path).get_docs(Vocab()))
    except Exception as error:  # from msgpack, zlib or numpy
        raise ValueError(f"{path.name}: no `DocBin` of spaCy that can be read ({type(error).__name__}).") from None
    yield from ({"text": document.text, "cats": document.cats} for document in documents)
