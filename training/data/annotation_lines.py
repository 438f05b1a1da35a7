"""Readers of doccano, Prodigy, fastText and spaCy files: texts with the classes that each annotator chose."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from .annotation_formats import Annotated, Names, Record


def doccano(records: list[Record], names: Names) -> Iterator[Annotated]:
    """Read doccano records, where `label` is a list. An empty list is treated as not annotated.

    Concatenated files of several annotators are read as one export.
    """
    name = names.label_column or ("cats" if "cats" in records[0] else "label")
    found: dict[Any, Annotated] = {}
    for number, record in enumerate(records):
        labels = record.get(name)
        if not isinstance(labels, list) or any(isinstance(item, list | dict) for item in labels):
            raise ValueError(
                f"{names.source}: record {number} has {labels!r} in {name!r}, expected a list of classes; spans are no "
                "classes of a text."
            )
        key = names.text_column if names.text_column in record else "text"
        text = names.check_text(record.get(key), key, number)
        entry = found.setdefault((record.get("id"), text), Annotated(text, record.get("id")))
        entry.votes |= {number: labels} if labels else {}
    yield from found.values()


def doccano_rows(rows: list[Record], names: Names) -> Iterator[Annotated]:
    """Read rows of doccano's CSV, which joins the classes of a text with `#`."""
    cells = [row["label"] or "" for row in rows]
    alone = {cell for cell in cells if "#" not in cell}
    records = []
    for row, cell in zip(rows, cells, strict=True):
        several = [part for part in cell.split("#") if part]
        if not names.multi_label and not alone.issuperset(several):  # the `#` may be part of a name, as in `C#`
            several = [cell]
        records.append({**row, "label": several})
    return doccano(records, names)


def prodigy(records: list[Record], names: Names) -> Iterator[Annotated]:
    """Read Prodigy records: either `accept` lists the chosen `options`, or one `label` is accepted or rejected."""
    labels = {r["label"] for r in records if _is_binary(r)}
    only = labels.pop() if len(labels) == 1 and all(map(_is_binary, records)) else None
    labels |= set() if only is None else {only}
    found: dict[Any, Annotated] = {}
    decided: dict[Any, dict[Any, dict[Any, bool]]] = defaultdict(lambda: defaultdict(dict))
    for number, record in enumerate(records):
        text = names.check_text(record.get(names.text_column), names.text_column, number)
        key = record.get("_input_hash", text)
        entry = found.setdefault(key, Annotated(text))
        who = record.get("_annotator_id") or record.get("_session_id")
        answer = record["answer"]
        if answer == "ignore":
            entry.reasons.append("ignored")
        elif _is_binary(record):
            decided[key][who][record["label"]] = answer == "accept"
        elif "accept" not in record and "options" not in record:
            raise ValueError(
                f"{names.source}: record {number} has neither `accept` nor `label`: it is no annotation of "
                f"classes, but of {record.get('_view_id', 'something else')!r}."
            )
        elif answer == "accept":
            entry.votes[who] = list(record.get("accept") or [])
        else:
            entry.reasons.append("rejected")
    for key, people in decided.items():
        for who, answers in people.items():
            chosen = [label for label, yes in answers.items() if yes]
            if names.multi_label and answers.keys() < labels:
                found[key].reasons.append("not asked about all classes")
            elif chosen or names.multi_label:
                found[key].votes[who] = chosen
            elif only is not None:
                found[key].votes[who] = [f"not {only}"]
            else:
                found[key].reasons.append("rejected")
    yield from found.values()


def _is_binary(record: Record) -> bool:
    return "label" in record and "accept" not in record and "options" not in record


def spacy_docs(records: list[Record], names: Names) -> Iterator[Annotated]:
    """Read documents of a spaCy `DocBin`. `cats` is 1 for the classes of the text and 0 for the others."""
    for number, record in enumerate(records):
        cats = record["cats"]
        if odd := {name: value for name, value in cats.items() if value not in (0, 1)}:
            raise ValueError(
                f"{names.source}: document {number} has the `cats` {odd}, expected 0 or 1: scores of a model are no "
                "annotations."
            )
        yield Annotated(record["text"], None, {0: [n for n, value in cats.items() if value]} if cats else {})


def fasttext_lines(records: list[Record], names: Names) -> Iterator[Annotated]:
    """Read fastText lines. Words that start with `__label__`, anywhere in a line, are its classes."""
    space = r" \t\v\f\r\0"
    label = rf"(?<![^{space}])__label__[^{space}]*"
    for record in records:
        labels = [found.removeprefix("__label__") for found in re.findall(label, record["line"])]
        if "" in labels:
            raise ValueError(f"{names.source}: line {record['number']} has a `__label__` without a name.")
        text = re.sub(rf"{label}[{space}]*", "", record["line"])
        # doccano appends the annotators' comments.
        text = text.partition(" __comment__")[0].strip()
        yield Annotated(text, None, {0: labels} if labels else {})
