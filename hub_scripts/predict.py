"""`labelfusion predict`: classify a data set of any size, row by row, in bounded memory."""

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .options import add_llm_policy, add_max_cost, add_promises, load_classifier
from .tables import SCORES, SUFFIXES, Row, Table, Writer

if TYPE_CHECKING:
    from ..configuration import LabelFusionConfig
    from ..pipelines import Inference
    from ..training.risk import RiskControl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("model", metavar="DIR", help="folder or Hub id of a model")
    add("input", metavar="IN", help="CSV, TSV, JSON, JSONL or Parquet file, or Hub id")
    add("output", metavar="OUT", help="CSV, TSV, JSON, JSONL or Parquet file: the columns of IN and the answers")
    add_llm_policy(parser)
    add_max_cost(parser)
    add_promises(parser)
    add("--deadline-s", type=float, metavar="S", help="seconds after which a text goes without the LLM's answer")
    add("--top-k", type=int, metavar="K", help="add a column `top_k` with the K best classes and their probabilities")
    add(
        "--with-sources",
        action="store_true",
        help="add `llm_called`, `cost_usd`, `llm_missing` and `sources`: what each source said",
    )
    add("--text-column", metavar="NAME", help="column with the texts (default: that of the training data)")
    add("--split", default="train", help="split of a data set on the Hub (default: %(default)s)")
    add("--batch-size", type=int, help="texts in one forward pass of the encoder")
    add("--device", help="torch device (default: a GPU if there is one)")
    add("--overwrite", action="store_true", help="replace OUT if it is there")


def run(args: argparse.Namespace) -> int:
    """Classify IN into OUT."""
    from tqdm import tqdm

    from ..pipelines.policy import controlled_risk, resolve_policy

    table, out = Table(args.input, args.split), Path(args.output)
    _check(args, table, out)
    clf = load_classifier(args.model, batch_size=args.batch_size, device=args.device)
    column = args.text_column or clf.text_column
    config = clf.model_.config
    waiting: deque[Row] = deque()  # read, and on their way through the model
    policy = resolve_policy(args.llm_policy, args.target_accuracy, config)
    control = None if args.max_risk is None else controlled_risk(args.max_risk, policy, config)
    rows_in = _read(table, column, waiting)
    parts = clf.stream_sources(rows_in, policy, args.max_cost_usd, deadline_s=args.deadline_s)
    total = len(table) if table.suffix == ".parquet" else None
    started, rows, asked, missing, cost = time.perf_counter(), 0, 0, 0, 0.0
    with (
        _Writer(out, table, _new_columns(config.multi_label, args)) as writer,
        tqdm(total=total, unit=" texts", desc="predict") as bar,
    ):
        for part in parts:
            for answer in _answers(part, config, clf.classes_.tolist(), args, control):
                writer.write({**waiting.popleft(), **answer})
            rows, asked, missing = rows + len(part), asked + int(part.llm_called.sum()), missing + len(part.errors)
            cost += part.total_cost_usd
            bar.update(len(part))
            bar.set_postfix_str(f"${cost:.4f}", refresh=False)
    seconds = time.perf_counter() - started
    print(f"Wrote {out}: {rows} rows in {seconds:.1f} s ({rows / max(seconds, 1e-3):.0f} a second).")
    if asked or missing:
        print(f"The LLM was asked about {asked} texts, for ${cost:.4f}; an answer is missing for {missing}.")
    return 0


def _check(args: argparse.Namespace, table: Table, out: Path) -> None:
    if args.top_k is not None and args.top_k < 1:
        raise ValueError(f"`--top-k` must be a positive number, got {args.top_k}.")
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"`OUT` is {str(out)!r}; expected a name that ends in {', '.join(SUFFIXES)}.")
    if out.exists():
        if table.suffix and out.samefile(table.source):
            raise ValueError("`OUT` is the same file as `IN`, which is never overwritten; give another name.")
        if not args.overwrite:
            raise ValueError(f"{str(out)!r} is there already; give another name, or --overwrite.")


def _read(table: Table, column: str, waiting: deque[Row]) -> Iterator[tuple[str, Any]]:
    """`(text, scores)` of each row; the row itself waits for its answer."""
    for number, row in enumerate(table):
        if column not in row:
            raise ValueError(f"Row {number} of {table.name} has no column {column!r} (`--text-column`).")
        if not isinstance(row[column], str):
            raise ValueError(f"Row {number} of {table.name}: {column!r} is {row[column]!r}, expected a string.")
        scores = row.get(SCORES)
        if isinstance(scores, str):
            scores = json.loads(scores) if scores.strip() else None
        waiting.append(row)
        yield row[column], scores


