"""The score store: every paid answer, in one SQLite file under the Hugging Face cache folder.

It holds scores, usage and cost under the hash of the question; no text and no key. Many threads and processes may use
it at once.
"""

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import ScoringError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, model TEXT NOT NULL, method TEXT NOT NULL, scores BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS methods (key BLOB PRIMARY KEY, method TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
"""
_INSERT = (
    "INSERT OR REPLACE INTO answers (key, scores, model, method, prompt_tokens, completion_tokens, cost_usd, created) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_BUSY_S = 30.0


@dataclass(frozen=True)
class Answer:
    """One text's answer as it is stored.

    Args:
        key: Hash of the question, 32 bytes.
        scores: float32 `(K,)`.
        model: Model name, for `labelfusion cache info`.
        method: How it was obtained.
        prompt_tokens: Share of the request's tokens.
        completion_tokens: Likewise.
        cost_usd: Likewise, US dollars.
    """

    key: bytes
    scores: NDArray[np.float32]
    model: str
    method: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


def question_key(question: Mapping[str, Any]) -> bytes:
    """SHA-256 of everything that the answer depends on."""
    return hashlib.sha256(json.dumps(question, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).digest()


def default_path() -> Path:
    """`labelfusion/scores.sqlite` in the Hugging Face cache folder (`HF_HOME`)."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "labelfusion" / "scores.sqlite"


class ScoreStore:
    """A score store in a file.

    Args:
        path: The file, made if it does not exist; `":memory:"` for a store of this object alone.

    Raises:
        ScoringError: If the file cannot be opened, or is something else.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = str(path or default_path())
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._pid = 0
        with self._lock:
            self._connect()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Scores, float32 `(K,)`, of the keys that are stored."""
        found: dict[bytes, NDArray[np.float32]] = {}
        with self._lock:
            connection = self._connect()
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, scores FROM answers WHERE key IN ({marks})"
                try:
                    rows = connection.execute(query, part).fetchall()
                except sqlite3.DatabaseError as error:  # damaged pages show when they are read
                    raise self._unusable(error) from None
                found |= {key: np.frombuffer(scores, dtype=np.float32) for key, scores in rows}
        return found

    def put_many(self, answers: Iterable[Answer]) -> None:
        """Store `answers` in one transaction. They survive the death of the process as soon as this returns."""
        with self._lock:
            self._put(answers)

    def try_put(self, answers: Iterable[Answer]) -> bool:
        """Like `put_many`, but return False at once, with nothing stored, if another writer is in the way.

        A write takes less time than handing it to a thread, so that an event loop may well do it itself.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._connect().execute("PRAGMA busy_timeout = 0")
            self._put(answers)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            return False
        finally:
            self._connect().execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000:.0f}")
            self._lock.release()
        return True

    def _put(self, answers: Iterable[Answer]) -> None:
        now = time.time()
        rows = [
            (a.key, np.asarray(a.scores, dtype=np.float32).tobytes(), a.model, a.method,
             a.prompt_tokens, a.completion_tokens, a.cost_usd, now)
            for a in answers
        ]  # fmt: skip
        with self._connect() as connection:
            connection.executemany(_INSERT, rows)

    def get_method(self, key: bytes) -> str | None:
        """The method that `auto` found for a model, if it was there before."""
        with self._lock:
            row = self._connect().execute("SELECT method FROM methods WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def forget_method(self, key: bytes) -> None:
        """Forget what `auto` found for a model."""
        with self._lock, self._connect() as connection:
            connection.execute("DELETE FROM methods WHERE key = ?", (key,))

    def put_method(self, key: bytes, method: str) -> None:
        """Remember what `auto` found."""
        with self._lock, self._connect() as connection:
            connection.execute("INSERT OR REPLACE INTO methods VALUES (?, ?, ?)", (key, method, time.time()))

    def info(self) -> list[dict[str, Any]]:
        """For each model and method: answers, tokens, dollars, time of the first and the last."""
        columns = ("model", "method", "answers", "prompt_tokens", "completion_tokens", "cost_usd", "first", "last")
        query = (
            "SELECT model, method, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(cost_usd), "
            "MIN(created), MAX(created) FROM answers GROUP BY model, method ORDER BY model, method"
        )
        with self._lock:
            rows = self._connect().execute(query).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def clear(self, model: str | None = None, before: float | None = None) -> int:
        """Delete answers, of one `model` or older than the time `before` if given, and what `auto` remembers.

        Returns:
            The number of answers deleted.
        """
        conditions = {"model = ?": model, "created < ?": before}
        where = [condition for condition, value in conditions.items() if value is not None]
        values = [value for value in conditions.values() if value is not None]
        with self._lock:
            connection = self._connect()
            with connection:
                count = connection.execute(
                    "DELETE FROM answers" + (" WHERE " + " AND ".join(where) if where else ""), values
                ).rowcount
                connection.execute("DELETE FROM methods")
            connection.execute("VACUUM")
        return count

    def export(self) -> Iterator[dict[str, Any]]:
        """All answers as plain dicts; `key` in hexadecimal."""
        columns = ("key", "model", "method", "scores", "prompt_tokens", "completion_tokens", "cost_usd", "created")
        last = b""
        while True:
            with self._lock:
                rows = self._connect().execute(
                    "SELECT * FROM answers WHERE key > ? ORDER BY key LIMIT 1000", (last,)
                ).fetchall()  # fmt: skip
            if not rows:
                return
            for row in rows:
                record = dict(zip(columns, row, strict=True))
                record["key"] = record["key"].hex()
                record["scores"] = [round(float(s), 6) for s in np.frombuffer(record["scores"], dtype=np.float32)]
                yield record
            last = rows[-1][0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connect(self) -> sqlite3.Connection:
        """The connection, made anew in a forked child, where the parent's must not be touched."""
        if self._connection is None or (self._pid != os.getpid() and self.path != ":memory:"):
            try:
                if self.path != ":memory:":
                    Path(self.path).parent.mkdir(parents=True, exist_ok=True)
                self._inherited = self._connection  # kept, as closing it in a forked child would disturb the parent's
                self._connection = _open(self.path)
            except (sqlite3.Error, OSError) as error:
                raise self._unusable(error) from None
            self._pid = os.getpid()
        return self._connection

    def _unusable(self, error: Exception) -> ScoringError:
        return ScoringError(
            f"The score store {self.path} cannot be used ({error}). Move it away, name another with `store=` "
            "(`--store`), or go without it (`cache=False`, `--no-cache`)."
        )


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
            return connection
        except sqlite3.OperationalError as error:
            # Several processes that make the file at once: the change to WAL does not wait for the others by itself.
            if "locked" not in str(error) or time.monotonic() > deadline:
                connection.close()
                raise
            time.sleep(0.02)
