"""A score store in PostgreSQL, for several machines at once: https://www.postgresql.org, through psycopg 3.

Claims keep two workers from paying for the same question. A claim ends with its answer, when it is released, or 30
seconds after a worker that died has last extended it, by the clock of the database.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ...configuration.secrets import redact
from ..score_batch import ScoringError
from .claims import CLAIM_S, holds
from .score_store import ScoreStore
from .stored_answers import (
    METHOD_S,
    RECORD,
    Answer,
    Look,
    Record,
    StoreBusyError,
    as_records,
    exported,
    sound_scores,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
PATIENCE_S = 120.0  # how long a database that restarts is waited for
POSTGRES_VERSION = 1
_COLUMNS = ", ".join(RECORD)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS labelfusion_answers (
    key bytea PRIMARY KEY, model text NOT NULL, method text NOT NULL, scores bytea NOT NULL,
    prompt_tokens bigint NOT NULL, completion_tokens bigint NOT NULL,
    cost_usd double precision NOT NULL, created double precision NOT NULL);
CREATE TABLE IF NOT EXISTS labelfusion_methods (
    key bytea PRIMARY KEY, model text NOT NULL, method text NOT NULL, created double precision NOT NULL);
CREATE TABLE IF NOT EXISTS labelfusion_claims (
    key bytea PRIMARY KEY, owner text NOT NULL, expires timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS labelfusion_version (version integer NOT NULL);
INSERT INTO labelfusion_version SELECT {POSTGRES_VERSION} WHERE NOT EXISTS (SELECT FROM labelfusion_version);
"""
_CLAIM = """
INSERT INTO labelfusion_claims AS c (key, owner, expires)
SELECT key, %(owner)s, clock_timestamp() + %(seconds)s * interval '1 second' FROM unnest(%(keys)s::bytea[]) AS key
ORDER BY key
ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, expires = excluded.expires
WHERE c.owner = excluded.owner OR c.owner = ANY(%(dead)s) OR c.expires <= clock_timestamp() RETURNING key
"""
_OWNERS = """
SELECT key, owner, extract(epoch FROM expires - clock_timestamp())::double precision FROM labelfusion_claims
WHERE key = ANY(%s)
"""
_FIND = "SELECT key, scores FROM labelfusion_answers WHERE key = ANY(%s)"
_MINE = "SELECT key FROM labelfusion_claims WHERE key = ANY(%s) AND owner = %s ORDER BY key FOR UPDATE"
_RELEASE = f"DELETE FROM labelfusion_claims WHERE key IN ({_MINE})"  # locked in order: no deadlock with `_CLAIM`

logger = logging.getLogger(__name__)


