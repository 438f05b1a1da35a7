"""What a scorer is given with the texts: the budget, the progress display, and who waits until when."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .dollar_budget import Budget


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


class Dispatch:
    """When the request about one text goes out, for somebody who waits for its answer with a deadline or hedges it.

    The scorer calls `send` when a request goes out, and `unsend` when that came to nothing. While none is out, nothing
    is being paid, and the query may be cancelled. Belongs to the running event loop.

    Args:
        again: A hedged request: the same query is under way already, too slowly. Do not wait for that answer.
    """

    def __init__(self, again: bool = False) -> None:
        self.again, self.on_wire, self.sent_at = again, False, time.monotonic()
        self.paid = False  # one of several requests has its reply
        self.sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self) -> None:
        """A request goes out."""
        self.on_wire = True
        if not self.sent.done():
            self.sent_at = time.monotonic()
            self.sent.set_result(None)

    def unsend(self) -> None:
        """It failed, and may be sent once more later."""
        self.on_wire = self.paid


@dataclass
class Run:
    """What a scorer is to respect and to report to during one call of `score`.

    Args:
        budget: Limit in US dollars, shared by everybody who spends from it. `None`: no limit.
        progress: What is shown to the user.
        dispatch: Of a call about one text that somebody waits for, see `Dispatch`.
        deadline: When nobody waits for the answer any more, by `time.monotonic`. Whoever waits gives up by himself.
    """

    budget: Budget | None = None
    progress: Progress | None = None
    dispatch: Dispatch | None = None
    deadline: float = math.inf
    halted: bool = False  # it is being stopped: no request may go out any more

    def halt(self) -> None:
        """Let nothing new go out."""
        self.halted = True

    @property
    def is_hedge(self) -> bool:
        """Whether the same query is under way already, and its answer is not to be waited for."""
        return self.dispatch is not None and self.dispatch.again


@contextmanager
def shown_progress(total: int, progress: bool | Callable[[Progress], Any]) -> Iterator[Progress]:
    """A `Progress` towards `total` pairs: with a bar, reported to a function, or silent."""
    bar = ProgressBar(total) if progress is True else None
    try:
        yield Progress(total, report=bar or (progress if callable(progress) else None))
    finally:
        if bar is not None:
            bar.close()


class ProgressBar:
    """A tqdm bar for `Progress`: rate and time left, dollars, answers from the store, failures."""

    def __init__(self, total: int, description: str = "LLM scores") -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, desc=description, unit="text", mininterval=0.2)

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
