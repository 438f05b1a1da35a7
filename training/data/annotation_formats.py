"""Readers of Label Studio and Argilla exports: texts with the classes that each annotator chose."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

LABEL_STUDIO_COLUMNS = {"annotator", "annotation_id", "lead_time"}  # in JSON-MIN and CSV exports
_LABEL_STUDIO_OTHERS = {"id", "created_at", "updated_at", "agreement", "history", "was_cancelled"}


@dataclass
class Names:
    """The fields to read from a record.

    Args:
        source: Name of the data in error messages.
        text_column: Name of the text field. With the default, a single text field of another name is also accepted.
        label_column: Name of the field with the classes. Default: the only candidate.
        multi_label: Whether a text may have several classes.
    """

    source: str
    text_column: str = "text"
    label_column: str | None = None
    multi_label: bool = False

    def text(self, fields: Iterable[str]) -> str:
        """Select the text field from `fields`, the fields that hold texts."""
        fields = list(dict.fromkeys(fields))
        if "text_pair" in fields and self.text_column != "text_pair":
            raise ValueError(
                f"{self.source}: its texts have a `text_pair`, which is not read from exports of annotation tools. "
                "Make a table with the columns `text`, `text_pair` and `label`."
            )
        if self.text_column in fields:
            return self.text_column
        if len(fields) == 1 and self.text_column == "text":
            return fields[0]
        raise ValueError(
            f"{self.source}: no field {self.text_column!r}; the fields with texts are {', '.join(fields) or 'none'}. "
            f"Name the one to classify (`text_column`)."
        )

    def label(self, fields: Iterable[str], what: str) -> str | None:
        """Select the class field from the candidates `fields`; `None` without one. `what` names them in errors."""
        fields = list(dict.fromkeys(fields))
        if self.label_column is not None:
            if fields and self.label_column not in fields:
                raise ValueError(
                    f"{self.source}: there is no {self.label_column!r} (`label_column`) among its "
                    f"{what}: {', '.join(fields)}."
                )
            return self.label_column
        if len(fields) > 1:
            raise ValueError(
                f"{self.source}: several {what}: {', '.join(fields)}. Name the one to learn (`label_column`)."
            )
        return fields[0] if fields else None

    def check_text(self, text: Any, key: str, number: int) -> str:
        """Return the text of a record, or raise an error that names the record."""
        if not isinstance(text, str):
            raise ValueError(
                f"{self.source}: record {number} has {text!r} in {key!r}, expected a text (`text_column`)."
            )
        return text


@dataclass
class Annotated:
    """A text with its annotations.

    Args:
        text: The text.
        id: The tool's id of the record, if it has one.
        votes: The chosen classes of each annotator.
        reasons: Why other annotations were excluded, such as "skipped".
    """

    text: str
    id: Any = None
    votes: dict[Any, list[Any]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


def label_studio(tasks: list[Record], names: Names) -> Iterator[Annotated]:
    """Read tasks of Label Studio's JSON format, each with `data` and a list of annotations."""
    key = names.text(k for task in tasks for k, v in task["data"].items() if isinstance(v, str))
    choices: list[str] = []
    others: list[str] = []
    for number, task in enumerate(tasks):
        for annotation in _annotations(task):
            if not isinstance(annotation, dict):
                raise ValueError(
                    f"{names.source}: record {number} names its annotations by number only; export the annotations "
                    "themselves ('JSON')."
                )
            for result in annotation.get("result") or []:
                is_choice = "choices" in (result.get("value") or {})
                (choices if is_choice else others).append(str(result.get("from_name")))
                if is_choice and {"start", "end"} & result["value"].keys():
                    raise ValueError(
                        f"{names.source}: the choices of {result['from_name']!r} are about parts of a text (record "
                        f"{number}), and a class is about all of it: export a project without `perRegion`."
                    )
    if others and not choices:
        raise ValueError(
            f"{names.source}: the project has no choice field, only {', '.join(dict.fromkeys(others))}; classes are "
            "read from `Choices`."
        )
    name = names.label(choices, "choice fields")
    for number, task in enumerate(tasks):
        found = Annotated(names.check_text(task["data"].get(key), key, number), task.get("id"))
        done = sorted(_annotations(task), key=_date)
        for annotation in done:  # the latest annotation of each annotator counts
            who = annotation.get("completed_by")
            who = who.get("id", who.get("email")) if isinstance(who, dict) else who
            reviews = annotation.get("reviews") or [{}]
            if annotation.get("was_cancelled") or annotation.get("skipped"):
                found.reasons.append("skipped")
            elif reviews[-1].get("accepted") is False:
                found.reasons.append("rejected")
            else:
                results = [r for r in annotation.get("result") or [] if r.get("from_name") == name]
                chosen = [c for r in results for c in (r.get("value") or {}).get("choices") or []]
                found.votes[who if who is not None else f"annotation {annotation.get('id')}"] = chosen
        if task.get("drafts") and not done:
            found.reasons.append("draft")
        yield found


def _annotations(task: Record) -> list[Any]:
    return list(task.get("annotations", task.get("completions")) or [])


