"""`labelfusion score`: ask LLMs for the per-class scores of a data set and add them as the column `llm_scores`."""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..folders.pieces import find_files
from ..io.formulas import add_escape_formulas
from ..io.journal import Journal, one_run
from ..io.tables import DELIMITERS, SCORES, SUFFIXES, Table, Writer, check_columns, check_texts, number_columns
from ..options import (
    add_annotators,
    add_columns,
    add_folder_options,
    dollars,
    provider,
    told_by_library,
    without_loading_bars,
)
from ..score_setup import Task, class_descriptions, parse_names, parse_price, set_up

if TYPE_CHECKING:
    from ...scoring.score_batch import ScoreBatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("input", metavar="IN", help="CSV, TSV, JSON, JSONL or Parquet file, a folder of these, or data set on the Hub")
    add(
        "output",
        metavar="OUT",
        help="CSV, TSV, JSON, JSONL or Parquet file; any other name: a folder that `push` can publish",
    )
    add_asking(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="estimate requests, tokens, dollars and time; send nothing")
    add(
        "--batch",
        action="store_true",
        help="ask by the batch API: within a day, at its prices, see `labelfusion batch`",
    )
    add(
        "--poll-s",
        type=float,
        default=60.0,
        metavar="S",
        help="batch: seconds between two looks (default: %(default)s)",
    )
    add("--no-cache", action="store_true", help="neither read nor write the score store")
    add_escape_formulas(parser)
    add("--overwrite", action="store_true", help="IN a folder: replace the files in OUT")
    add_folder_options(parser)


