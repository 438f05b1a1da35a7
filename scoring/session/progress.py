"""How far a run has come, and its progress bar."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...configuration.progress_bar import progress_bar


@dataclass
class Progress:
    """How far a run has come. Counts are of (text, provider) pairs.

    Args:
        total: Pairs to answer.
        done: Pairs finished in any way.
        cached: Of these, answered from the score store.
        failed: Of these, without an answer.
        cost_usd: Dollars spent.
        report: Called with this object after every step.
    """

    total: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    cost_usd: float = 0.0
    report: Callable[["Progress"], Any] | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return self.done / max(self.elapsed_s, 1e-9)

    def add(self, done: int = 0, cached: int = 0, failed: int = 0, cost_usd: float = 0.0) -> None:
        """Count and report."""
        self.done += done
        self.cached += cached
        self.failed += failed
        self.cost_usd += cost_usd
        if self.report is not None:
            self.report(self)


class ProgressBar:
    """A bar for `Progress`: rate and time left, dollars, answers from the store, failures."""

    def __init__(self, total: int, description: str = "LLM scores") -> None:
        self._bar = progress_bar(total, description)

    def __call__(self, progress: Progress) -> None:
        """Show `progress`."""
        notes = f"${progress.cost_usd:.4f}, {progress.cached} cached, {progress.failed} failed"
        self._bar.set_postfix_str(notes, refresh=False)
        self._bar.total = max(progress.total, progress.done)
        self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self._bar.refresh()
        self._bar.close()


@contextmanager
def shown_progress(total: int, progress: bool | Callable[[Progress], Any]) -> Iterator[Progress]:
    """A `Progress` towards `total` pairs: with a bar, reported to a function, or silent."""
    bar = ProgressBar(total) if progress is True else None
    try:
        yield Progress(total, report=bar or (progress if callable(progress) else None))
    finally:
        if bar is not None:
            bar.close()
