"""Texts to label, as tasks of Label Studio and records of Argilla 2, with the model's answers as suggestions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import quoteattr

RecordDict = dict[str, Any]

_FIELD = re.compile(r"[A-Za-z_]\w*", re.ASCII)  # what a tool takes as the name of a field


@dataclass
class Task:
    """A text to label.

    Args:
        text: The text.
        row: Its row in the data, from 0.
        id: The id that it has in the data, if any.
        labels: Classes that the model suggests; None: it suggests nothing.
        confidence: Probability that `labels` are right, in [0, 1]; None with `labels`.
        score: What labelling the text is worth, see `routing.label_choice`.
        reasons: Why it was chosen.
    """

    text: str
    row: int
    id: Any = None
    labels: list[str] | None = None
    confidence: float | None = None
    score: float = 0.0
    reasons: list[str] = field(default_factory=list)


@dataclass
class Project:
    """What annotators see.

    Args:
        classes: The classes to choose from, two at least.
        multi_label: Whether a text may have several.
        model_version: Name of the model that suggests labels.
        text_field: Name of the field with the text.
        label_field: Name of the field with the label.

    Raises:
        ValueError: For fewer than two classes.
    """

    classes: Sequence[str]
    multi_label: bool = False
    model_version: str = "labelfusion"
    text_field: str = "text"
    label_field: str = "label"

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(
                "`labels`: an annotation tool needs the names of the classes, two at least, and without a fitted model "
                f"they are not known: got {list(self.classes)}. Give them, such as labels=['sport', 'politics']."
            )
        self.text_field = self.text_field if _FIELD.fullmatch(self.text_field) else "text"
        self.label_field = self.label_field if _FIELD.fullmatch(self.label_field) else "label"
        if self.label_field == self.text_field:
            self.label_field = f"{self.text_field}_label"


def label_studio_config(project: Project) -> str:
    """The labelling interface, as XML: one `Text` and one `Choices`."""
    text, label = project.text_field, project.label_field
    choice = "multiple" if project.multi_label else "single"
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in project.classes)
    return (
        f'<View>\n  <Text name="{text}" value="${text}"/>\n'
        f'  <Choices name="{label}" toName="{text}" choice="{choice}">\n{choices}\n  </Choices>\n</View>\n'
    )


def label_studio_tasks(tasks: Sequence[Task], project: Project) -> list[RecordDict]:
    """Tasks in the JSON format that Label Studio imports.

    A suggested label is a prediction. Its `score` is the model's confidence, by which Label Studio can order tasks.
    Row, id, score and reasons are in `meta`, and stay there in the JSON export.
    """
    return [
        {"data": {project.text_field: task.text}, "meta": _about(task), "predictions": _predictions(task, project)}
        for task in tasks
    ]


def _predictions(task: Task, project: Project) -> list[RecordDict]:
    if task.labels is None:
        return []
    where = {"from_name": project.label_field, "to_name": project.text_field, "type": "choices"}
    result = [{**where, "value": {"choices": task.labels}}] if task.labels else []
    return [{"model_version": project.model_version, "score": task.confidence, "result": result}]


def argilla_settings(project: Project) -> RecordDict:
    """Settings of a dataset, in the form that `argilla.Settings.from_json` reads."""
    kind = "multi_label_selection" if project.multi_label else "label_selection"
    options = [{"value": name, "text": name} for name in project.classes]
    order = {"options_order": "natural"} if project.multi_label else {}
    text = {"type": "text", "use_markdown": False}
    question = {"type": kind, "options": options, "visible_options": None, **order}
    title, label = project.text_field, project.label_field
    return {
        "guidelines": None,
        "fields": [{"name": title, "title": title, "type": "text", "required": True, "settings": text}],
        "questions": [{"name": label, "title": label, "type": kind, "required": True, "settings": question}],
        "metadata": [],
        "vectors": [],
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }


def argilla_records(tasks: Sequence[Task], project: Project) -> list[RecordDict]:
    """Records in the form that `dataset.records.from_json` of Argilla 2 reads. The id is the text's own, or its row."""
    return [
        {
            "id": str(task.row if task.id is None else task.id),
            "fields": {project.text_field: task.text},
            "metadata": {k: "; ".join(v) if isinstance(v, list) else v for k, v in _about(task).items()},
            "suggestions": _suggestions(task, project),
            "responses": {},
            "vectors": {},
        }
        for task in tasks
    ]


def _suggestions(task: Task, project: Project) -> RecordDict:
    if not task.labels:
        return {}
    value: Any = task.labels if project.multi_label else task.labels[0]
    # Argilla takes one score for each label.
    score: Any = None if project.multi_label else task.confidence
    return {project.label_field: {"value": value, "score": score, "agent": project.model_version}}


def task_rows(tasks: Sequence[Task], project: Project) -> list[RecordDict]:
    """Rows of a table, with an empty column for the label."""
    return [
        {
            **({} if task.id is None else {"id": task.id}),
            "row": task.row,
            project.text_field: task.text,
            project.label_field: "",
            "suggested": None if task.labels is None else _shown(task.labels, project.multi_label),
            "confidence": task.confidence,
            "score": task.score,
            "reasons": "; ".join(task.reasons),
        }
        for task in tasks
    ]


def _shown(labels: list[str], multi_label: bool) -> Any:
    return labels if multi_label else labels[0]


def _about(task: Task) -> RecordDict:
    known = {} if task.id is None else {"id": task.id}
    return {**known, "row": task.row, "score": task.score, "reasons": task.reasons}
