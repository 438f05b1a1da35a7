"""Runs jobs one after the other in this process."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ...pipelines.partitions.partition import Counts
from .jobs import Job, perform

if TYPE_CHECKING:
    from ...scoring.budget import Budget


class Engine(Protocol):
    """Runs jobs, in any order."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Counts]]:
        """Do the jobs. Yields the number of each one that is finished, and what it has taken."""
        ...

    def close(self) -> None:
        """Give what it has used back."""
        ...


class LocalEngine:
    """The model in this process. Its encoder and its LLM requests overlap within a partition.

    Args:
        work: A `PredictWork` or `ScoreWork`.
        budget: Limit in US dollars.
    """

    def __init__(self, work: Any, budget: "Budget | None") -> None:
        self.work, self.budget = work, budget
        self._worker: Any = None

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Counts]]:
        """Do the jobs in order."""
        for number, job in enumerate(jobs):
            if self._worker is None and not job.is_done:
                self._worker = self.work.open()
            yield number, perform(self._worker, job, self.budget)

    def close(self) -> None:
        """Drop the model."""
        self._worker = None
