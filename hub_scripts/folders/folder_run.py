"""Runs `predict` and `score` over a folder: finds the partitions, lets an engine do them, goes on where it was stopped.

Promised: every row of the input is in the output once. A partition is finished when its file is there. Each question is
paid at most once, except those on the wire when a process dies (with a score store that all workers share).
"""

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...pipelines.partitions.partition import Counts, Share, share_of, values_of
from ...scoring.budget import Budget
from ..io.journal import Journal, one_run
from .jobs import Job
from .local_engine import Engine, LocalEngine
from .pieces import Piece, find_pieces, write_file

STATE = "_labelfusion"  # folder in OUT; readers of data sets leave out names that begin with "_"


def run_folder(work: Any, args: argparse.Namespace, settings: dict[str, Any], share: float | None = None) -> int:
    """Do the work on all files of a folder.

    Args:
        work: A `PredictWork` or `ScoreWork`.
        args: Options: `input`, `output`, `overwrite`, `max_cost_usd` and those of `options.add_folder_options`.
        settings: What must match for a run to go on.
        share: Query this share of all texts, exactly.

    Returns:
        1 if some rows may still get an answer: the same command then asks for those alone.
    """
    source, out = Path(args.input), Path(args.output)
    if args.partition_rows < 1:
        raise ValueError(f"`partition_rows` must be positive, got {args.partition_rows}.")
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"`workers` must be positive, got {args.workers}.")
    if args.engine == "local" and (args.address or args.workers):
        raise ValueError("`address` and `workers` are of `--engine ray`; the local engine is one process.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"`OUT` is {str(out)!r}, a file; IN is a folder, so OUT must be one.")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise ValueError(f"`OUT` is {str(out)!r}, within IN: its files would be read as input.")
    with one_run(out / STATE / "run"):
        pieces = find_pieces(source, out, args.partition_rows)
        run = _FolderRun(pieces, out, {**settings, "partition_rows": args.partition_rows}, args)
        return run.all(work, share)


class _FolderRun:
    """One run, or the continuation of one.

    Args:
        pieces: The partitions.
        out: The folder of the results.
        settings: What must match for a run to go on.
        args: The options.
    """

    def __init__(self, pieces: list[Piece], out: Path, settings: dict[str, Any], args: argparse.Namespace) -> None:
        self.pieces, self.out, self.args = pieces, out, args
        self.state = out / STATE
        for draft in out.rglob(".*.tmp"):  # of a run that was killed
            draft.unlink(missing_ok=True)
        begun = (self.state / "journal.jsonl").exists()
        if args.overwrite:
            self._remove()
        elif not begun and (there := [piece.target for piece in pieces if piece.is_finished]):
            raise ValueError(
                f"{there[0]!r} is there already, from no run of this kind; give another OUT, or --overwrite."
            )
        files = {piece.source: Path(piece.source).stat().st_size for piece in pieces}
        settings = {**settings, "input": hashlib.sha256(json.dumps(files).encode()).hexdigest()}
        self.journal = Journal(self.state / "journal.jsonl", settings)

    def all(self, work: Any, share: float | None) -> int:
        """Do what is left. Returns: the exit status."""
        limit = math.inf if self.args.max_cost_usd is None else self.args.max_cost_usd
        earlier = self.journal.spent
        budget = Budget(limit, earlier, self.journal.spend)
        started, before = time.monotonic(), sum(job.is_done for job in self._jobs())
        try:
            with closing(_engine(work, budget, self.args)) as engine:
                shares = None
                if share is not None and before < len(self.pieces):
                    shares = self._first_pass(engine, share)
                for number, counts in self._shown(engine, self._jobs(shares), self.args.verb):
                    self.journal.put({"start": number, **asdict(counts)})
        except BaseException as error:
            self._note(error)
            raise
        finally:
            self.journal.spend(budget.spent)
            if not self.journal.begun and not any(piece.is_finished for piece in self.pieces):
                self.journal.delete()  # so that other settings may be tried
        self._report(before, earlier, time.monotonic() - started)
        shutil.rmtree(self.state / "encoded", ignore_errors=True)
        (self.state / "share.json").unlink(missing_ok=True)
        return int(any(not job.is_done for job in self._jobs()))

    def _jobs(self, shares: list[Share] | None = None, first_pass: bool = False) -> list[Job]:
        """A job for each piece."""
        two_passes = first_pass or shares is not None
        return [
            Job(
                piece,
                str(self.state / "open" / str(number)),
                str(self.state / "encoded" / f"{number}.safetensors") if two_passes else None,
                shares[number] if shares else None,
            )
            for number, piece in enumerate(self.pieces)
        ]

    def _first_pass(self, engine: Engine, share: float) -> list[Share]:
        """Encode all texts, and select those to query."""
        path = self.state / "share.json"
        if not path.exists():
            jobs = self._jobs(first_pass=True)
            for _ in self._shown(engine, jobs, "encode"):
                pass
            shares = share_of([values_of(str(job.encoded)) for job in jobs], share)
            write_file(path, json.dumps([[one.above, one.equal] for one in shares]).encode())
        return [Share(above, equal) for above, equal in json.loads(path.read_text(encoding="utf-8"))]

    def _shown(self, engine: Engine, jobs: list[Job], what: str) -> Iterator[tuple[int, Counts]]:
        """Do the jobs that are not done, with a progress bar in rows."""
        from ...configuration.progress_bar import progress_bar

        numbers = [number for number, job in enumerate(jobs) if not job.is_done]
        total, rows = sum(piece.rows for piece in self.pieces), sum(jobs[n].piece.rows for n in numbers)
        cost = self.journal.spent
        with progress_bar(total, what, "row", initial=total - rows) as bar:
            for place, counts in engine.run([jobs[number] for number in numbers]):
                bar.update(jobs[numbers[place]].piece.rows)
                cost += counts.cost_usd
                bar.set_postfix_str(f"${cost:.4f}", refresh=False)
                yield numbers[place], counts

    def _note(self, error: BaseException) -> None:
        done = sum(piece.is_finished for piece in self.pieces)
        note = f"{done} of {len(self.pieces)} partitions are finished, in {self.out}"
        if isinstance(error, KeyboardInterrupt):
            error.add_note(note)
        else:
            print(f"{note}: the same command goes on there.", file=sys.stderr)

    def _report(self, before: int, earlier: float, seconds: float) -> None:
        """Check what is promised, and print it.

        Raises:
            OSError: If rows are missing from the output.
        """
        import pyarrow.parquet as pq

        rows_in = sum(piece.rows for piece in self.pieces)
        rows_out = sum(pq.ParquetFile(piece.target).metadata.num_rows for piece in self.pieces)
        if rows_in != rows_out:
            raise OSError(f"{self.out} has {rows_out} rows for {rows_in} rows of the input: delete what was changed.")
        total = sum((Counts(**_counts(record)) for record in self.journal.records()), Counts())
        kept = f", {before} of them from an earlier run" if before else ""
        print(
            f"Wrote {self.out}: {rows_in:,} rows in, {rows_out:,} rows out, in {len(self.pieces)} partitions{kept}; "
            f"{seconds:.1f} s."
        )
        spent = max(self.journal.spent, total.cost_usd)
        if total.asked or total.missing or spent:
            paid = f"${spent:.4f}" + (f" in all, ${max(0.0, spent - earlier):.4f} of it in this run" if earlier else "")
            print(f"LLM: {total.asked:,} texts or requests, {paid}; an answer is missing for {total.missing:,} rows.")
            for reason, count in sorted(total.reasons.items(), key=lambda item: -item[1])[:5]:
                print(f"    {count:,} x {reason}")
        if total.still_open:
            print(
                f"{total.still_open:,} rows may still get an answer: the same command asks only for them.",
                file=sys.stderr,
            )

    def _remove(self) -> None:
        for piece in self.pieces:
            Path(piece.target).unlink(missing_ok=True)
        for name in ("encoded", "open"):
            shutil.rmtree(self.state / name, ignore_errors=True)
        for name in ("journal.jsonl", "share.json"):
            (self.state / name).unlink(missing_ok=True)


def _counts(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "start"}


def _engine(work: Any, budget: Budget, args: argparse.Namespace) -> Any:
    if args.engine == "local":
        return LocalEngine(work, budget)
    from .ray_engine import RayEngine

    return RayEngine(work, budget, args.address, args.workers)
