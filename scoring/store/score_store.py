"""The score store: every paid answer, in one SQLite file under the Hugging Face cache folder.

It holds scores, usage and cost under the hash of the query; no text and no key. Many threads and processes may use it
concurrently: a query is claimed before its request goes out, and the others wait for the answer.
"""

import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..score_batch import ScoringError
from .claims import CLAIM_S, holds
from .sqlite_file import open_file, patiently, unusable
from .stored_answers import (
    METHOD_S,
    RECORD,
    Answer,
    Look,
    Record,
    StoreBusyError,
    as_records,
    exported,
    question_key,
    sound_scores,
)

__all__ = ["Answer", "Look", "ScoreStore", "default_path", "question_key"]

T = TypeVar("T")

_INSERT = f"INSERT OR %s INTO answers ({', '.join(RECORD)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

logger = logging.getLogger(__name__)


def default_path() -> Path:
    """`labelfusion/scores.sqlite` in the Hugging Face cache folder (`HF_HOME`)."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "labelfusion" / "scores.sqlite"


class ScoreStore:
    """A score store in a file.

    While another process holds the lock of the file, every method waits, for half a minute at most.

    Args:
        path: The file, made if it does not exist; `":memory:"` for a store of this object alone.

    Raises:
        ScoringError: If the file cannot be opened, is something else or damaged; by every method.
    """

    written: ClassVar[Counter[str]] = Counter()  # answers stored by this process, by path

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = str(path or default_path())
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._pid = 0
        self._warned = False
        with self._lock:
            self._connect()

    @property
    def identity(self) -> object:
        """The file, for this process; this object for a store in memory."""
        try:
            found = os.stat(self.path)
        except OSError:
            return id(self)
        return found.st_dev, found.st_ino, os.getpid()

    def get_many(
        self, keys: Sequence[bytes], num_labels: int | None = None, sums_to_one: bool = False
    ) -> dict[bytes, NDArray[np.float32]]:
        """Scores, float32 `(K,)`, of the keys that are stored.

        Damaged ones count as not stored, with a warning: they are queried again, and replaced.

        Args:
            keys: The keys.
            num_labels: K, where it is known.
            sums_to_one: Whether the scores of a text must sum to 1.
        """
        found: dict[bytes, NDArray[np.float32]] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            rows = self._do(partial(_select, "scores", "answers", part))
            found |= self._checked(rows, num_labels, sums_to_one)
        return found

    def look(self, keys: Sequence[bytes], owner: str, num_labels: int | None = None, sums_to_one: bool = False) -> Look:
        """What is known about `keys`; what `owner` has claimed is free for it."""
        found = self.get_many(keys, num_labels, sums_to_one)
        open_ = [key for key in keys if key not in found]
        return self._do(lambda connection: _look(connection, open_, found, owner)) if open_ else Look(found)

    def claim(
        self,
        keys: Sequence[bytes],
        owner: str,
        num_labels: int | None = None,
        sums_to_one: bool = False,
        wait: bool = True,
    ) -> Look:
        """`look`, and claim what is free, at one moment. A claim ends with the answer, `release`, or its time.

        Raises:
            StoreBusyError: If another writer is in the way, unless this is to `wait`.
        """

        def work(connection: sqlite3.Connection) -> Look:
            rows = _select("scores", "answers", keys, connection)
            found = self._checked(rows, num_labels, sums_to_one)
            look = _look(connection, [key for key in keys if key not in found], found, owner)
            _claim(connection, look.free, owner)
            return look

        return self._write(work, wait)

    def extend(self, keys: Iterable[bytes], owner: str, wait: bool = True) -> None:
        """The claims of a living owner last longer."""
        query = "UPDATE claims SET expires = ? WHERE key = ? AND owner = ?"
        rows = [(time.time() + CLAIM_S, key, owner) for key in keys]
        self._write(lambda connection: connection.executemany(query, rows), wait)

    def release(self, keys: Iterable[bytes], owner: str, wait: bool = True) -> None:
        """End claims without an answer."""
        self._write(lambda connection: _release(connection, keys, owner), wait)

    def put_many(self, answers: Iterable[Answer], owner: str = "", wait: bool = True) -> None:
        """Store `answers` and end the claims of `owner` on them. They survive the death of the process from then on.

        Raises:
            StoreBusyError: If another writer is in the way, unless this is to `wait`.
        """
        rows = as_records(answers, time.time())

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_INSERT % "REPLACE", rows)
            if owner:
                _release(connection, (row[0] for row in rows), owner)

        self._write(work, wait)
        self.written[self.path] += len(rows)

    def get_method(self, key: bytes) -> str | None:
        """The method that `auto` found for a model within the last days; servers change."""
        since = time.time() - METHOD_S
        query = "SELECT method FROM methods WHERE key = ? AND created > ?"
        row = self._do(lambda connection: connection.execute(query, (key, since)).fetchone())
        return row[0] if row and isinstance(row[0], str) else None

    def methods(self) -> list[dict[str, Any]]:
        """What `auto` has found: model, method, and when."""
        query = "SELECT model, method, created FROM methods ORDER BY model, created"
        rows = self._do(lambda connection: connection.execute(query).fetchall())
        return [dict(zip(("model", "method", "created"), row, strict=True)) for row in rows]

    def forget_methods(self, key: bytes | None = None) -> int:
        """Forget what `auto` has found: of one model, or all. Returns: how many choices that were."""
        where, values = ("", ()) if key is None else (" WHERE key = ?", (key,))
        return self._write(lambda connection: connection.execute("DELETE FROM methods" + where, values).rowcount)

    def put_method(self, key: bytes, model: str, method: str) -> None:
        """Remember what `auto` found for a model."""
        row = (key, model, method, time.time())
        self._write(lambda connection: connection.execute("INSERT OR REPLACE INTO methods VALUES (?, ?, ?, ?)", row))

    def info(self) -> list[dict[str, Any]]:
        """For each model and method: answers, tokens, dollars, time of the first and the last."""
        columns = ("model", "method", "answers", "prompt_tokens", "completion_tokens", "cost_usd", "first", "last")
        query = (
            "SELECT model, method, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(cost_usd), "
            "MIN(created), MAX(created) FROM answers GROUP BY model, method ORDER BY model, method"
        )

        def work(connection: sqlite3.Connection) -> list[Any]:
            self._check_types(connection)
            return connection.execute(query).fetchall()

        return [dict(zip(columns, row, strict=True)) for row in self._do(work)]

    def clear(self, model: str | None = None, before: float | None = None) -> int:
        """Delete answers, of one `model` or older than the time `before` if given, what `auto` remembers, and claims.

        Returns:
            The number of answers deleted.
        """
        conditions = {"model = ?": model, "created < ?": before}
        where = [condition for condition, value in conditions.items() if value is not None]
        values = [value for value in conditions.values() if value is not None]

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM methods")
            connection.execute("DELETE FROM claims")
            query = "DELETE FROM answers" + (" WHERE " + " AND ".join(where) if where else "")
            return connection.execute(query, values).rowcount

        count = self._write(work)
        with suppress(StoreBusyError, ScoringError):  # in use, or no room for a copy: what is free is used again
            self._do(lambda connection: connection.execute("VACUUM"), wait=False)
        return count

    def records(self) -> Iterator[list[Record]]:
        """All answers, some thousand at a time, in order of their keys. Damaged ones are left out."""
        query = f"SELECT {', '.join(RECORD)} FROM answers WHERE key > ? ORDER BY key LIMIT 1000"
        self._do(self._check_types)
        last = b""
        while rows := self._do(partial(_fetch, query, last)):
            sound = self._checked([(row[0], row[3]) for row in rows])
            yield [row for row in rows if row[0] in sound]
            last = rows[-1][0]

    def add_records(self, records: Sequence[Record]) -> int:
        """Add answers of another store; those that are there stay. Returns: how many were added."""
        return self._write(lambda connection: connection.executemany(_INSERT % "IGNORE", records).rowcount)

    def export(self) -> Iterator[dict[str, Any]]:
        """All answers as plain dicts; `key` in hexadecimal."""
        return exported(self.records())

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _do(self, work: Callable[[sqlite3.Connection], T], wait: bool = True) -> T:
        if not self._lock.acquire(blocking=wait):
            raise StoreBusyError
        try:
            connection = self._connect()
            return patiently(self.path, lambda: work(connection), wait)
        finally:
            self._lock.release()

    def _write(self, work: Callable[[sqlite3.Connection], T], wait: bool = True) -> T:
        """`work` in a transaction. It takes less time than handing it to a thread."""

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
                return result
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

        return self._do(transaction, wait)

    def _connect(self) -> sqlite3.Connection:
        """The connection, made anew in a forked child, where the parent's must not be touched."""
        if self._connection is None or (self._pid != os.getpid() and self.path != ":memory:"):
            self._inherited = self._connection  # kept, as closing it in a forked child would disturb the parent's
            self._connection = open_file(self.path)
            self._pid = os.getpid()
        return self._connection

    def _checked(
        self, rows: list[tuple[Any, Any]], num_labels: int | None = None, sums_to_one: bool = False
    ) -> dict[bytes, NDArray[np.float32]]:
        """`{key: scores}` of the rows that can be right."""
        found = sound_scores(rows, num_labels, sums_to_one)
        if len(found) < len(rows) and not self._warned:
            self._warned = True
            logger.warning(
                "The score store %s holds damaged scores; they count as not stored (%d of the %d just read).",
                self.path, len(rows) - len(found), len(rows),
            )  # fmt: skip
        return found

    def _check_types(self, connection: sqlite3.Connection) -> None:
        """Refuse what is no number where one must be: SQLite would count it as 0."""
        numbers = ("prompt_tokens", "completion_tokens", "cost_usd", "created")
        wrong = " + ".join(f"(typeof({name}) NOT IN ('integer', 'real'))" for name in numbers)
        wrong += " + (typeof(key) <> 'blob') + (typeof(model) <> 'text') + (typeof(method) <> 'text')"
        count = connection.execute(f"SELECT COUNT(*) FROM answers WHERE {wrong}").fetchone()[0]
        if count:
            raise unusable(self.path, f"{count} rows of its table 'answers' hold something else than they must")


