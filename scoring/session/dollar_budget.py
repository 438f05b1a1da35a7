"""The budget of a run: a request goes out only when the money that it may cost is there (see `cost_forecast`).

Far from the limit no request waits; near it, they go out one by one.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable

from ..reasons import Missing, MissingKind
from ..score_batch import Usage
from .cost_forecast import PROVEN_AT_MOST, SEEN_FOR_EACH, Costs, Need

NOTE_AHEAD = 1.005  # share by which what is noted is ahead of what is spent


class BudgetReachedError(Exception):
    """The next request would probably spend more than is allowed.

    Args:
        missing: The reason for the texts of the request.

    `usage` is what failed attempts before it have cost.
    """

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing)
        self.missing, self.usage = missing, Usage()


class Budget:
    """A limit in US dollars: what is spent is never above it by more than one request costs.

    One budget serves any number of scorers, event loops and threads.

    Args:
        limit: US dollars; infinite: none, but what is spent is counted.
        spent: Of these, already spent.
        note: Called with US dollars, at least those spent and on their way, and little more: keeps them on disk. After
            an `OSError` of it nothing goes out until it works again.

    Raises:
        ValueError: For a limit that is not a number from 0.
    """

    def __init__(self, limit: float, spent: float = 0.0, note: Callable[[float], object] | None = None) -> None:
        if not limit >= 0:
            raise ValueError(f"`max_cost_usd` must not be negative, got {limit!r}.")
        self.limit, self.spent = limit, spent
        self.unsure = 0.0  # of what is spent: for requests without a reply, which may have been billed
        self._note, self._noted = note, spent
        self._unnoted: OSError | None = None  # what was spent could not be noted
        self._lock = threading.RLock()
        self._aside = 0.0  # by `reserve`
        self._out: dict[Reservation, float] = {}  # requests on their way, and what is set aside for them
        self._waiting: deque[Reservation] = deque()

    @property
    def whole(self) -> float:
        """US dollars of the limit, of which this may be a part."""
        return self.limit

    @property
    def named(self) -> str:
        """The limit, for people."""
        return f"`max_cost_usd` of ${self.whole:g}"

    @property
    def reserved(self) -> float:
        """US dollars set aside."""
        with self._lock:
            return self._aside + sum(self._out.values())

    @property
    def left(self) -> float:
        """US dollars that are neither spent nor set aside."""
        return self.limit - self.spent - self.reserved

    @property
    def over(self) -> bool:
        """Whether all is spent, whatever requests on their way will cost."""
        return self.spent >= self.limit

    def told(self) -> str:
        """What is spent, for people."""
        limit = f" of ${self.whole:g}" if math.isfinite(self.whole) else ""
        unsure = f", ${self.unsure:.4g} of it for requests without a reply, which may have been billed"
        return f"${self.spent:.4g}{limit} spent{unsure if self.unsure else ''}"

    def reserve(self, estimate: float) -> None:
        """Set `estimate` dollars aside for a request whose cost is known.

        Raises:
            BudgetReachedError: If the limit does not allow it.
        """
        with self._lock:
            if estimate > self.left:
                raise self._reached()
            self._aside += estimate

    def settle(self, estimate: float, cost: float) -> None:
        """Replace what `reserve` set aside by what the request cost."""
        with self._lock:
            self._aside -= estimate
            self._spend(cost)

    def take(self, reservation: "Reservation") -> bool:
        """Set money aside for a request. Returns: whether it may go out at once.

        Raises:
            BudgetReachedError: If it will probably cost more than is left, whatever the others cost.
        """
        with self._lock:
            if self._waiting and not reservation.costs.free:
                return False
            return self._admit(reservation)

    def queue(self, reservation: "Reservation") -> None:
        """Let a request wait: the requests on their way may cost less than is set aside for them."""
        with self._lock:
            self._waiting.append(reservation)
            self._next()

    def end(self, reservation: "Reservation", cost: float, unsure: bool = False, costlier: bool = False) -> None:
        """A request has ended, or waits no more.

        Args:
            reservation: Its reservation.
            cost: US dollars.
            unsure: The cost is not known; it may be nothing.
            costlier: Others like it may cost more than was set aside for them.
        """
        with self._lock:
            if reservation in self._waiting:
                self._waiting.remove(reservation)
                self._next()
            if self._out.pop(reservation, None) is not None:
                self.unsure += cost if unsure else 0.0
                if costlier and math.isfinite(self.limit):
                    self._out.update({other: max(kept, other.enough()) for other, kept in self._out.items()})
                self._spend(cost)

    def _spend(self, cost: float) -> None:
        self.spent += cost
        self._keep()
        self._next()

    def _admit(self, new: "Reservation") -> bool:
        enough = 0.0
        if not new.costs.free and math.isfinite(self.limit):
            left = self.limit - self.spent
            if left <= 0 or new.expected() > left:
                new.refused = self._reached()
                raise new.refused
            others = [request.costs.seen for request, kept in self._out.items() if kept > 0]  # whatever their kind
            least = min([new.costs.seen, *others])  # a surprise may come from the kind that is known least
            enough = new.enough(len(others) < max(1, min(least // SEEN_FOR_EACH, PROVEN_AT_MOST)))
            if (self._out or self._aside) and self.reserved + enough > left:
                return False
        self._out[new] = enough
        self._keep()
        if self._unnoted is not None:
            del self._out[new]
            why = self._unnoted.strerror or self._unnoted
            reason = Missing(MissingKind.UNRECORDED, f"what is spent cannot be noted ({why})")
            new.refused = BudgetReachedError(reason)
            raise new.refused
        return True

    def _next(self) -> None:
        """Let the requests go out that are next and affordable."""
        while self._waiting:
            first, error = self._waiting[0], None
            try:
                if not self._admit(first):
                    return
            except BudgetReachedError as reached:
                error = reached
            self._waiting.popleft()
            first.call(error)

    def _keep(self) -> None:
        """Note what is spent and on its way, a little ahead, so that the note holds whenever the process dies."""
        if self._note is not None:
            spent = self.spent + sum(request.expected() for request in self._out)
            if spent > self._noted:
                try:
                    self._note(spent * NOTE_AHEAD)
                    self._noted, self._unnoted = spent * NOTE_AHEAD, None
                except OSError as error:  # must not lose the replies that are on their way
                    self._unnoted = error

    def _reached(self) -> BudgetReachedError:
        return BudgetReachedError(Missing(MissingKind.BUDGET, f"budget of ${self.whole:g} reached"))


class Reservation:
    """The money of one request: set aside when it goes out, settled when it has ended.

    Args:
        budget: The run's; None: there is no limit.
        costs: What requests like it have cost.
        need: Its tokens.
        on_send: Called when the request goes out.
    """

    def __init__(
        self, budget: Budget | None, costs: Costs, need: Need, on_send: Callable[[], None] | None = None
    ) -> None:
        self.budget, self.costs, self.need = budget, costs, need
        self._on_send = on_send
        self.sent = False  # it is on the wire
        self.refused: BudgetReachedError | None = None  # kept here, because HTTP clients wrap exceptions
        self._turn: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def expected(self) -> float:
        """US dollars that it is likely to cost."""
        return self.costs.expected(self.need)

    def enough(self, proven: bool = True) -> float:
        """US dollars to set aside for it."""
        return self.costs.enough(self.need, proven)

    def take(self) -> bool:
        """Whether the request may go out at once; otherwise `wait`.

        Raises:
            BudgetReachedError: If the limit does not allow it.
        """
        return self.budget is None or self.budget.take(self)

    async def wait(self) -> None:
        """Wait until the request may go out.

        Raises:
            BudgetReachedError: If the limit does not allow it.
        """
        assert self.budget is not None
        self._loop = asyncio.get_running_loop()
        self._turn = self._loop.create_future()
        self.budget.queue(self)
        await self._turn

    def call(self, error: BudgetReachedError | None) -> None:
        """End its waiting; from any thread."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._called, error)
        except RuntimeError:  # its loop is closed: no task waits any more
            if self.budget is not None:
                self.budget.end(self, 0.0)

    def _called(self, error: BudgetReachedError | None) -> None:
        assert self._turn is not None
        if self._turn.done():  # cancelled; `close` gives the money back
            return
        if error is None:
            self._turn.set_result(None)
        else:
            self._turn.set_exception(error)

    def send(self) -> None:
        """The request goes out. `on_send` may raise instead."""
        if self._on_send is not None:
            self._on_send()
        self.sent = True

    def settle(self, usage: Usage) -> None:
        """The reply is there, with its cost."""
        costlier = self.costs.learn(self.need, usage.prompt_tokens, usage.completion_tokens)
        self._end(usage.cost_usd, costlier=costlier)

    def close(self, billed: bool | None = None) -> None:
        """No cost was reported. `billed`: whether there may be one; None: if the request went out."""
        unsure = self.sent if billed is None else billed
        self._end(self.costs.likely(self.need) if unsure else 0.0, unsure=unsure)

    def _end(self, cost: float, unsure: bool = False, costlier: bool = False) -> None:
        budget, self.budget = self.budget, None
        if budget is not None:
            budget.end(self, cost, unsure, costlier)


def as_budget(max_cost_usd: float | Budget | None) -> Budget | None:
    """The budget of a run.

    Raises:
        ValueError: For a `max_cost_usd` that is not a number from 0.
    """
    if max_cost_usd is None or hasattr(max_cost_usd, "reserve"):
        return max_cost_usd  # type: ignore[return-value]
    if not isinstance(max_cost_usd, int | float) or isinstance(max_cost_usd, bool) or not max_cost_usd >= 0:
        raise ValueError(f"`max_cost_usd` must be US dollars, 0 or more, or None; got {max_cost_usd!r}.")
    return Budget(max_cost_usd)
