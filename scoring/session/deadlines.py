"""How long to wait for an LLM: deadlines, and hedged requests where the first request is slow."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .cancellation import end_tasks
from .run_context import Dispatch

T = TypeVar("T")

DEADLINE = "deadline"  # the reason for a text whose answer came too late
LEAST = 20  # answers from which the delay of a hedged request is estimated


class Patience:
    """Waits for single answers.

    An answer that comes too late is not cancelled once its request is out: it is being paid for, and goes into the
    score store for the next time. A query whose request is not out yet is cancelled, and costs nothing.

    Args:
        deadline_s: Seconds after which the answer for a text counts as missing; `None`: never.
        hedge_s: Seconds after which the same request is sent once more, and the first answer counts (hedged requests,
            Dean and Barroso 2013, "The tail at scale"); `"p95"`: the time in which 95 % of the answers so far came;
            `None`: never. Both requests are paid.

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
        self._learnt: asyncio.Future[None] | None = None  # done when there are `LEAST` of them
        self.unheard: list[Any] = []  # results that came after the deadline, or second
        self._late: set[asyncio.Future[Any]] = set()  # the loop itself holds tasks only weakly

    @property
    def in_use(self) -> bool:
        """Whether there is a deadline or a hedge."""
        return self.deadline_s is not None or self.hedge_s is not None

    def end(self, waited_s: float = 0.0) -> float:
        """The deadline, by `time.monotonic`, of a query that starts now and has waited `waited_s` before."""
        return math.inf if self.deadline_s is None else time.monotonic() + self.deadline_s - waited_s

    async def first(
        self,
        ask: Callable[[Dispatch], Coroutine[Any, Any, T]],
        end: float | None = None,
        tells_dispatch: bool = False,
        usable: Callable[[Any], bool] = lambda answer: True,
    ) -> tuple[T | None, bool]:
        """The first answer to `ask(dispatch)`.

        Args:
            ask: Queries the LLM; called once more for a hedged request.
            end: When to give up, by `time.monotonic`. Default: `self.end()`.
            tells_dispatch: Whether what `ask` runs tells its `Dispatch` when a request goes out. Otherwise it counts as
                sent at once.
            usable: Whether an answer is one; the other request is waited for where it is not.

        Returns:
            The answer, or `None` if there was none in time; and whether a request went out.
        """
        end = self.end() if end is None else end
        if time.monotonic() >= end:
            return None, False
        asked: dict[asyncio.Task[T], Dispatch] = {}
        try:
            first, watched = _start(ask, tells_dispatch)
            asked[first] = watched
            if self.hedge_s is not None and await self._is_slow(first, watched, end):
                asked.update([_start(ask, tells_dispatch, again=True)])
            while (waiting := {t for t in asked if not t.done()}) and time.monotonic() < end:
                if any(t.done() and (t.exception() is not None or usable(t.result())) for t in asked):
                    break
                await _wait(waiting, end)
        except asyncio.CancelledError:
            await end_tasks(asked)  # what is on the wire is stored first
            raise
        done = [task for task in asked if task.done()]
        for task, dispatch in asked.items():
            if task not in done and dispatch.on_wire:
                self._late.add(task)
                task.add_done_callback(self._forget)
            elif task not in done:
                dispatch.withdraw()
                task.cancel()
        if not done:
            return None, any(dispatch.on_wire for dispatch in asked.values())
        best = next((t for t in done if t.exception() is None and usable(t.result())), done[0])
        for task in done:
            if task is not best:
                self._forget(task)
        sent = any(dispatch.on_wire for dispatch in asked.values())
        if watched.on_wire:  # answers from the store say nothing about the latency
            self._note(time.monotonic() - watched.sent_at)
        return best.result(), sent

    async def _is_slow(self, task: "asyncio.Task[T]", dispatch: Dispatch, end: float) -> bool:
        """Wait until a hedged request is due: not before the first one is out, nor before the delay is known."""
        for event in (dispatch.sent, *([self._enough()] if self.hedge_s == "p95" else [])):
            await _wait({task, event}, end)
            if task.done() or not event.done():
                return False
        await _wait({task}, min(end, dispatch.sent_at + self._delay()))
        return not task.done() and time.monotonic() < end

    def _delay(self) -> float:
        if self.hedge_s == "p95":
            return sorted(self._took)[int(0.95 * len(self._took))] if len(self._took) >= LEAST else math.inf
        return math.inf if self.hedge_s is None else float(self.hedge_s)

    def _enough(self) -> "asyncio.Future[None]":
        if self._learnt is None:
            self._learnt = asyncio.get_running_loop().create_future()
        if len(self._took) >= LEAST and not self._learnt.done():
            self._learnt.set_result(None)
        return self._learnt

    def _note(self, seconds: float) -> None:
        self._took.append(seconds)
        if self.hedge_s == "p95":
            self._enough()

    def _forget(self, task: "asyncio.Future[Any]") -> None:
        self._late.discard(task)
        if not task.cancelled() and task.exception() is None:  # reads the error, so that the loop does not log it
            self.unheard.append(task.result())


def _start(
    ask: Callable[[Dispatch], Coroutine[Any, Any, T]], tells_dispatch: bool, again: bool = False
) -> "tuple[asyncio.Task[T], Dispatch]":
    dispatch = Dispatch(again)
    if not tells_dispatch:
        dispatch.send()
    return asyncio.get_running_loop().create_task(ask(dispatch)), dispatch


async def _wait(futures: "set[Any]", end: float) -> None:
    """Until one of them is done, or `end` has come."""
    timeout = None if math.isinf(end) else max(0.0, end - time.monotonic())
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