def _fetch(query: str, last: bytes, connection: sqlite3.Connection) -> list[Any]:
    return connection.execute(query, (last,)).fetchall()


def _select(columns: str, table: str, keys: Sequence[bytes], connection: sqlite3.Connection) -> list[Any]:
    marks = ",".join("?" * len(keys))
    return connection.execute(f"SELECT key, {columns} FROM {table} WHERE key IN ({marks})", keys).fetchall()


def _look(
    connection: sqlite3.Connection, open_: Sequence[bytes], found: dict[bytes, NDArray[np.float32]], owner: str
) -> Look:
    rows: list[tuple[bytes, str, float]] = []
    for start in range(0, len(open_), 500):
        rows += _select("owner, expires", "claims", open_[start : start + 500], connection)
    others = {(name, expires) for _, name, expires in rows if name != owner}
    stand = {claim for claim in others if holds(*claim)}
    taken = {key for key, *claim in rows if tuple(claim) in stand}
    return Look(found, set(open_) - taken, taken)


def _claim(connection: sqlite3.Connection, keys: Iterable[bytes], owner: str) -> None:
    expires = time.time() + CLAIM_S
    connection.executemany("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", [(key, owner, expires) for key in keys])


def _release(connection: sqlite3.Connection, keys: Iterable[bytes], owner: str) -> None:
    connection.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", [(key, owner) for key in keys])
