"""`labelfusion predict`: classify a data set of any size, row by row, in bounded memory.

Answers are kept in a journal beside the output until the run is complete: the same command resumes a stopped run.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration.freed_memory import steady_heap
from ..cards.llm_needs import askable
from ..io.formulas import add_escape_formulas
from ..io.journal import Journal, one_run
from ..io.tables import SCORES, SUFFIXES, Row, Table, Writer, check_columns, check_texts
from ..options import (
    add_columns,
    add_encoding,
    add_folder_options,
    add_guarantees,
    add_llm_policy,
    add_max_cost,
    add_speed,
    load_classifier,
    without_loading_bars,
)

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

    from ...configuration import LabelFusionConfig
    from ...pipelines.answer_columns import AnswerColumns
    from ...routing.run_options import Routing
    from ...scoring.budget import Budget


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("model", metavar="DIR", help="folder or Hub id of a model")
    add("input", metavar="IN", help="CSV, TSV, JSON, JSONL or Parquet file, a folder of these, or Hub id")
    add(
        "output",
        metavar="OUT",
        help="CSV, TSV, JSON, JSONL or Parquet file: the columns of IN and the answers; a folder if IN is one",
    )
    add_llm_policy(parser)
    add_max_cost(parser)
    add_guarantees(parser)
    add_speed(parser)
    add("--deadline-s", type=float, metavar="S", help="seconds after which a text goes without the LLM's answer")
    add("--top-k", type=int, metavar="K", help="add a column `top_k` with the K best classes and their probabilities")
    add(
        "--with-sources",
        action="store_true",
        help="add `llm_called`, `cost_usd`, `llm_missing` and `sources`: what each source said",
    )
    add_columns(parser, labels=False, saved=True)
    add("--split", default="train", help="split of a data set on the Hub (default: %(default)s)")
    add_encoding(parser)
    add_escape_formulas(parser)
    add("--overwrite", action="store_true", help="replace OUT if it is there")
    add("--store", metavar="STORE", help="score store, see `cache --help` (default: the one in the HF cache folder)")
    add_folder_options(parser)


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Classify IN into OUT."""
    steady_heap()
    if Path(args.input).is_dir():
        return _run_folder(args)
    if args.engine != "local":
        raise ValueError("`--engine` is for folders of files; IN is one file or Hub id.")
    table, out = Table(args.input, args.split), Path(args.output)
    _check(table, out, args.overwrite, args.top_k)
    with one_run(out):
        return _run(table, out, args)


