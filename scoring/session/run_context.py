"""What a scorer is given with the texts: the budget, the progress display, and who waits until when."""

import asyncio
import math
import time
from dataclasses import dataclass

from .dollar_budget import Budget
from .progress import Progress


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
