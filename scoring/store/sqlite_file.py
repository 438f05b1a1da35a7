"""The file of the score store: made, brought up to date and checked before anything is read from it."""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ..score_batch import ScoringError
from .stored_answers import StoreBusyError

__all__ = ["StoreBusyError", "open_file", "patiently", "unusable"]

T = TypeVar("T")

STORE_VERSION = 2  # `PRAGMA user_version`; 0, of earlier releases, had no claims, and methods without a model
TABLES = {
    "answers": (
        "key BLOB PRIMARY KEY, model TEXT NOT NULL, method TEXT NOT NULL, scores BLOB NOT NULL, prompt_tokens INTEGER "
        "NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, created REAL NOT NULL"
    ),
    "methods": "key BLOB PRIMARY KEY, model TEXT NOT NULL, method TEXT NOT NULL, created REAL NOT NULL",
    "claims": "key BLOB PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL",
}
BUSY_S = 30.0  # how long another process may hold the lock
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
OTHERWISE = "name another (`store`), or go without it (`cache=False`; `--no-cache` on the command line)"


def unusable(path: str, error: object, remedy: str = "Move it away") -> ScoringError:
    """The error that names the file, what is wrong with it and what helps."""
    return ScoringError(f"The score store {path} cannot be used ({error}). {remedy}, {OTHERWISE}.")


def patiently(path: str, work: Callable[[], T], wait: bool = True) -> T:
    """`work()`, once more as long as another process holds the lock of the file.

    Raises:
        StoreBusyError: At once, unless it is to `wait`.
        ScoringError: If the lock is not free after `BUSY_S` seconds, or for another failure of SQLite.
    """
    deadline, pause = time.monotonic() + BUSY_S, 0.002
    while True:
        try:
            return work()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BUSY_CODES:
                raise unusable(path, error, _remedy(error)) from None
            if not wait:
                raise StoreBusyError from None
            if time.monotonic() > deadline:
                held = f"another process has held its lock for {BUSY_S:.0f} s"
                raise unusable(path, held, "End that process, or wait for it") from None
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _remedy(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return "Make room on its disk"
    return "Make it and its folder writable" if code == sqlite3.SQLITE_READONLY else "Move it away"


def open_file(path: str) -> sqlite3.Connection:
    """Open the store, made or brought up to date if need be. A new file is its owner's alone (mode 0600).

    Raises:
        ScoringError: If it is something else, damaged, or of a newer version.
    """
    try:
        if path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            _create(path)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except PermissionError as error:
        raise unusable(path, error, "Make its folder writable") from None
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from None
    try:
        patiently(path, lambda: _prepare(path, connection))
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: str) -> None:
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _prepare(path: str, connection: sqlite3.Connection) -> None:
    version = _check_version(path, connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    if version < STORE_VERSION:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _check_version(path, connection) < STORE_VERSION:  # no other process was faster
                connection.execute("DROP TABLE IF EXISTS methods")  # of earlier versions: found anew
                for name, columns in TABLES.items():
                    connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) WITHOUT ROWID")
                connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
                _restrict(path)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    for name, columns in TABLES.items():
        wanted = [column.split()[0] for column in columns.split(", ")]
        found = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        if found != wanted:
            raise unusable(path, f"its table {name!r} has the columns {found}, not {wanted}")


def _check_version(path: str, connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if names and (names - TABLES.keys() or version < 0 or "answers" not in names):
        raise unusable(path, f"it is another program's database, with the tables {sorted(names)[:5]}")
    if version > STORE_VERSION:
        newer = f"it has the format {version} of a newer release; this one knows {STORE_VERSION}"
        raise unusable(path, newer, "Update labelfusion-transformers")
    return version


def _restrict(path: str) -> None:
    """Earlier releases left the file to the umask."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(OSError):  # not there, or not ours
            os.chmod(name, 0o600)
