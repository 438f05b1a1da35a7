"""What the workers of a cluster share: dollars, requests and tokens a minute, leased by one actor of the cluster."""

import asyncio
import math
import time
import uuid
from typing import TYPE_CHECKING, Any

from ...scoring.session.dollar_budget import Budget

if TYPE_CHECKING:
    from ...scoring.session.dollar_budget import Reservation

LEASES = 100  # parts that a limit is leased in, at least: what a dead worker may keep back


class Lender:
    """Leases to all workers; an actor, so that one call is served after the other.

    Args:
        limit: US dollars for all workers together; infinite: none.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._accounts: dict[str, tuple[float, float]] = {}  # of each worker: leased and spent, US dollars
        self._free_at: dict[str, float] = {}

    def lease(self, worker: str, leased: float, spent: float, wanted: float) -> float:
        """Lease up to `wanted` dollars more, a larger part if there is enough.

        Args:
            worker: Who asks.
            leased: What it has been leased so far, less than before if it gives some back.
            spent: Of these, spent.
            wanted: What it needs besides; 0 to give back, or to report.

        Returns:
            US dollars.
        """
        self._accounts[worker] = (leased, spent)
        if wanted <= 0:
            return 0.0
        granted = max(0.0, min(max(wanted, self.limit / LEASES), self.limit - self.committed()))
        self._accounts[worker] = (leased + granted, spent)
        return granted

    def committed(self) -> float:
        """US dollars that are spent, or leased: those of a worker that has died count as spent."""
        return sum(max(leased, spent) for leased, spent in self._accounts.values())

    def turn(self, name: str, per_minute: float, units: float) -> float:
        """Seconds until `units` more requests or tokens may be used, of all workers together `per_minute`."""
        now = time.monotonic()
        start = max(now, self._free_at.get(name, 0.0))
        self._free_at[name] = start + units * 60.0 / per_minute
        return start - now


class LentRates:
    """The rates of a lender, for `scoring.session.limits.share_rates`.

    Args:
        lender: Handle of the actor.
    """

    def __init__(self, lender: Any) -> None:
        self._lender = lender

    async def wait_s(self, name: str, per_minute: float, units: float) -> float:
        """Seconds to wait for a turn."""
        return float(await asyncio.wrap_future(self._lender.turn.remote(name, per_minute, units).future()))


class LeasedBudget(Budget):
    """A budget of one worker, leased from that of all.

    What all workers spend is at most the limit, and the cost of one request for each worker.

    Args:
        lender: Handle of the actor.
        limit: US dollars of all workers together.
    """

    def __init__(self, lender: Any, limit: float) -> None:
        super().__init__(0.0 if math.isfinite(limit) else math.inf)
        self._lender, self._whole = lender, limit
        self._worker = uuid.uuid4().hex
        self._asked_in_vain = -math.inf

    @property
    def whole(self) -> float:
        """US dollars of all workers together."""
        return self._whole

    @property
    def over(self) -> bool:
        """Whether all is spent, and there is no more."""
        return self.spent >= self.limit and self._is_refused()

    def settle_up(self) -> None:
        """Give back what is not spent; with nothing on its way."""
        import ray

        with self._lock:
            if math.isfinite(self.limit) and not self._out:
                self.limit = min(self.limit, self.spent)
                ray.get(self._lender.lease.remote(self._worker, self.limit, self.spent, 0.0))

    def _is_refused(self) -> bool:
        return time.monotonic() - self._asked_in_vain < 10.0

    def _admit(self, new: "Reservation") -> bool:
        if not new.costs.free and math.isfinite(self._whole):
            enough, left = new.enough(), self.limit - self.spent
            if math.isinf(enough):  # nothing is known yet: it goes out alone
                self._borrow(0.0 if self._out or left > 0 else self._whole / LEASES)
            else:
                self._borrow(self.reserved + enough - left)
        return super()._admit(new)

    def _borrow(self, missing: float) -> None:
        import ray

        if missing > 0 and not self._is_refused():
            granted = float(ray.get(self._lender.lease.remote(self._worker, self.limit, self.spent, missing)))
            self.limit += granted
            if granted < missing:
                self._asked_in_vain = time.monotonic()
