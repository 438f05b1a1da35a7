"""Who queries what, so that nothing is paid twice: within an event loop by futures, between processes by claims."""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ..reasons import Missing
from ..score_batch import ScoringError
from ..store.claims import CLAIM_S, owner_name
from ..store.stored_answers import Answer, Look, Store, StoreBusyError, question_key
from .client import Client

logger = logging.getLogger(__name__)

Outcome = NDArray[np.float32] | Missing  # scores `(K,)`, or the reason why there are none
T = TypeVar("T")
POLL_S = 0.05, 0.25  # seconds between two looks at what other processes do: at first, and at most
_boards: "WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[object, Board]]" = WeakKeyDictionary()
_board_numbers = itertools.count()


class Board:
    """The queries under way of all scorers with the same store on one event loop.

    Args:
        store: The store; None: nothing is kept or shared.
    """

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.asking: dict[bytes, asyncio.Future[Outcome | None]] = {}
        self.subjects: dict[bytes, asyncio.Lock] = {}
        self.held: set[bytes] = set()  # claims in the store
        self.unsaved: dict[bytes, Answer] = {}  # paid, but the store cannot be written
        self.owner = owner_name(next(_board_numbers))
        self.flushing = asyncio.Lock()
        self._beat: asyncio.TimerHandle | None = None

    def hold(self, keys: Iterable[bytes]) -> None:
        """Keep claims alive until `drop`."""
        self.held.update(keys)
        if self._beat is None and self.held:
            self._beat = asyncio.get_running_loop().call_later(CLAIM_S / 3, self._extend)

    def drop(self, keys: Iterable[bytes]) -> None:
        """These claims have ended."""
        self.held.difference_update(keys)

    def _extend(self) -> None:
        self._beat = None
        if not self.held or self.store is None:
            return
        store, loop = self.store, asyncio.get_running_loop()
        try:
            store.extend(self.held, self.owner, wait=False)
        except StoreBusyError:
            loop.run_in_executor(None, _extend_patiently, store, list(self.held), self.owner)
        except ScoringError:  # storing the answers will report it
            pass
        self._beat = loop.call_later(CLAIM_S / 3, self._extend)


def _extend_patiently(store: Store, keys: list[bytes], owner: str) -> None:
    with suppress(ScoringError):
        store.extend(keys, owner)


def shared_board(store: Store | None) -> Board:
    """The board of the running loop for a store, however many objects open it."""
    if store is None:
        return Board(None)
    boards = _boards.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    key = store.identity
    board = boards.get(key)
    if board is None:
        boards[key] = board = Board(store)
    return board


