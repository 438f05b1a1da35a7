"""One step of a run on one partition: read it, work, write the result. Every engine runs this same function."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipelines.partitions.partition import Counts, Encoded, PredictWorker, Share
from .pieces import Piece, read_piece, write_file

if TYPE_CHECKING:
    from ...scoring.budget import Budget


@dataclass(frozen=True)
class Job:
    """What is to be done with a piece.

    Args:
        piece: The rows.
        encoded: File of the first pass of a share; None: there is only one pass.
        share: What to query in the second pass; None with `encoded`: this is the first pass.
        marker: Empty file that says that rows of the result may still get an answer.
    """

    piece: Piece
    marker: str
    encoded: str | None = None
    share: Share | None = None

    @property
    def is_first_pass(self) -> bool:
        """Whether the texts are only encoded."""
        return self.encoded is not None and self.share is None

    @property
    def is_done(self) -> bool:
        """Whether the result is there, and as complete as it can be."""
        if self.is_first_pass:
            return os.path.exists(str(self.encoded))
        return self.piece.is_finished and not os.path.exists(self.marker)


def perform(worker: Any, job: Job, budget: "Budget | None" = None) -> Counts:
    """Do a job, unless its result is there already.

    Args:
        worker: A `PredictWorker` or `ScoreWorker`.
        job: The job.
        budget: Limit in US dollars.
    """
    if job.is_done:
        return Counts()
    piece = job.piece
    try:
        table = read_piece(piece)
        if job.is_first_pass:
            assert isinstance(worker, PredictWorker)
            write_file(str(job.encoded), worker.encode(table).to_bytes())
            return Counts()
        if job.encoded is not None:
            known = Encoded.from_file(job.encoded)
            out, counts = worker.classify(table, budget, known, job.share)
        else:
            out, counts = worker.classify(table, budget)
    except ValueError as error:
        where = f"{piece.source}, rows {piece.start} to {piece.start + piece.rows - 1}"
        raise ValueError(f"{where}: {error}") from error
    if counts.still_open:  # before the result, so that a kill between the two leaves the piece open
        write_file(job.marker, b"")
    write_file(piece.target, out)
    if not counts.still_open:
        Path(job.marker).unlink(missing_ok=True)
    return counts
