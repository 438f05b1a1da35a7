"""The card of a scored data set: model, method, prompt, date and cost of the scores."""

import argparse
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..io.journal import Journal
from ..score_setup import Task
from .data_repository import describe

_CARD = """---
task_categories:
- text-classification
tags:
- labelfusion
- llm-scores
configs:
- config_name: default
  data_files: {data_files}
---

# {title}

{rows} texts from `{source}` with the scores of {count} LLM{plural}, made with LabelFusion {version} on {date}.

The column `llm_scores` holds for each row one list an LLM, in the order of the table, with one probability a class, in
the order of the classes; null where the LLM gave no answer. {kind}

Classes: {classes}

| LLM | method | prompt | prompt hash | answered | requests | tokens | dollars |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: |
{table}

{guidelines}The scores are what the models answered, not human labels. Answers that came from the score store were paid
for earlier and are not in the dollars. The texts belong to their source: its terms of use apply.
"""


def write_card(
    folder: Path | None, data_file: Path, source: str, task: Task, journal: Journal, args: argparse.Namespace
) -> Path:
    """Write the card: `README.md` in a folder for the Hub, `<file>.md` beside a single file."""
    from importlib.metadata import version

    records = list(journal.records())
    rows = sum(len(record["scores"]) for record in records)
    lines = []
    for p, provider in enumerate(task.providers):
        spent = [sum(record["spent"][p][i] for record in records) for i in range(4)]
        answered = sum(row[p] is not None for record in records for row in record["scores"])
        method = next((record["methods"][p] for record in reversed(records) if record["methods"][p]), provider.method)
        cells = [
            f"`{provider.name}`" + (f" (`{provider.model}`)" if provider.name != provider.model else ""),
            method,
            provider.prompt,
            f"`{prompt_hash(task.scorers[p], method)}`",
            f"{answered} of {rows}",
            f"{spent[0]:,}",
            f"{spent[1] + spent[2]:,}",
            f"{spent[3]:.4f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    path = folder / "README.md" if folder else data_file.with_name(data_file.name + ".md")
    card = _CARD.format(
        data_files=json.dumps(str(data_file.relative_to(folder)) if folder else data_file.name),
        title=(folder or data_file).name,
        rows=rows,
        source=source,
        count=len(task.providers),
        plural="" if len(task.providers) == 1 else "s",
        version=version("labelfusion-transformers"),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        kind="Several classes may apply to a text." if task.multi_label else "The probabilities of a row sum to 1.",
        classes=", ".join(f"`{label}`" for label in task.labels),
        table="\n".join(lines),
        guidelines="".join(f"Guidelines of `{p.name}`:\n\n{p.guidelines}\n\n" for p in task.providers if p.guidelines),
    )
    if data_file.suffix.lower() == ".parquet":
        card = describe(card, data_file, str(data_file.relative_to(folder)) if folder else data_file.name)
    path.write_text(card, encoding="utf-8")
    return path


def prompt_hash(scorer: Any, method: str) -> str:
    """First 12 hexadecimal digits of the hash of the prompt without the text."""
    questions = getattr(scorer, "questions", None)
    if questions is None:
        names = ("templates", "verbalizers", "examples")
        prompt: Any = [scorer.provider.guidelines, *(getattr(scorer, name, None) for name in names)]
    else:
        body = questions.method("json" if method in ("", "auto") else method).body([""])
        prompt = {k: body[k] for k in ("messages", "questions", "input") if k in body}
    return hashlib.sha256(json.dumps(prompt, sort_keys=True, default=str).encode()).hexdigest()[:12]
