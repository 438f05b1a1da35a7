"""The steps of `labelfusion batch` and `score --batch`, with what they tell."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...scoring.batches.batch_questions import BatchQuestions, Collected
from .batch_job import Job, apis_of, reasons_told
from .stored_scorer import StoredScorer

if TYPE_CHECKING:
    from ..score_setup import Task

FRUITLESS = 3  # rounds without an answer, after which nothing more is submitted


def job_folder(data_file: Path) -> Path:
    """Where the job of an output is kept."""
    return data_file.with_name(data_file.name + ".batch")


def declared(task: "Task", fingerprint: dict[str, Any], descriptions: dict[str, str] | None) -> dict[str, Any]:
    """The settings of a job: what must match, and what it takes to read its answers without the data."""
    return {
        **fingerprint,
        "providers": [provider.to_dict() for provider in task.providers],
        "class_descriptions": descriptions,
    }


def scorers_of(settings: dict[str, Any], store: str | None) -> list[Any]:
    """The scorers of a job."""
    from ...scoring import build_scorer

    labels, multi_label, described = settings["labels"], settings["multi_label"], settings["class_descriptions"]
    return [build_scorer(one, labels, multi_label, described, store=store) for one in settings["providers"]]


def questions_of(scorers: list[Any]) -> dict[int, BatchQuestions]:
    """The questions of each scorer.

    Raises:
        ScoringError: For a scorer that cannot be asked by batch.
    """
    from ...scoring import run_sync

    found = {}
    for number, scorer in enumerate(scorers):
        store = run_sync(scorer.store()) if hasattr(scorer, "store") else None
        found[number] = BatchQuestions(scorer, store)  # type: ignore[arg-type]
    return found


def submit(
    job: Job,
    questions: dict[int, BatchQuestions],
    texts: Callable[[], Iterable[list[str]]],
    max_cost_usd: float | None,
) -> int:
    """Plan and submit what is still to be asked. Returns: the number of questions that are new."""
    apis = apis_of([one.scorer for one in questions.values()])
    job.submit(apis)  # of a step that was killed
    if max_cost_usd is not None:
        for one in questions.values():
            if one.price is None:
                raise ValueError(f"`max_cost_usd` needs the price of {one.scorer.name}: give `price`, the batch price.")
    new = sum(job.plan(number, one, texts(), max_cost_usd) for number, one in questions.items())
    job.submit(apis)
    if new:
        told = f"{new:,} questions submitted in {sum(part.state == 'submitted' for part in job.parts)} batches"
        print(f"{told}, expected to cost ${job.cost_usd(expected=True) - job.cost_usd():.4f}.", file=sys.stderr)
    return new


def collect(job: Job, questions: dict[int, BatchQuestions]) -> Collected:
    """Store what has been answered, and tell."""
    told = job.collect(apis_of([one.scorer for one in questions.values()]), questions)
    if told.answered or told.final or told.open:
        print(
            f"{told.answered:,} answers collected, ${told.usage.cost_usd:.4f}; {len(told.final):,} without a usable "
            f"answer, {sum(told.open.values()):,} may be asked again.{reasons_told(told)}",
            file=sys.stderr,
        )
    return told


def ask_by_batch(
    task: "Task",
    fingerprint: dict[str, Any],
    texts: Callable[[], Iterable[list[str]]],
    data_file: Path,
    args: argparse.Namespace,
) -> Job:
    """Submit, wait and collect, until nothing is left to ask; then the scorers of `task` answer from the store.

    A process that is stopped here goes on with the same command.
    """
    from ..score_setup import class_descriptions

    if args.no_cache:
        raise ValueError("`--batch` keeps its answers in the score store; it cannot go with `--no-cache`.")
    settings = declared(task, fingerprint, class_descriptions(args.descriptions, task.labels))
    questions = questions_of(list(task.scorers))
    job = Job.open(job_folder(data_file), settings)
    fruitless = 0
    try:
        while fruitless < FRUITLESS:
            submit(job, questions, texts, args.max_cost_usd)
            if not job.is_open:
                break
            told = Collected()
            while job.is_open:
                one = collect(job, questions)
                told.answered += one.answered
                told.final |= one.final
                if job.is_open:
                    time.sleep(args.poll_s)
            fruitless = 0 if told.answered or told.final else fruitless + 1
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"batches are under way, noted in {job.folder}")
        raise
    print(f"The batches of this job have cost ${job.cost_usd():.4f}.", file=sys.stderr)
    task.scorers = [StoredScorer(one, job.final(number)) for number, one in questions.items()]  # type: ignore[misc]
    return job
