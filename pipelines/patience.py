"""How long to wait for an LLM: deadlines, and a second request where the first one is slow."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

DEADLINE = "deadline"  # the reason that a text is given whose answer came too late
LEAST = 20  # answers from which the delay of a second request is learnt


class Patience:
    """Waits for answers, each text's by itself.

    What comes too late is not cancelled: it is being paid for, and goes into the score store for the next time.

    Args:
        deadline_s: Seconds after which a text goes without its answer; `None`: never.
        hedge_s: Seconds after which the same is asked once more, and the first answer counts (hedged requests, Dean and
            Barroso 2013, "The tail at scale"); `"p95"`: as long as 95 % of the answers so far took; `None`: never. Both
            requests are paid.

    Raises:
        ValueError: For anything else.
    """

    def __init__(self, deadline_s: float | None = None, hedge_s: float | str | None = None) -> None:
        for name, value in (("deadline_s", deadline_s), ("hedge_s", None if hedge_s == "p95" else hedge_s)):
            number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            if value is not None and not number:
                hint = ", 'p95'" if name == "hedge_s" else ""
                raise ValueError(f"`{name}` must be seconds above 0{hint} or None, got {value!r}.")
        self.deadline_s, self.hedge_s = deadline_s, hedge_s
        self._took: deque[float] = deque(maxlen=1000)
        self.unheard: list[Any] = []  # results that nobody waited for
        self._late: set[asyncio.Future[Any]] = set()  # the loop itself holds tasks only weakly

    @property
    def in_use(self) -> bool:
        """Whether there is anything to watch."""
        return self.deadline_s is not None or self.hedge_s is not None

    async def first(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """The first answer to `ask()`, or `None` if the deadline passes."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        end = math.inf if self.deadline_s is None else started + self.deadline_s
        tasks = {loop.create_task(ask())}
        try:
            done = await _wait(tasks, min(self._delay(), end - started))
            if not done and loop.time() < end:
                tasks.add(loop.create_task(ask()))
                done = await _wait(tasks, end - loop.time())
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for task in tasks - done:
            self._late.add(task)
            task.add_done_callback(self._forget)
        if not done:
            return None
        self._took.append(loop.time() - started)
        for task in list(done)[1:]:
            self._forget(task)
        return next(iter(done)).result()

    def _delay(self) -> float:
        if self.hedge_s == "p95":
            return sorted(self._took)[int(0.95 * len(self._took))] if len(self._took) >= LEAST else math.inf
        return math.inf if self.hedge_s is None else float(self.hedge_s)

    def _forget(self, task: "asyncio.Future[Any]") -> None:
        self._late.discard(task)
        if not task.cancelled() and task.exception() is None:  # an error is seen: the loop need not complain about it
            self.unheard.append(task.result())


async def _wait(tasks: "set[asyncio.Task[T]]", seconds: float) -> "set[asyncio.Task[T]]":
    timeout = None if math.isinf(seconds) else max(0.0, seconds)
    return (await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED))[0]