class Coordinator:
    """What one scorer uses on one event loop.

    Args:
        client: Sends the questions.
        store: The score store.
        num_labels: K; stored scores of another number are damaged.
        multi_label: Otherwise they sum to 1.
    """

    def __init__(self, client: Client, store: Store | None, num_labels: int, multi_label: bool) -> None:
        self.client, self.board = client, shared_board(store)
        self.store = self.board.store
        self._checks = num_labels, not multi_label

    async def stored(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Scores of the questions that are in the store, or could not be put there."""
        unsaved = {key: self.board.unsaved[key].scores for key in keys if key in self.board.unsaved}
        if self.store is None:
            return unsaved
        return await asyncio.to_thread(self.store.get_many, keys, *self._checks) | unsaved

    # Within this process: futures.

    def start(self, key: bytes) -> "asyncio.Future[Outcome | None] | None":
        """Announce a query of the caller; or, if an equal one is under way, return the future of its outcome.

        The future holds None if the other call has given up.
        """
        if key in self.board.asking:
            return self.board.asking[key]
        self.board.asking[key] = asyncio.get_running_loop().create_future()
        return None

    def tell(self, key: bytes, outcome: Outcome | None) -> None:
        """Pass an outcome to the calls that wait for the same query."""
        future = self.board.asking.get(key)
        if future is not None and not future.done():
            future.set_result(outcome)

    def finish(self, key: bytes) -> None:
        """End what `start` began, after `tell` or without an outcome."""
        self.tell(key, None)
        self.board.asking.pop(key, None)

    # Between processes: claims in the store.

    async def claim(self, keys: Sequence[bytes]) -> Look:
        """Claim the queries that no other process makes, and look them up in the store once more.

        Raises:
            ScoringError: If nothing can be written; nothing should be paid for then.
        """
        store = self.store
        if store is None:
            return Look(free=set(keys))
        if self.board.unsaved:
            await self._flush()
        self.board.hold(keys)
        look = await self._write(lambda wait: store.claim(keys, self.board.owner, *self._checks, wait=wait))
        self.board.drop([*look.found, *look.taken])
        return look

    async def change(self, keys: Sequence[bytes]) -> Look:
        """Wait until some of the queries of other processes are answered or given up."""
        assert self.store is not None
        for pause in _pauses():
            await asyncio.sleep(pause)
            look = await asyncio.to_thread(self.store.look, keys, self.board.owner, *self._checks)
            if look.found or look.free:
                return look
        raise AssertionError

    @asynccontextmanager
    async def alone(self, subject: bytes, known: Callable[[], Awaitable[bool]]) -> AsyncIterator[None]:
        """Held by the one who finds out about `subject`; others, in other processes too, wait until it is `known`."""
        key = question_key({"finding out": subject.hex()})
        async with self.board.subjects.setdefault(subject, asyncio.Lock()):
            try:
                for pause in _pauses():
                    if await known() or (await self.claim([key])).free:
                        break
                    await asyncio.sleep(pause)
                yield
            finally:
                await self.release([key])

    async def release(self, keys: Iterable[bytes]) -> None:
        """Give claims up."""
        store, keys = self.store, [key for key in keys if key in self.board.held]
        self.board.drop(keys)
        if store is None or not keys:
            return
        with suppress(ScoringError):  # they end by themselves
            await self._write(lambda wait: store.release(keys, self.board.owner, wait))

    async def save(self, answers: list[Answer]) -> str | None:
        """Store `answers`. Returns once they survive the death of the process, also when cancelled meanwhile.

        Returns:
            Why they are kept in memory alone, if nothing can be written.
        """
        if self.store is None or not answers:
            return None
        self.board.unsaved |= {answer.key: answer for answer in answers}
        self.board.drop(answer.key for answer in answers)
        try:
            await self._flush()
        except ScoringError as error:
            return str(error)
        return None

    async def _flush(self) -> None:
        """Store all that is not stored, at once; or else in a thread, together with what comes meanwhile."""
        try:
            self._put(wait=False)
            return
        except StoreBusyError:
            pass
        await _to_its_end(self._flush_patiently())

    async def _flush_patiently(self) -> None:
        async with self.board.flushing:
            if self.board.unsaved:
                await self._in_thread(self._put)

    def _put(self, wait: bool) -> None:
        store, answers = self.store, list(self.board.unsaved.values())
        assert store is not None
        store.put_many(answers, self.board.owner, wait)
        for answer in answers:
            if self.board.unsaved.get(answer.key) is answer:
                del self.board.unsaved[answer.key]

    async def _write(self, work: Callable[[bool], T]) -> T:
        """`work(wait)` at once, or in a thread while another writer is in the way; to its end, also when cancelled."""
        try:
            return work(False)
        except StoreBusyError:
            pass
        return await _to_its_end(self._in_thread(work))

    async def _in_thread(self, work: Callable[[bool], T]) -> T:
        try:
            writing = asyncio.get_running_loop().run_in_executor(None, work, True)
        except RuntimeError:  # the interpreter is about to end, and starts no threads
            return work(True)
        return await writing


async def _to_its_end(coro: Coroutine[Any, Any, T]) -> T:
    """The result of `coro`, which is waited for also when this is cancelled meanwhile."""
    task = asyncio.ensure_future(coro)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # it has been waited for; the cancellation goes on
        raise


def _pauses() -> Iterator[float]:
    """Seconds between two looks at what other processes do."""
    pause = POLL_S[0]
    while True:
        yield pause
        pause = min(1.3 * pause, POLL_S[1])


class Turns(Generic[T]):
    """Hands out requests one by one, claims their queries a few ahead, and notes those that others have claimed.

    Args:
        shared: Claims.
        requests: `(what, rows)` of each request.
        keys: Keys of the rows.
        answered: Called with a row and its scores, if the store has them by now.
        claimed: False: send them without a claim.
    """

    TOGETHER = 8  # requests claimed at a time

    def __init__(
        self,
        shared: Coordinator,
        requests: Iterator[tuple[T, list[int]]],
        keys: dict[int, bytes],
        answered: Callable[[int, NDArray[np.float32]], None],
        claimed: bool = True,
    ) -> None:
        self._coordinator, self._requests, self._keys, self._answered = shared, requests, keys, answered
        self._claimed = claimed
        self._ready: deque[tuple[T, list[int]]] = deque()
        self._alone = asyncio.Lock()
        self.taken: list[int] = []  # rows that other processes are querying

    async def next(self) -> "tuple[T, list[int]] | None":
        """The next request; None if there is none.

        Raises:
            ScoringError: If no claim can be written.
        """
        async with self._alone:
            while not self._ready:
                portion = list(itertools.islice(self._requests, self.TOGETHER if self._claimed else 1))
                if not portion:
                    return None
                if self._claimed:
                    await self._claim(portion)
                else:
                    self._ready.extend(portion)
            return self._ready.popleft()

    async def _claim(self, portion: list[tuple[T, list[int]]]) -> None:
        look = await self._coordinator.claim([self._keys[row] for _, rows in portion for row in rows])
        for what, rows in portion:
            for row in rows:
                if (scores := look.found.get(self._keys[row])) is not None:
                    self._answered(row, scores)
            self.taken += [row for row in rows if self._keys[row] in look.taken]
            if mine := [row for row in rows if self._keys[row] in look.free]:
                self._ready.append((what, mine))
