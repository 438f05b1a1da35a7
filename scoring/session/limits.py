"""Rate limits (requests and tokens a minute, spread evenly) and the limit of concurrent requests."""

import asyncio
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol

from .cancellation import go_on_wire
from .dollar_budget import Reservation

# Of the request that the running task sends. A context variable, because the HTTP clients stand between the two ends.
current_reservation: ContextVar[Reservation | None] = ContextVar("labelfusion_reservation", default=None)


_shared: "SharedRates | None" = None


class SharedRates(Protocol):
    """Rates that this process shares with others."""

    async def wait_s(self, name: str, per_minute: float, units: float) -> float:
        """Seconds to wait until `units` more may be used, of all processes together `per_minute`."""
        ...


def share_rates(rates: SharedRates | None) -> None:
    """From now on, the rate limits of this process are those of `rates`."""
    global _shared
    _shared = rates


class RateLimit:
    """At most `per_minute` units a minute; `None` is no limit. For use on one event loop.

    Args:
        per_minute: Units a minute.
        name: What is limited, for rates that are shared between processes.
    """

    def __init__(self, per_minute: float | None, name: str = "") -> None:
        self.per_minute, self.name = per_minute, name
        self.interval = 60.0 / per_minute if per_minute else 0.0
        self.free_at = 0.0

    async def acquire(self, units: float = 1.0) -> None:
        """Wait until `units` more may be used."""
        if self.per_minute and _shared is not None:
            await asyncio.sleep(await _shared.wait_s(self.name, self.per_minute, units))
        elif self.interval:
            start = max(time.monotonic(), self.free_at)
            self.free_at = start + units * self.interval
            await asyncio.sleep(max(0.0, start - time.monotonic()))


class Slots:
    """At most `number` concurrent requests, and none while the server has asked to wait.

    A request reserves its cost when it has a slot. While it waits for money, others may use the slot.

    Held only from the first byte sent to the last byte received, so that preparing a request and storing an answer,
    which share one thread, do not keep the next request from leaving. Requests take turns, with a look at the sockets
    between two of them: if many were prepared at once, the first replies would wait, and be lost in a kill.
    """

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)
        self._turn = asyncio.Lock()
        self._not_before = 0.0

    def pause(self, seconds: float) -> bool:
        """Let no request leave for `seconds`: a server's limit counts for the account, not for one request.

        Returns:
            Whether the pause is more than a second longer than the one known before.
        """
        until, known = time.monotonic() + seconds, self._not_before
        self._not_before = max(known, until)
        return until > known + 1.0

    async def __aenter__(self) -> None:
        await self._free.acquire()
        try:
            if (reservation := current_reservation.get()) is not None and not reservation.take():
                self._free.release()
                try:
                    await reservation.wait()
                finally:
                    await self._free.acquire()
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if reservation is not None:
                reservation.send()
        except BaseException:
            self._free.release()
            raise
        go_on_wire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._free.release()

    async def turn(self) -> None:
        """Wait until the requests before have gone on, and what came in meanwhile is read."""
        async with self._turn:
            await asyncio.sleep(0)