class PostgresStore:
    """A score store in a PostgreSQL database, which many processes on many machines share.

    While the database restarts, every method waits, for two minutes at most.

    Args:
        url: `postgresql://user@host:port/database`, as libpq reads it. The password is best left to `PGPASSWORD` or
            `~/.pgpass`. The tables `labelfusion_...` are made if they do not exist.

    Raises:
        ScoringError: If psycopg is missing, or the database cannot be used; by every method. Without the password.
    """

    written: ClassVar[Counter[str]] = ScoreStore.written

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise ScoringError(
                "A store in PostgreSQL needs psycopg: pip install 'labelfusion-transformers[postgres]'."
            ) from None
        self._psycopg = psycopg
        try:
            self._options: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(url, connect_timeout=10)
        except psycopg.Error:  # its message may repeat the password
            raise ScoringError(
                "The URL of the score store cannot be read; expected postgresql://user@host:port/database, with "
                "special characters as %XX."
            ) from None
        host, port = self._options.get("host") or "", self._options.get("port")
        name = self._options.get("dbname") or ""
        self.path = f"postgresql://{host}{f':{port}' if port else ''}/{name}"
        self._lock = threading.Lock()
        self._connection: Any = None
        self._inherited: Any = None
        self._pid = 0
        self._do(self._prepare, patience_s=0.0)

    @property
    def identity(self) -> object:
        """The database, for this process."""
        return self.path, os.getpid()

    def __repr__(self) -> str:
        return f"PostgresStore({self.path!r})"

    def __reduce__(self) -> Any:
        raise TypeError("A PostgresStore belongs to one process: give the URL to the others.")

    def get_many(
        self, keys: Sequence[bytes], num_labels: int | None = None, sums_to_one: bool = False
    ) -> "dict[bytes, NDArray[np.float32]]":
        """See `Store`."""
        rows: list[Any] = []
        for start in range(0, len(keys), 5000):
            part = list(keys[start : start + 5000])
            rows += self._do(lambda cursor, part=part: cursor.execute(_FIND, (part,)).fetchall())  # type: ignore[misc]
        return sound_scores(rows, num_labels, sums_to_one)

    def look(self, keys: Sequence[bytes], owner: str, num_labels: int | None = None, sums_to_one: bool = False) -> Look:
        """See `Store`."""

        def work(cursor: Any) -> Look:
            # The claims first: an answer that comes between the two queries is found.
            taken = {key for key, name, left in _owners(cursor, keys) if name != owner and _stands(name, left)}
            found = sound_scores(cursor.execute(_FIND, (list(keys),)).fetchall(), num_labels, sums_to_one)
            taken -= found.keys()
            return Look(found, set(keys) - found.keys() - taken, taken)

        return self._do(work)

    def claim(
        self,
        keys: Sequence[bytes],
        owner: str,
        num_labels: int | None = None,
        sums_to_one: bool = False,
        wait: bool = True,
    ) -> Look:
        """See `Store`."""

        def work(cursor: Any) -> Look:
            dead: list[str] = []
            given = {"keys": list(set(keys)), "owner": owner, "seconds": CLAIM_S, "dead": dead}
            mine = {row[0] for row in cursor.execute(_CLAIM, given).fetchall()}
            if len(mine) < len(set(keys)):
                others = _owners(cursor, [key for key in keys if key not in mine])
                dead += {name for _, name, left in others if name != owner and not _stands(name, left)}
                if dead:  # on this machine: their claims are void at once
                    mine |= {row[0] for row in cursor.execute(_CLAIM, given).fetchall()}
            # After the claim: an answer that another worker has just stored is found.
            found = sound_scores(cursor.execute(_FIND, (list(keys),)).fetchall(), num_labels, sums_to_one)
            if answered := list(mine & found.keys()):
                cursor.execute(_RELEASE, (answered, owner))
            free = mine - found.keys()
            return Look(found, free, set(keys) - found.keys() - free)

        return self._do(work, wait)

    def extend(self, keys: Iterable[bytes], owner: str, wait: bool = True) -> None:
        """See `Store`."""
        query = (
            "UPDATE labelfusion_claims SET expires = clock_timestamp() + %s * interval '1 second' "
            f"WHERE key IN ({_MINE})"
        )
        given = (CLAIM_S, list(keys), owner)
        self._do(lambda cursor: cursor.execute(query, given), wait)

    def release(self, keys: Iterable[bytes], owner: str, wait: bool = True) -> None:
        """See `Store`."""
        given = list(keys), owner
        self._do(lambda cursor: cursor.execute(_RELEASE, given), wait)

    def put_many(self, answers: Iterable[Answer], owner: str = "", wait: bool = True) -> None:
        """See `Store`."""
        rows = as_records(answers, time.time())
        changed = ", ".join(f"{name} = excluded.{name}" for name in RECORD[1:])

        def work(cursor: Any) -> None:
            _insert(cursor, rows, f"DO UPDATE SET {changed}")
            if owner:
                cursor.execute(_RELEASE, ([row[0] for row in rows], owner))

        self._do(work, wait)
        self.written[self.path] += len(rows)

    def records(self) -> Iterator[list[Record]]:
        """See `Store`."""
        query = f"SELECT {_COLUMNS} FROM labelfusion_answers WHERE key > %s ORDER BY key LIMIT 5000"
        last = b""
        while rows := self._do(lambda cursor, last=last: cursor.execute(query, (last,)).fetchall()):  # type: ignore[misc]
            sound = sound_scores([(row[0], row[3]) for row in rows])
            yield [row for row in rows if row[0] in sound]
            last = rows[-1][0]

    def export(self) -> Iterator[dict[str, Any]]:
        """All answers as plain dicts; `key` in hexadecimal."""
        return exported(self.records())

    def add_records(self, records: Sequence[Record]) -> int:
        """See `Store`."""
        return self._do(lambda cursor: _insert(cursor, records, "DO NOTHING"))

    def get_method(self, key: bytes) -> str | None:
        """See `Store`."""
        query = "SELECT method FROM labelfusion_methods WHERE key = %s AND created > %s"
        row = self._do(lambda cursor: cursor.execute(query, (key, time.time() - METHOD_S)).fetchone())
        return row[0] if row else None

    def put_method(self, key: bytes, model: str, method: str) -> None:
        """See `Store`."""
        query = (
            "INSERT INTO labelfusion_methods VALUES (%s, %s, %s, %s) ON CONFLICT (key) DO UPDATE SET "
            "model = excluded.model, method = excluded.method, created = excluded.created"
        )
        self._do(lambda cursor: cursor.execute(query, (key, model, method, time.time())))

    def methods(self) -> list[dict[str, Any]]:
        """See `Store`."""
        query = "SELECT model, method, created FROM labelfusion_methods ORDER BY model, created"
        rows = self._do(lambda cursor: cursor.execute(query).fetchall())
        return [dict(zip(("model", "method", "created"), row, strict=True)) for row in rows]

    def forget_methods(self, key: bytes | None = None) -> int:
        """See `Store`."""
        query = "DELETE FROM labelfusion_methods WHERE %(key)s::bytea IS NULL OR key = %(key)s"
        return self._do(lambda cursor: int(cursor.execute(query, {"key": key}).rowcount))

    def info(self) -> list[dict[str, Any]]:
        """See `Store`."""
        columns = ("model", "method", "answers", "prompt_tokens", "completion_tokens", "cost_usd", "first", "last")
        query = (
            "SELECT model, method, count(*), sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint, "
            "sum(cost_usd), min(created), max(created) FROM labelfusion_answers "
            "GROUP BY model, method ORDER BY model, method"
        )
        rows = self._do(lambda cursor: cursor.execute(query).fetchall())
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def clear(self, model: str | None = None, before: float | None = None) -> int:
        """See `Store`."""
        query = (
            "DELETE FROM labelfusion_answers WHERE (%(model)s::text IS NULL OR model = %(model)s) "
            "AND (%(before)s::double precision IS NULL OR created < %(before)s)"
        )

        def work(cursor: Any) -> int:
            cursor.execute("DELETE FROM labelfusion_methods")
            cursor.execute("DELETE FROM labelfusion_claims")
            return int(cursor.execute(query, {"model": model, "before": before}).rowcount)

        return self._do(work)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _do(self, work: Callable[[Any], T], wait: bool = True, patience_s: float = PATIENCE_S) -> T:
        """`work(cursor)` in one transaction; once more, on a new connection, where the database was away.

        Everything that is done here may be done twice with the same result.
        """
        if not wait:  # a round trip over the network would hold up the event loop
            raise StoreBusyError
        end, pause = time.monotonic() + patience_s, 0.05
        with self._lock:
            while True:
                try:
                    connection = self._connect()
                    with connection.transaction(), connection.cursor() as cursor:
                        return work(cursor)
                except (self._psycopg.OperationalError, self._psycopg.InterfaceError) as error:
                    if not self._is_passing(error):
                        self._drop()
                    if time.monotonic() + pause > end:
                        raise self._unusable(error) from None
                except self._psycopg.Error as error:
                    raise self._unusable(error) from None
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def _is_passing(self, error: Exception) -> bool:
        """Whether another transaction was in the way, and the connection is sound."""
        return isinstance(error, self._psycopg.errors.DeadlockDetected | self._psycopg.errors.SerializationFailure)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        if self._pid != os.getpid():
            self._inherited = self._connection  # of the parent: closing it here would end it there
            self._connection, self._pid = None, os.getpid()
        if self._connection is None:
            self._connection = self._psycopg.connect(**self._options, autocommit=True)
        return self._connection

    def _prepare(self, cursor: Any) -> None:
        """Make the tables, unless they are there: a role that may not make tables can use them."""
        if cursor.execute("SELECT to_regclass('labelfusion_version')").fetchone()[0] is None:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('labelfusion'))")
            cursor.execute(_SCHEMA)
        version = cursor.execute("SELECT version FROM labelfusion_version").fetchone()
        if version is None or version[0] != POSTGRES_VERSION:
            raise ScoringError(
                f"The score store {self.path} has the format {version and version[0]} of another release; this one "
                f"knows {POSTGRES_VERSION}. Update labelfusion-transformers."
            )

    def _unusable(self, error: Exception) -> ScoringError:
        said = " ".join(redact(str(error)).split()) or type(error).__name__
        if password := self._options.get("password"):
            said = said.replace(str(password), "[redacted]")
        return ScoringError(f"The score store {self.path} cannot be used ({said}).")


def _owners(cursor: Any, keys: Iterable[bytes]) -> list[tuple[bytes, str, float]]:
    found: list[tuple[bytes, str, float]] = cursor.execute(_OWNERS, (list(keys),)).fetchall()
    return found


def _stands(owner: str, seconds_left: float) -> bool:
    """Whether a claim is valid. The clocks of database and machine may differ."""
    return seconds_left > 0 and holds(owner, time.time() + min(seconds_left, CLAIM_S))


def _insert(cursor: Any, rows: Sequence[Record], on_conflict: str) -> int:
    columns = [list(column) for column in zip(*sorted(dict((row[0], row) for row in rows).values()), strict=True)]
    if not columns:
        return 0
    types = ("bytea", "text", "text", "bytea", "bigint", "bigint", "float8", "float8")
    given = ", ".join(f"%s::{kind}[]" for kind in types)
    query = (
        f"INSERT INTO labelfusion_answers ({_COLUMNS}) SELECT * FROM unnest({given}) ON CONFLICT (key) {on_conflict}"
    )
    return int(cursor.execute(query, columns).rowcount)