def label_studio_rows(rows: list[Record], names: Names) -> Iterator[Annotated]:
    """Read rows of Label Studio's JSON-MIN or CSV format: one row per annotation, without skipped tasks."""
    known = LABEL_STUDIO_COLUMNS | _LABEL_STUDIO_OTHERS
    in_order = list(rows[0]) != sorted(rows[0])  # JSON order: data, `id`, answers; CSV: alphabetical
    data: dict[str, None] = {}
    answers: dict[str, None] = {}
    for row in rows:
        keys = list(row)
        start = keys.index("id") if "id" in keys and in_order else 0
        data |= dict.fromkeys(k for k in keys[:start] if isinstance(row[k], str))
        answers |= dict.fromkeys(k for k in keys[start:] if k not in known)
    # Fields filled in tasks without annotations are data. Label Studio renames a data field to `_data_...` if a choice
    # field has the same name.
    taken = {k for row in rows if row["annotation_id"] in (None, "") for k in answers if row.get(k) not in (None, "")}
    taken |= {names.text_column, *(k for k in answers if k.startswith("_data_"))}
    data = data or {k: None for k in answers if k != names.label_column}
    name = names.label((k for k in answers if k not in taken), "fields that may hold the choices")
    key = names.text(k for k in data if k != name)
    records: dict[Any, Annotated] = {}
    dated: list[tuple[str, Annotated, Any, list[Any]]] = []
    for number, row in enumerate(rows):
        text = names.check_text(row.get(key), key, number)
        found = records.setdefault((row.get("id"), text), Annotated(text, row.get("id")))
        if row["annotation_id"] not in (None, ""):
            who = row["annotator"] if row["annotator"] not in (None, "") else f"annotation {row['annotation_id']}"
            chosen = _choices(row.get(name) if name else None, names, name, number)
            dated.append((_date(row), found, who, chosen))
    for _, found, who, chosen in sorted(dated, key=lambda entry: entry[0]):  # the file lists the newest first
        found.votes[who] = chosen
    yield from records.values()


def _date(annotation: Record) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _choices(value: Any, names: Names, name: str | None, number: int) -> list[str]:
    """Classes in a cell: a name, `{"choices": [names]}`, a list of these, or the JSON text of either."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return [value]
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [c for item in value for c in _choices(item, names, name, number)]
    if isinstance(value, dict) and "choices" in value:
        return list(value["choices"])
    if isinstance(value, dict):
        raise ValueError(
            f"{names.source}: record {number} has {', '.join(value)} in {name!r}, expected choices. Name the choice "
            "field (`label_column`)."
        )
    return [value]


def argilla(records: list[Record], names: Names) -> Iterator[Annotated]:
    """Read records of Argilla 2 as `to_json` writes them, without response statuses."""
    key = names.text(k for r in records for k, v in r["fields"].items() if isinstance(v, str))
    name = names.label((q for r in records for q in r["responses"]), "questions")
    for number, record in enumerate(records):
        found = Annotated(names.check_text(record["fields"].get(key), key, number), record.get("id"))
        for response in record["responses"].get(name, []):
            status = response.get("status")  # later versions may write it
            _answer(found, status, record.get("status"), response["user_id"], response["value"], names, number)
        yield found


def argilla_rows(rows: list[Record], names: Names) -> Iterator[Annotated]:
    """Read rows of Argilla 2 as `to_datasets` writes them: one column per field, three per question."""
    ends = (".responses", ".users", ".status", ".suggestion", ".score", ".agent")
    other = {"id", "status", "_server_id"}
    key = names.text(
        k for r in rows for k, v in r.items() if isinstance(v, str) and k not in other and not k.endswith(ends)
    )
    ending = ".responses"
    name = names.label((k[: -len(ending)] for r in rows for k in r if k.endswith(ending)), "questions")
    for number, row in enumerate(rows):
        found = Annotated(names.check_text(row.get(key), key, number), row.get("id"))
        values, users, states = (_items(row.get(f"{name}.responses{end}")) for end in ("", ".users", ".status"))
        if any(isinstance(part, str) for part in (values, users, states)):
            raise ValueError(f"{names.source}: the lists of {name!r} are text here: save them as JSON or Parquet.")
        for value, user, status in zip(values, users, states, strict=True):
            _answer(found, status, row.get("status"), user, value, names, number)
        yield found


def _items(cell: Any) -> Any:
    """Convert a list cell to a list. Cells of data frames may be arrays, None or NaN."""
    return cell if isinstance(cell, str) else list(cell) if hasattr(cell, "__len__") else []


def _answer(
    found: Annotated, status: str | None, of_record: str | None, user: Any, value: Any, names: Names, number: int
) -> None:
    """Add an Argilla response to `found`. A response without a status counts if its record is completed."""
    if status is None:
        status = "submitted" if of_record == "completed" and value is not None else "pending"
    if status != "submitted":
        found.reasons.append(status)
        return
    items = _items(value) if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    if any(not isinstance(item, str | int) for item in items):
        raise ValueError(
            f"{names.source}: record {number} answers {items[:1]!r}, which is no class. Name a question for labels "
            "(`label_column`)."
        )
    found.votes[user] = items
