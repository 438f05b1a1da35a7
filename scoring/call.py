"""What one `score` call of an `APIScorer` has found out so far."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .base import ScoringError, Usage
from .engine import Outcome
from .prompts import Example
from .run import Run


@dataclass
class Call:
    """State of one `score` call; rows are those of its distinct texts."""

    texts: list[str]
    neighbours: list[list[Example]]
    scores: NDArray[np.float32]
    run: Run
    keys: dict[int, bytes] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    cached: int = 0
    failures: int = 0  # in a row
    stopped: str | None = None  # why no more is asked
    broken: ScoringError | None = None  # where that is because nothing can work any more
    asked: bool = False  # something
    unpaid: str | None = None  # the reason of rows that there was no money for

    def open(self, rows: list[int]) -> list[int]:
        """Those of `rows` without an outcome."""
        return [row for row in rows if row not in self.errors and np.isnan(self.scores[row]).any()]

    def unkept(self, error: str) -> None:
        """Nothing can be stored: what is paid is returned, and no more is asked that would be lost with the process."""
        self.stopped = self.stopped or f"no answer can be kept. {error}"

    def pay(self, usage: Usage) -> None:
        """Count what a request has cost."""
        self.usage += usage
        if self.run.progress:
            self.run.progress.add(cost_usd=usage.cost_usd)

    def note(self, row: int, outcome: Outcome, cached: bool = False) -> None:
        """Note the scores of a row, or the reason why it has none."""
        failed = isinstance(outcome, str)
        if isinstance(outcome, str):
            self.errors[row] = outcome
        else:
            self.scores[row] = outcome
            self.failures = 0
        self.cached += cached and not failed
        if self.run.progress:
            self.run.progress.add(done=1, cached=int(cached and not failed), failed=int(failed))