def add_asking(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Options of what is asked, and how."""
    add = parser.add_argument
    add(
        "--llm",
        action="append",
        required=required,
        type=provider,
        metavar="MODEL",
        help="model string, or a provider's fields as JSON; repeatable",
    )
    add("--labels", type=parse_names, metavar="A,B,C", help="class names, or their JSON; default: those of the data")
    add("--multi-label", action="store_true", help="several classes may apply to a text")
    add("--descriptions", "--class-descriptions", metavar="FILE.yaml", help="lines of `class name: description`")
    add_columns(parser)
    add_annotators(parser)
    add("--split", default="train", help="split of a data set on the Hub (default: %(default)s)")
    add = parser.add_argument_group("how to query", "for every --llm whose JSON does not say otherwise").add_argument
    add("--method", choices=("auto", "decision", "likelihood", "logprob", "json", "vote"), help="default: auto")
    add("--prompt", choices=("zero-shot", "few-shot", "nearest"), help="prompt strategy (default: zero-shot)")
    add("--examples", metavar="DATA", help="labelled data that few-shot and nearest prompts take examples from")
    add("--num-examples", type=int, help="examples in a prompt (default: 8)")
    add("--encoder", default="embedded/all-minilm-l6-v2", help="finds the nearest neighbours (default: %(default)s)")
    add("--template", metavar="FILE", help="prompt template that replaces the built-in one")
    add("--guidelines", metavar="FILE", help="instructions for the task; `auto`: each LLM writes its own first")
    add("--api-base", metavar="URL", help="OpenAI-compatible server: vLLM, Ollama, llama.cpp")
    add("--api-key-env", metavar="NAME", help="environment variable with the key (default: the provider's own)")
    add("--texts-per-request", type=int, help="texts in one request (default: 1)")
    add("--max-concurrency", type=int, help="requests in flight at once (default: 32)")
    add(
        "--timeout",
        dest="timeout_s",
        type=float,
        metavar="SECONDS",
        help="after which a request is given up and sent again (default: 60)",
    )
    add(
        "--wait-for-server",
        dest="wait_for_server_s",
        type=float,
        metavar="SECONDS",
        help="wait this long for a server that is starting or loading its model (default: 0)",
    )
    add("--price", type=parse_price, metavar="IN,OUT", help="dollars per million tokens, instead of the price list")
    add = parser.add_argument_group("the run").add_argument
    add(
        "--max-cost-usd", type=dollars, metavar="X", help="limit in dollars, all LLMs and all runs of this job together"
    )
    add(
        "--failure-limit", type=int, default=20, metavar="N", help="stop an LLM after N failures in a row (default: 20)"
    )
    add("--store", metavar="STORE", help="score store, see `cache --help` (default: the one in the HF cache folder)")
    add("--chunk-size", type=int, default=2000, metavar="ROWS", help="rows between two notes of progress on disk")


@dataclass
class Summary:
    """Counts of one provider in a run."""

    name: str
    method: str = ""
    answered: int = 0
    cached: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, batch: "ScoreBatch") -> None:
        """Count a batch."""
        self.method = batch.method
        self.answered += int(batch.mask.sum())
        self.cached += batch.cached
        self.requests += batch.usage.requests
        self.prompt_tokens += batch.usage.prompt_tokens
        self.completion_tokens += batch.usage.completion_tokens
        self.cost_usd += batch.usage.cost_usd
        self.reasons.update(batch.errors.values())

    def line(self) -> str:
        """One line for the end of the run."""
        missing = sum(self.reasons.values())
        text = (
            f"{self.name} ({self.method}): {self.answered} answered, {self.cached} of them from the store, {missing} "
            f"missing; {self.requests} requests, {self.prompt_tokens + self.completion_tokens:,} tokens, "
            f"${self.cost_usd:.4f}"
        )
        reasons = "".join(f"\n    {count} x {reason}" for reason, count in self.reasons.most_common(5))
        return text + reasons


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        1 if no row got scores, or if some rows may still get them: the same command then queries only those.
    """
    if Path(args.input).is_dir():
        return _run_folder(args)
    if args.engine != "local":
        raise ValueError("`--engine` is for folders of files; IN is one file or Hub id.")
    export = {name: getattr(args, name) for name in ("text_column", "label_column", "multi_label", "annotators")}
    table = Table(args.input, args.split, args.text_pair_column, **export, labelled=None)
    _check(table, args)
    folder, data_file = output_paths(args.output)
    check_columns(table, data_file)
    with nullcontext() if args.dry_run else one_run(data_file):
        return _run(table, folder, data_file, args)


def _run_folder(args: argparse.Namespace) -> int:
    from ...pipelines.partitions.score_partition import ScoreWork
    from ..folders.folder_run import run_folder

    table = Table(str(find_files(Path(args.input))[0]), text_pair_column=args.text_pair_column)
    _check(table, args)
    if args.dry_run or args.batch:
        raise ValueError("`--dry-run` and `--batch` take one file.")
    if args.guidelines == "auto" or args.prompt == "nearest":
        raise ValueError(
            "`--guidelines auto` and `--prompt nearest` are for one file; a folder takes few-shot examples."
        )
    task = set_up(table, args, Path(args.output) / "guidelines.json")
    says: dict[str, Any] = {"labels": task.labels, "providers": [scorer.name for scorer in task.scorers]}
    if table.class_names(args.label_column):
        says["indices"] = True
    _tell_without_labels(table, args)
    store = ":memory:" if args.no_cache else args.store
    work = ScoreWork(
        [provider.to_dict() for provider in task.providers],
        task.labels,
        args.multi_label,
        class_descriptions(args.descriptions, task.labels),
        args.text_column,
        args.empty_texts,
        {"store": store, "failure_limit": args.failure_limit},
        {"labelfusion": json.dumps(says)},
        task.prior_texts(table, args.text_column),
        text_pair_column=args.text_pair_column,
    )
    with told_by_library():
        return run_folder(work, args, task.fingerprint(table, args))


def _run(table: Table, folder: Path | None, data_file: Path, args: argparse.Namespace) -> int:
    kept_guidelines = data_file.with_name(data_file.name + ".guidelines.json")
    task = set_up(table, args, kept_guidelines)
    _tell_without_labels(table, args)
    total = len(table)
    if args.dry_run:
        from ..score_estimate import dry_run

        return dry_run(chunks(table, args), task, total)
    started = time.monotonic()
    job = None
    if args.batch:
        from ..batches.batch_run import ask_by_batch

        job = ask_by_batch(
            task, task.fingerprint(table, args), lambda: (texts for _, texts in chunks(table, args)), data_file, args
        )
    journal = Journal(data_file.with_name(data_file.name + ".journal"), task.fingerprint(table, args))
    with told_by_library():
        summaries = _score_all(table, task, journal, args, total)
    _write(table, task, journal, data_file, args)
    from ..publish.data_card import write_card

    write_card(folder, data_file, table.name, task, journal, args)
    print("\n".join(s.line() for s in summaries), file=sys.stderr)
    print(f"Wrote {data_file}: {total} rows in {time.monotonic() - started:.1f} s.", file=sys.stderr)
    left = sum(len(record["open"]) for record in journal.records())
    if left:
        print(f"{left} rows may still get an answer: the same command queries only these.", file=sys.stderr)
        return 1
    scored = any(scores is not None for record in journal.records() for row in record["scores"] for scores in row)
    journal.delete()
    kept_guidelines.unlink(missing_ok=True)
    if job is not None:
        job.remove()
    if not scored:
        print("No row has got any scores.", file=sys.stderr)
        return 1
    return 0


def _check(table: Table, args: argparse.Namespace) -> None:
    first = next(iter(table), None)
    if first is None:
        raise ValueError(f"{args.input} has no rows.")
    if SCORES in first:
        raise ValueError(f"{args.input} has a column {SCORES!r} already: remove it, or give all LLMs in one run.")
    if args.chunk_size < 1:
        raise ValueError(f"`--chunk-size` must be positive, got {args.chunk_size}.")
    if empty := check_texts(table, args.text_column, args.empty_texts):
        print(f"{empty} rows have no text: they get no scores.", file=sys.stderr)


def _tell_without_labels(table: Table, args: argparse.Namespace) -> None:
    """Say, before anything is paid, that `train` will not take the output; to predict, no labels are needed."""
    from ...training.data import find_label_column
    from ...training.data.label_cells import is_missing

    column = find_label_column(next(iter(table)).keys(), args.multi_label, args.label_column)
    cells = (row.get(column) for row in table) if column is not None else iter(())
    if any(not is_missing(cell) and (not isinstance(cell, Sized) or len(cell)) for cell in cells):
        return
    found = "no column `label` or `labels`" if column is None else f"no label in its column {column!r}"
    print(
        f"Note: {args.input} has {found}. `predict` needs none, but `train` does. No score is lost: add the labels to "
        f"{args.output} before you train.",
        file=sys.stderr,
    )


def output_paths(output: str) -> tuple[Path | None, Path]:
    """The output folder, if OUT is one, and the data file."""
    path = Path(output)
    if path.suffix.lower() in SUFFIXES:
        return None, path
    if path.suffix:
        raise ValueError(f"`OUT` is {output!r}; expected a name that ends in {', '.join(SUFFIXES)}, or a folder.")
    return path, path / "data" / "train.parquet"


def chunks(table: Table, args: argparse.Namespace) -> Iterator[tuple[int, list[str]]]:
    """First row and texts of each chunk."""
    rows, start = iter(table), 0
    while chunk := list(islice(rows, args.chunk_size)):
        yield start, [table.text_of(row, args.text_column) or "" for row in chunk]
        start += len(chunk)


def _score_all(table: Table, task: Task, journal: Journal, args: argparse.Namespace, total: int) -> list[Summary]:
    """Score the table chunk by chunk into the journal. Returns: the counts of each provider."""
    from ...scoring import score_texts
    from ...scoring.budget import Budget
    from ...scoring.session.progress import Progress, ProgressBar

    task.fit_priors(table, args.text_column)
    summaries = [Summary(scorer.name) for scorer in task.scorers]
    count = len(summaries)
    before = Progress(total=total * count)
    spent = sum(usage[3] for record in journal.records() for usage in record["spent"]) + task.guidelines_usd
    limit = math.inf if args.max_cost_usd is None else args.max_cost_usd
    budget = Budget(limit, max(spent, journal.spent), journal.spend)
    bar = ProgressBar(before.total)

    def show(now: Progress) -> None:
        done = before.done + now.done
        bar(
            Progress(
                before.total,
                done,
                before.cached + now.cached,
                before.failed + now.failed,
                before.cost_usd + now.cost_usd,
            )
        )

    try:
        for start, texts in chunks(table, args):
            known = journal.get(start)
            record = known or {
                "start": start,
                "open": [row for row, text in enumerate(texts) if text.strip()],
                "scores": [[None] * count for _ in texts],
                "spent": [[0, 0, 0, 0.0] for _ in range(count)],
                "methods": [""] * count,
            }
            asked = record["open"]
            before.done += (len(texts) - len(asked)) * count
            if asked:
                batches = score_texts(task.scorers, [texts[r] for r in asked], progress=show, max_cost_usd=budget)[1]
                for batch, summary in zip(batches, summaries, strict=True):
                    summary.add(batch)
                    before.cached += batch.cached
                    before.failed += len(batch.errors)
                    before.cost_usd += batch.usage.cost_usd
                _enter(record, batches)
                before.done += len(asked) * count
            if asked or known is None:
                journal.put(record)
            show(Progress())
    finally:
        bar.close()
        journal.spend(budget.spent)  # until now the recorded amount was slightly higher
        if not journal.begun:  # so that other settings may be tried
            journal.delete()
    if (args.max_cost_usd is not None and not args.batch) or budget.unsure:
        print(f"In all runs: {budget.told()}.", file=sys.stderr)
    return summaries


def _enter(record: dict[str, Any], batches: "Sequence[ScoreBatch]") -> None:
    """Add scores for the open rows of a journal record; rows that may still get answers stay open."""
    from ...scoring.reasons import Missing

    asked, still_open = record["open"], set()
    for p, batch in enumerate(batches):
        usage = batch.usage
        paid = usage.requests, usage.prompt_tokens, usage.completion_tokens, usage.cost_usd
        record["spent"][p] = [a + b for a, b in zip(record["spent"][p], paid, strict=True)]
        record["methods"][p] = batch.method
        for i in batch.mask.nonzero()[0]:
            record["scores"][asked[i]][p] = [round(float(s), 6) for s in batch.scores[i]]
        still_open |= {asked[i] for i, reason in batch.errors.items() if not Missing.of(reason).is_final}
    record["open"] = sorted(still_open)


def _write(table: Table, task: Task, journal: Journal, path: Path, args: argparse.Namespace) -> None:
    """Write the rows of the table with their scores."""
    from ...training.data import CLASSES_SUFFIX

    numbers = {} if path.suffix.lower() in DELIMITERS else number_columns(table, args.text_column, args.label_column)
    says: dict[str, Any] = {"labels": task.labels, "providers": [scorer.name for scorer in task.scorers]}
    if table.class_names(args.label_column):  # of a `ClassLabel`: the column holds indices, whatever the classes are
        says["indices"] = True
    metadata = {"labelfusion": json.dumps(says)}
    if path.suffix.lower() != ".parquet":
        path.with_name(path.name + CLASSES_SUFFIX).write_text(metadata["labelfusion"] + "\n", encoding="utf-8")
    scores: Iterator[Any] = (row for record in journal.records() for row in record["scores"])
    with Writer(path, table.schema(), numbers, metadata, args.escape_formulas) as writer:
        for row, row_scores in zip(table, scores, strict=True):
            writer.write({**row, SCORES: row_scores})
