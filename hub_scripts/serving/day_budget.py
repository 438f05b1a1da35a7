"""The money that a server may spend in a day: one budget for all requests, kept over restarts."""

import json
import math
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ...scoring.session.dollar_budget import Budget, BudgetReachedError, Reservation


def utc_day() -> str:
    """The day, such as `2026-01-31`, by UTC."""
    return datetime.now(UTC).date().isoformat()


class DayBudget(Budget):
    """The budget of one day; requests with a limit of their own take a `RequestBudget` of it.

    Args:
        limit: As for `Budget`.
        spent: As for `Budget`.
        note: As for `Budget`.
    """

    def __init__(self, limit: float, spent: float = 0.0, note: Callable[[float], object] | None = None) -> None:
        super().__init__(limit, spent, note)
        self.parts: set[RequestBudget] = set()

    @property
    def named(self) -> str:
        """The limit, for people."""
        return f"the budget of ${self.limit:g} for the day"

    def _next(self) -> None:
        super()._next()
        for part in list(self.parts):
            part._next()


class RequestBudget(Budget):
    """The limit of one request, within the budget of the day. Use as a context manager.

    Args:
        limit: US dollars.
        day: The budget of the day, whose lock it shares.
    """

    def __init__(self, limit: float, day: DayBudget) -> None:
        super().__init__(limit)
        self.day, self._lock = day, day._lock
        self._refused = False  # by the budget of the day

    def __enter__(self) -> "RequestBudget":
        with self._lock:
            self.day.parts.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.day.parts.discard(self)

    @property
    def over(self) -> bool:
        """Whether all is spent, of the request's or the day's."""
        self._refused |= self.day.over
        return super().over or self.day.over

    @property
    def named(self) -> str:
        """The limit that was reached, for people."""
        return self.day.named if self._refused else super().named

    def reserve(self, estimate: float) -> None:
        """As `Budget`, of both."""
        with self._lock:
            super().reserve(estimate)
            try:
                self.day.reserve(estimate)
            except BudgetReachedError:
                self._refused = True
                super().settle(estimate, 0.0)
                raise

    def settle(self, estimate: float, cost: float) -> None:
        """As `Budget`, of both."""
        with self._lock:
            super().settle(estimate, cost)
            self.day.settle(estimate, cost)

    def end(self, reservation: Reservation, cost: float, unsure: bool = False, costlier: bool = False) -> None:
        """As `Budget`, of both."""
        with self._lock:
            self.day.end(reservation, cost, unsure, costlier)
            super().end(reservation, cost, unsure, costlier)

    def _admit(self, new: Reservation) -> bool:
        if not super()._admit(new):
            return False
        try:
            admitted = self.day.take(new)
        except BudgetReachedError:
            self._refused = True
            del self._out[new]
            raise
        if not admitted:
            del self._out[new]
        return admitted


class Days:
    """The budgets of all days of a server.

    Args:
        limit: US dollars a day; infinite: none.
        path: File that keeps what is spent over restarts; `None`: nothing does.
        day: The day, as a text that differs from one day to the next.

    Raises:
        ValueError: If another server uses the file, or it is no such file.
    """

    def __init__(self, limit: float, path: Path | None = None, day: Callable[[], str] = utc_day) -> None:
        self.limit, self.path, self._day = limit, path, day
        self._mutex = threading.Lock()
        self._before = 0.0  # spent on earlier days, since the start
        self._file_lock: FileLock | None = None
        today, spent = day(), 0.0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._hold(path)
            spent = _read(path).get(today, 0.0)
        self._at_start = spent
        self._today = (today, self._budget(today, spent))

    def today(self) -> DayBudget:
        """The budget of this day."""
        with self._mutex:
            name, budget = self._today
            if (now := self._day()) != name:
                self._before += budget.spent
                self._today = (now, self._budget(now, 0.0))
            return self._today[1]

    @property
    def spent(self) -> float:
        """US dollars spent since the start."""
        return self._before + self.today().spent - self._at_start

    def close(self) -> None:
        """Let another server use the file."""
        if self._file_lock is not None:
            self._file_lock.release()

    def _budget(self, day: str, spent: float) -> DayBudget:
        if self.path is None or math.isinf(self.limit):
            return DayBudget(self.limit, spent)
        return DayBudget(self.limit, spent, lambda dollars: self._note(day, dollars))

    def _note(self, day: str, dollars: float) -> None:
        """Called with the budget's lock held, so that notes of a day come in order."""
        if day == self._today[0]:  # a request of yesterday may still be running
            assert self.path is not None
            new = self.path.with_name(self.path.name + ".new")
            new.write_text(json.dumps({"day": day, "spent_usd": dollars}) + "\n", encoding="utf-8")
            os.replace(new, self.path)

    def _hold(self, path: Path) -> None:
        self._file_lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            self._file_lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another server keeps its budget in {path} at this moment: stop it, or name another `budget_file`."
            ) from None
        except NotImplementedError:  # a file system without locks
            pass


def _read(path: Path) -> dict[str, float]:
    """`{day: US dollars}`, empty if there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        day, spent = str(found["day"]), float(found["spent_usd"])
        if not 0 <= spent < math.inf:
            raise ValueError
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ValueError(
            f"{path} does not say what was spent today. Delete it if you know that this was nothing, or name another "
            "`budget_file`."
        ) from None
    return {day: spent}