def _answers(
    part: "Inference",
    config: "LabelFusionConfig",
    classes: list[Any],
    args: argparse.Namespace,
    control: "RiskControl | None" = None,
) -> Iterator[Row]:
    """The new columns of each row."""
    from ..pipelines.answers import hold_back, source_names
    from ..training.thresholds import decide

    probabilities, encoder = part.probabilities, part.encoder_probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    decided = decide(probabilities, config.thresholds, config.min_labels) if config.multi_label else None
    names = config.label_names
    providers = source_names(config)
    if control is not None:
        answered, sets = hold_back(part, config, control)
    for i, p in enumerate(probabilities):
        answer: Row
        if decided is None:
            best = int(order[i, 0])
            answer = {"predicted_label": classes[best], "score": _rounded(p[best])}
        else:
            chosen = [int(k) for k in order[i] if decided[i, k]]
            answer = {"predicted_labels": [classes[k] for k in chosen], "score": [_rounded(p[k]) for k in chosen]}
        if control is not None:
            if not answered[i]:
                answer["predicted_labels" if config.multi_label else "predicted_label"] = None
            answer |= {"abstained": not answered[i], "label_set": [classes[k] for k in order[i] if sets[i, k]]}
        if args.top_k is not None:
            answer["top_k"] = [{"label": names[k], "score": _rounded(p[k])} for k in order[i, : args.top_k]]
        if args.with_sources:
            sources: dict[str, Any] = {"encoder": _named(names, encoder[i])}
            for name, scores in zip(providers, part.llm_scores[i], strict=True):
                sources[name] = None if np.isnan(scores).any() else _named(names, scores)
            answer |= {"llm_called": bool(part.llm_called[i]), "cost_usd": float(part.cost_usd[i])}
            answer["llm_missing"] = part.errors.get(i)
            answer["sources"] = sources
        yield answer


def _named(names: list[str], probabilities: Any) -> dict[str, float]:
    return {name: _rounded(p) for name, p in zip(names, probabilities, strict=True)}


def _rounded(p: Any) -> float:
    return round(float(p), 6)


def _new_columns(multi_label: bool, args: argparse.Namespace) -> list[str]:
    columns = ["predicted_labels" if multi_label else "predicted_label", "score"]
    columns += ["abstained", "label_set"] if args.max_risk is not None else []
    columns += ["top_k"] if args.top_k is not None else []
    return columns + (["llm_called", "cost_usd", "llm_missing", "sources"] if args.with_sources else [])


class _Writer(Writer):
    """A `Writer` for other columns than `llm_scores`, which keeps the rows that were answered before an error."""

    def __init__(self, path: Path, table: Table, new: list[str]) -> None:
        super().__init__(path, table.schema())
        first = next(iter(table), None)
        if first is None:
            raise ValueError(f"{table.name} has no rows.")
        if taken := sorted(set(new) & set(first)):
            raise ValueError(f"{table.name} has the columns {taken} already: rename or drop them.")
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
            # What `datasets` and pandas note about columns there says nothing of the new ones: leave it out.
            self._schema = pa.schema([*schema, *fields])
            self._writer = pq.ParquetWriter(self._temporary, self._schema)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def _field(self, field: Any) -> Any:
        """Lists that are empty in all of the first rows, and columns without a value, get the type they will need."""
        import pyarrow as pa

        if pa.types.is_null(field.type):
            return pa.field(field.name, pa.list_(pa.string()) if field.name.endswith("labels") else pa.string())

        empty = pa.types.is_list(field.type) and pa.types.is_null(field.type.value_type)
        kind = pa.float64() if field.name == "score" else pa.string()
        return pa.field(field.name, pa.list_(kind)) if empty else field

    def __exit__(self, kind: Any, *rest: Any) -> None:
        whole = self.path
        if kind is not None:
            self.path = whole.with_name(f"{whole.stem}.partial{whole.suffix}")
        super().__exit__(None, *rest)
        if kind is not None:
            import sys

            print(
                f"The rows that were answered are in {self.path}; LLM answers are in the score store.", file=sys.stderr
            )
