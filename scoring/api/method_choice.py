"""Which method `auto` uses: found on the first texts of a run, best method first, and remembered for the next one."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

from ..methods.request_method import UnansweredError, UnsupportedError
from ..reasons import Missing
from ..score_batch import ScoringError
from ..store.stored_answers import Store
from .questions import Questions

logger = logging.getLogger(__name__)

PROBES = 3  # texts on which a method, or an API in trouble, is tried before it is given up
CONFIRMED = 2  # texts on which a server must say that it does not offer a method: one may have a fault of its own

_remembered: dict[bytes, str] = {}  # methods found in this process; the store keeps them for the next


class Verdict(Enum):
    """The outcome of a query about one text."""

    ANSWERED = auto()
    SETTLED = auto()  # no answer because of the text: too long, or filtered
    TROUBLE = auto()  # no answer because of the API, or the budget


@dataclass
class Found:
    """What `MethodChoice.find` found.

    Args:
        method: The method for the rest of the texts; None if there is none yet.
        left: Rows that are still to be answered.
        unread: `{row: reason}` of rows whose answers could not be read. They are paid, and not queried again.
        trouble: Whether the API is in trouble.
    """

    method: str | None
    left: list[int]
    unread: dict[int, Missing] = field(default_factory=dict)
    trouble: bool = False


class MethodChoice:
    """The method of one provider.

    Args:
        questions: The queries of the provider.
        declared: The method that its declaration names, or `"auto"`.
    """

    def __init__(self, questions: Questions, declared: str) -> None:
        self.questions = questions
        self.chosen = None if declared == "auto" else declared
        self.recalled = False  # whether the choice is an old one, not confirmed in this process yet
        self._refused: Counter[str] = Counter()  # texts on which the server did not offer a method
        self._unread: Counter[str] = Counter()  # texts on which the answers could not be read
        self._said: set[str] = set()

    async def recall(self, store: Store | None) -> str | None:
        """The choice; of an earlier run, if there is none of this one."""
        if self.chosen is None:
            key = self.questions.model_key()
            name = _remembered.get(key) or (await asyncio.to_thread(store.get_method, key) if store else None)
            if name in {method.name for method in self.questions.methods()}:
                self.chosen, self.recalled = name, True
        return self.chosen

    async def forget(self, store: Store | None) -> None:
        """Drop a choice that does not work any more: the server has changed."""
        self.chosen, self.recalled = None, False
        _remembered.pop(self.questions.model_key(), None)
        if store is not None:
            await asyncio.to_thread(store.forget_methods, self.questions.model_key())

    async def find(
        self,
        rows: Iterable[int],
        ask: Callable[[str, int, bool], Awaitable[Verdict]],
        store: Store | None,
    ) -> Found:
        """Query the first of `rows` until a method works.

        A method is given up where the server does not offer it, on two texts, or where nobody can read the answers, on
        three. With fewer texts than that, the next method serves this call, and nothing is remembered.

        Args:
            rows: The rows to answer.
            ask: `(method, row, last)` queries a row; `last`: no other method is left after this one.
            store: Where the choice is kept.

        Raises:
            ScoringError: If no method is offered.
        """
        left, reasons, certain = list(rows), [], True
        names = [method.name for method in self.questions.methods()]
        for name in names:
            unread: dict[int, Missing] = {}
            trouble, refused, unreadable = 0, False, ""
            if left and not self._given_up(name):
                self._say(f"trying the method {name!r}")
            for row in list(left) if not self._given_up(name) else []:
                try:
                    verdict = await ask(name, row, name == names[-1])
                except UnsupportedError as error:
                    self._refused[name] += 1
                    refused = True
                    reasons.append(f"{name}: {error}")
                except UnansweredError as error:
                    self._unread[name] += 1
                    unread[row], unreadable = error.missing, error.reason
                else:
                    left.remove(row)
                    if verdict is Verdict.ANSWERED:
                        self._say(f"the method {name!r} works")
                        if certain:
                            await self._remember(store, name)
                        return Found(name, [row for row in left if row not in unread], unread)
                    trouble += verdict is Verdict.TROUBLE
                    if trouble == PROBES:
                        return Found(None, [], unread, trouble=True)
                if self._given_up(name):
                    why = reasons[-1].partition(": ")[2] if self._refused[name] >= CONFIRMED else unreadable
                    self._say(f"the method {name!r} is left: {why}")
                    break
            if not left:
                return Found(None, [], trouble=trouble > 0)
            if not self._given_up(name):
                if not refused or name == names[-1]:
                    return Found(None, [], unread)
                certain = False
            elif name == names[-1] and unread:
                return Found(None, [], unread, trouble=True)
        raise ScoringError(f"it offers none of the methods: {'; '.join(dict.fromkeys(reasons))}")

    def _say(self, what: str) -> None:
        """Log what is tried, each message once."""
        if what not in self._said:
            self._said.add(what)
            logger.info("%s: %s", self.questions.provider.name, what)

    def _given_up(self, name: str) -> bool:
        return self._refused[name] >= CONFIRMED or self._unread[name] >= PROBES

    async def _remember(self, store: Store | None, name: str) -> None:
        self.chosen = _remembered[self.questions.model_key()] = name
        if store is not None:
            with suppress(ScoringError):  # it works all the same
                await asyncio.to_thread(store.put_method, self.questions.model_key(), self.questions.model_name(), name)
