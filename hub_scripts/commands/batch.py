"""`labelfusion batch`: ask by the batch APIs of providers, which answer within a day, at half the price."""

import argparse
from pathlib import Path

from ...scoring.batches.batch_questions import BatchQuestions
from ..batches.batch_job import Job, apis_of
from ..batches.batch_run import collect, declared, job_folder, questions_of, scorers_of, submit
from ..io.journal import one_run
from ..io.tables import Table, check_texts
from ..score_setup import class_descriptions, set_up
from .score import add_asking, chunks, output_paths

ACTIONS = {
    "submit": "submit IN OUT: submit the questions of `score` that the store does not answer",
    "status": "status OUT: how far they are",
    "collect": "collect OUT: put what is answered into the score store; `score`, `fit` and `predict` find it",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=tuple(ACTIONS), help="; ".join(ACTIONS.values()))
    parser.add_argument("places", nargs="+", metavar="PLACE", help="IN and OUT as for `score`; OUT alone")
    add_asking(parser, required=False)
    parser.set_defaults(dry_run=False, no_cache=False)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        1 if questions are under way, or may be asked again.
    """
    count = 2 if args.action == "submit" else 1
    if len(args.places) != count:
        raise ValueError(f"`batch {args.action}` takes {'IN and OUT' if count == 2 else 'OUT'}, got {args.places}.")
    data_file = output_paths(args.places[-1])[1]
    if args.action == "submit":
        return _submit(args, data_file)
    folder = job_folder(data_file)
    job = Job.open(folder)
    with one_run(data_file):
        questions = questions_of(scorers_of(job.settings, args.store))
        if args.action == "status":
            return _status(job, questions)
        told = collect(job, questions)
    if job.is_open:
        print(f"{sum(part.state != 'collected' for part in job.parts)} batches are still under way.")
        return 1
    again = sum(told.open.values())
    print(
        f"All batches are collected, ${job.cost_usd():.4f}. "
        + (f"`batch submit` asks {again:,} questions again." if again else "`score` writes OUT from the store.")
    )
    return int(again > 0)


def _submit(args: argparse.Namespace, data_file: Path) -> int:
    if not args.llm:
        raise ValueError("`batch submit` needs `--llm`.")
    args.input = args.places[0]
    export = {name: getattr(args, name) for name in ("text_column", "label_column", "multi_label", "annotators")}
    table = Table(args.input, args.split, args.text_pair_column, **export, labelled=None)
    check_texts(table, args.text_column, args.empty_texts)
    with one_run(data_file):
        task = set_up(table, args, data_file.with_name(data_file.name + ".guidelines.json"))
        described = class_descriptions(args.descriptions, task.labels)
        questions = questions_of(list(task.scorers))
        job = Job.open(job_folder(data_file), declared(task, task.fingerprint(table, args), described))
        new = submit(job, questions, lambda: (texts for _, texts in chunks(table, args)), args.max_cost_usd)
    print(f"{new:,} new questions are under way." if new else "There is nothing new to ask.")
    return int(job.is_open)


def _status(job: Job, questions: dict[int, BatchQuestions]) -> int:
    now = {part.label: remote for part, remote in job.look(apis_of([one.scorer for one in questions.values()]))}
    for part in job.parts:
        remote = now.get(part.label)
        state = f"{remote.status}, {remote.done:,} answered {remote.error}".strip() if remote else part.state
        cost = f"${part.cost_usd:.4f}" if part.state == "collected" else f"about ${part.estimated_usd:.4f}"
        print(f"{part.batch or part.label:32} {part.lines:>8,} questions  {cost:>14}  {state}")
    return int(job.is_open)
