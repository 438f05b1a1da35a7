"""What an `APIScorer` keeps for one event loop: its client, questions that are on their way, answers being stored."""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .client import Client
from .store import Answer, ScoreStore

logger = logging.getLogger(__name__)

Outcome = NDArray[np.float32] | str  # scores `(K,)`, or the reason why there are none


class Engine:
    """Shared by the calls of one scorer on one event loop."""

    def __init__(self, client: Client, store: ScoreStore | None) -> None:
        self.client, self.store = client, store
        self.probing = asyncio.Lock()
        self._asking: dict[bytes, asyncio.Future[Outcome | None]] = {}

    async def stored(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Scores of the questions that are in the store."""
        return await asyncio.to_thread(self.store.get_many, keys) if self.store else {}

    def claim(self, key: bytes) -> "asyncio.Future[Outcome | None] | None":
        """Announce that the caller asks this question; or, if another call does already, the future of its outcome.

        The future holds None if the other call has given up without asking.
        """
        if key in self._asking:
            return self._asking[key]
        self._asking[key] = asyncio.get_running_loop().create_future()
        return None

    def tell(self, key: bytes, outcome: Outcome | None) -> None:
        """Pass an outcome on to whoever waits for the same question."""
        future = self._asking.get(key)
        if future is not None and not future.done():
            future.set_result(outcome)

    def release(self, key: bytes) -> None:
        """End a claim, after `tell` or without an outcome."""
        self.tell(key, None)
        self._asking.pop(key, None)

    async def save(self, answers: list[Answer]) -> None:
        """Store `answers`. Returns once they survive the death of the process, also when cancelled meanwhile."""
        if self.store is None or not answers:
            return
        try:
            if not self.store.try_put(answers):
                writing = asyncio.ensure_future(asyncio.to_thread(self.store.put_many, answers))
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await asyncio.wait([writing])
                    raise
        except Exception as error:  # a full disk must not cost the answers that are in memory
            logger.warning("The score store cannot be written (%s): answers stay in memory only.", error)