def _run_folder(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from labelfusion.saving import load_config, saved_settings

    from ...pipelines.partitions.partition import PredictWork
    from ...routing.run_options import Routing
    from ..folders.folder_run import run_folder

    config = load_config(args.model)
    classes, saved = saved_settings(args.model, config.label_names)
    routing = {
        name: getattr(args, name) for name in ("llm_policy", "target_accuracy", "deadline_s", "max_risk", "speed")
    }
    policy = Routing.parse(config, **routing).policy
    encoding = {name: value for name in ("batch_size", "max_length") if (value := saved.get(name)) is not None}
    encoding |= {
        name: getattr(args, name) for name in ("batch_size", "bf16", "backend") if getattr(args, name) is not None
    }
    work = PredictWork(
        args.model,
        classes,
        args.text_column or saved.get("text_column", "text"),
        args.empty_texts or saved.get("empty_texts", "error"),
        routing,
        encoding,
        {"store": args.store, "cache": saved.get("cache", True)},
        args.device,
        args.top_k,
        args.with_sources,
        args.text_pair_column or saved.get("text_pair_column"),
    )
    same = {name: value for name, value in asdict(work).items() if name not in ("encoding", "scoring", "device")}
    model = hashlib.sha256(config.to_json_string(use_diff=False).encode()).hexdigest()
    return run_folder(work, args, {**same, "model": model}, policy if isinstance(policy, float) else None)


def _run(table: Table, out: Path, args: argparse.Namespace) -> int:
    from ...pipelines.answer_columns import AnswerColumns
    from ...routing.run_options import Routing

    encoding = {name: getattr(args, name) for name in ("batch_size", "bf16", "backend", "device")}
    clf = load_classifier(args.model, **encoding)
    clf._store = args.store  # no argument of the constructor: those are saved, and this may hold a password
    args.text_column, args.empty_texts = args.text_column or clf.text_column, args.empty_texts or clf.empty_texts
    config = clf.model_.config
    pairs = args.text_pair_column or clf.text_pair_column
    table = Table(args.input, args.split, pairs, text_column=args.text_column, labelled=False)
    empty = check_texts(table, args.text_column, args.empty_texts)
    guarantees = {name: getattr(args, name) for name in ("target_accuracy", "max_risk", "speed")}
    routing = Routing.parse(config, args.llm_policy, deadline_s=args.deadline_s, **guarantees)
    columns = AnswerColumns(config, clf.classes_.tolist(), args.top_k, args.with_sources, routing.control)
    _check_columns(table, out, columns.names)
    asked = str(args.llm_policy) != "never"
    if asked and config.providers and not askable(config) and SCORES not in next(iter(table), {}):
        names = ", ".join(dict.fromkeys(str(provider.name) for provider in config.providers))
        print(
            f"No LLM is queried: the scores of {names} were recorded for the training data, and {args.input} has no "
            f"column {SCORES!r}. The encoder alone answers. To have LLM answers, get them first: "
            f"labelfusion score {args.input} scored{Path(args.input).suffix or '.csv'} --llm ...",
            file=sys.stderr,
        )
    journal = Journal(out.with_name(out.name + ".journal"), _fingerprint(args, table, config))
    earlier = max(journal.spent, sum(record["cost_usd"] for record in journal.records()))
    started = time.perf_counter()
    try:
        counts = _answer_all(table, journal, clf, routing, columns, args)
    except BaseException as error:
        if (kept := sum(record["rows"] for record in journal.records())) or journal.spent:
            note = f"{kept} rows are answered, in {journal.path}"
            if isinstance(error, KeyboardInterrupt):
                error.add_note(note)
            else:
                print(f"{note}: the same command goes on there.", file=sys.stderr)
        else:
            journal.delete()
        raise
    seconds = time.perf_counter() - started
    with _Writer(out, table.schema(), columns.names, args.escape_formulas) as writer:
        answers = (answer for record in journal.records() for answer in record["answers"])
        for row, answer in zip(table, answers, strict=True):
            writer.write({**row, **answer})
    journal.delete()
    rows = counts["rows"] - counts["before"]
    before = f", and {counts['before']} from an earlier run" if counts["before"] else ""
    print(f"Wrote {out}: {rows} rows in {seconds:.1f} s ({rows / max(seconds, 1e-3):.0f} a second){before}.")
    if empty:
        print(f"{empty} rows have no text, and no answer.")
    spent = max(journal.spent, counts["cost_usd"])  # includes rows that an earlier run paid for but did not finish
    if counts["asked"] or counts["missing"] > empty or spent:
        paid = f"${spent:.4f}" + (f" in all, ${max(0.0, spent - earlier):.4f} of it in this run" if earlier else "")
        print(
            f"The LLM was queried about {counts['asked']} texts, for {paid}; "
            f"an answer is missing for {counts['missing'] - empty}."
        )
    return 0


def _answer_all(
    table: Table,
    journal: Journal,
    clf: "AutoFusionClassifier",
    routing: "Routing",
    columns: "AnswerColumns",
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Classify the rows missing from the journal and add them to it. Returns: totals over the whole journal."""
    from ...configuration.progress_bar import progress_bar
    from ...scoring.budget import Budget

    column = args.text_column
    counts = _earlier(table, journal, column)
    counts["before"] = start = counts["rows"]
    limit = math.inf if args.max_cost_usd is None else args.max_cost_usd
    budget = Budget(limit, max(counts["cost_usd"], journal.spent), journal.spend)
    waiting: list[Any] = []  # rows that were read but not yet answered
    rows_in = _read(table, column, start, waiting)
    with (
        _noted(journal, budget),
        progress_bar(len(table), "predict", initial=start) as bar,
        closing(
            clf.stream_sources(rows_in, routing.policy, budget, deadline_s=routing.deadline_s, speed=routing.speed)
        ) as parts,
    ):
        for part in parts:
            record = {
                "start": counts["rows"],
                "digest": _digest(waiting[: len(part)]),
                "answers": list(columns.rows(part)),
                "rows": len(part),
                "asked": int(part.llm_called.sum()),
                "missing": len(part.errors),
                "cost_usd": part.total_cost_usd,
            }
            del waiting[: len(part)]
            journal.put(record)
            counts = {name: value + record.get(name, 0) for name, value in counts.items()}
            bar.update(len(part))
            bar.set_postfix_str(f"${counts['cost_usd']:.4f}", refresh=False)
    return counts


@contextmanager
def _noted(journal: Journal, budget: "Budget") -> Iterator[None]:
    """Record the final amount at the end: until then the budget's records are slightly above it."""
    try:
        yield
    finally:
        journal.spend(budget.spent)


def _earlier(table: Table, journal: Journal, column: str) -> dict[str, Any]:
    """Totals of the journal's records for the table's rows; records of other rows are removed."""
    counts: dict[str, Any] = dict.fromkeys(("rows", "asked", "missing", "cost_usd"), 0)
    rows = iter(table)
    for record in journal.records():
        read = [(table.text_of(row, column), row.get(SCORES)) for row in islice(rows, record["rows"])]
        if _digest(read) != record["digest"]:
            journal.cut(record["start"])
            break
        counts = {name: value + record[name] for name, value in counts.items()}
    return counts


def _digest(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()


def _fingerprint(args: argparse.Namespace, table: Table, config: "LabelFusionConfig") -> dict[str, Any]:
    """The settings that must match to continue a journal; budget and speed may change."""
    free = {
        "config",
        "verb",
        "output",
        "overwrite",
        "max_cost_usd",
        "deadline_s",
        "batch_size",
        "bf16",
        "device",
        "backend",
    }
    free |= {"escape_formulas", "store", "engine", "address", "workers", "partition_rows"}
    options = {name: value for name, value in vars(args).items() if name not in free}
    model = hashlib.sha256(config.to_json_string(use_diff=False).encode()).hexdigest()
    return {**options, "input": table.name, "model": model}


def _check(table: Table, out: Path, overwrite: bool, top_k: int | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"`--top-k` must be a positive number, got {top_k}.")
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"`OUT` is {str(out)!r}; expected a name that ends in {', '.join(SUFFIXES)}.")
    if out.exists():
        if table.suffix and out.samefile(table.source):
            raise ValueError("`OUT` is the same file as `IN`, which is never overwritten; give another name.")
        if not overwrite:
            raise ValueError(f"{str(out)!r} is there already; give another name, or --overwrite.")


def _check_columns(table: Table, out: Path, new: list[str]) -> None:
    first = next(iter(table), None)
    if first is None:
        raise ValueError(f"{table.name} has no rows.")
    if taken := sorted(set(new) & set(first)):
        raise ValueError(f"{table.name} has the columns {taken} already: rename or drop them.")
    check_columns(table, out)


def _read(table: Table, column: str, start: int, waiting: list[Any]) -> Iterator[tuple[str | None, Any]]:
    """`(text, scores)` of each row from `start` on, with the original row appended to `waiting`."""
    from ...training.data.label_encoding import parse_row

    for number, row in enumerate(islice(table, start, None), start):
        scores = row.get(SCORES)
        if isinstance(scores, str):
            scores = parse_row(scores, number)
        text = table.text_of(row, column)
        waiting.append((text, row.get(SCORES)))
        yield text, scores


class _Writer(Writer):
    """A `Writer` for other columns than `llm_scores`."""

    def __init__(self, path: Path, schema: Any, new: list[str], escape_formulas: bool = False) -> None:
        super().__init__(path, schema, escape_formulas=escape_formulas)
        self._new = new

    def write(self, row: Row) -> None:
        if "sources" in row and self._suffix not in (".json", ".jsonl"):
            row["sources"] = json.dumps(row["sources"], ensure_ascii=False)
        super().write(row)

    def _write_parquet(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            kept = [{k: v for k, v in row.items() if k not in self._new} for row in self._rows]
            added = [{k: row[k] for k in self._new} for row in self._rows]
            schema = self._schema or pa.Table.from_pylist(kept).schema
            fields = [self._field(field) for field in pa.Table.from_pylist(added).schema]
            # Drop the column metadata of `datasets` and pandas, which lacks the new columns.
            self._schema = pa.schema([*schema, *fields])
            self._writer = pq.ParquetWriter(self._temporary, self._schema)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _field(self, field: Any) -> Any:
        """Lists that are empty in all of the first rows, and columns without a value, get the type they will need."""
        import pyarrow as pa

        if pa.types.is_null(field.type):
            number, several = pa.float64(), "predicted_labels" in self._new
            best = pa.list_(pa.struct({"label": pa.string(), "score": number}))
            kinds = {"predicted_labels": pa.list_(pa.string()), "score": pa.list_(number) if several else number}
            return pa.field(field.name, (kinds | {"top_k": best}).get(field.name, pa.string()))

        empty = pa.types.is_list(field.type) and pa.types.is_null(field.type.value_type)
        kind = pa.float64() if field.name == "score" else pa.string()
        return pa.field(field.name, pa.list_(kind)) if empty else field
