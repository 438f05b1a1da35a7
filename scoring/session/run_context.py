"""`Run`: what a scorer gets with the texts: budget, progress display, deadline."""

import asyncio
import math
import time
from dataclasses import dataclass

from .dollar_budget import Budget
from .progress import Progress


class Dispatch:
    """Records when the request about one text goes out, for a caller that waits with a deadline or a hedged request.

    The scorer calls `send` when a request goes out, and `unsend` when it failed. While no request is out, nothing is
    being paid, and the query may be cancelled. Belongs to the running event loop.

    Args:
        again: A hedged request: an equal query is under way, too slowly. Its answer is not to be waited for.
    """

    def __init__(self, again: bool = False) -> None:
        self.again, self.on_wire, self.sent_at = again, False, time.monotonic()
        self.paid = False  # one of several requests has its reply
        self._withdrawn = False
        self.sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self) -> None:
        """A request goes out.

        Raises:
            asyncio.CancelledError: If the query was withdrawn: the task that sends may not have heard yet that it is
                cancelled.
        """
        if self._withdrawn:
            raise asyncio.CancelledError
        self.on_wire = True
        if not self.sent.done():
            self.sent_at = time.monotonic()
            self.sent.set_result(None)

    def withdraw(self) -> None:
        """From now on, no request goes out."""
        self._withdrawn = True

    def unsend(self) -> None:
        """It failed, and may be sent once more later."""
        self.on_wire = self.paid


@dataclass
class Run:
    """What a scorer respects and reports to during one call of `score`.

    Args:
        budget: Limit in US dollars; other calls may share it. `None`: no limit.
        progress: The progress display.
        dispatch: For a call about a single text, see `Dispatch`.
        deadline: When the answer is of no use any more, by `time.monotonic`. The caller enforces it.
    """

    budget: Budget | None = None
    progress: Progress | None = None
    dispatch: Dispatch | None = None
    deadline: float = math.inf
    halted: bool = False  # no request may go out any more

    def halt(self) -> None:
        """Let nothing new go out."""
        self.halted = True

    @property
    def is_hedge(self) -> bool:
        """Whether an equal query is under way, and its answer is not to be waited for."""
        return self.dispatch is not None and self.dispatch.again
