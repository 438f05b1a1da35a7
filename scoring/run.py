"""What the scorers of one `score_texts` call share: the budget and the progress display."""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .budget import Budget, Reservation


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


@dataclass
class Run:
    """Shared state of one `score_texts` call."""

    budget: Budget | None = None
    progress: Progress | None = None
    halted: bool = False  # it is being stopped: no request may go out any more

    def halt(self) -> None:
        """Let nothing new go out."""
        self.halted = True


class Question:
    """A question that somebody keeps the time of. Belongs to the running event loop.

    The scorer that answers it tells when a request goes out (`send`), and when that came to nothing (`unsend`). While
    none is out, nothing is being paid, and the question may be cancelled.

    Args:
        again: The same is being asked already, too slowly: do not wait for that answer.
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


current_run: ContextVar[Run] = ContextVar("labelfusion_run")
current_question: ContextVar[Question | None] = ContextVar("labelfusion_question", default=None)
current_reservation: ContextVar[Reservation | None] = ContextVar("labelfusion_reservation", default=None)


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
