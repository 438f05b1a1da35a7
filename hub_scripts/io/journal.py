"""The journal of a run: finished chunks are stored on disk, so that a killed run can be resumed."""

import json
import operator
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

Scores = list[list[float] | None]  # of one row: the scores of each provider, or None


@contextmanager
def one_run(output: Path) -> Iterator[None]:
    """Lock `output` and its journal for one run: two parallel runs would each spend the whole limit.

    Raises:
        ValueError: If another process holds the lock.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output.with_name(output.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"Another run is writing {output} at this moment: wait for it, or name another file."
        ) from None
    except NotImplementedError:  # a file system without locks
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)  # while held, so that no other process's lock is removed
            lock.release()


class Journal:
    """Records of finished chunks of rows, in a file beside the output.

    Args:
        path: The journal file.
        run: Settings that identify the run; the journal of another run is not continued.

    Raises:
        ValueError: If the journal belongs to another run.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self._places: dict[int, int] = {}  # first row of a chunk: place of its newest line in the file
        self.spent = 0.0  # US dollars, as last noted by `spend`
        self._lock = threading.Lock()
        if path.exists() and self._begun():
            self._read(run)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._append({"run": run})

    def _begun(self) -> bool:
        """Whether the file has a complete first line: a process may be killed before writing it."""
        with self.path.open("rb") as file:
            header = file.readline()
        return header.endswith(b"\n") or not b'{"run":'.startswith(header[:7])

    def _read(self, run: dict[str, Any]) -> None:
        with self.path.open("rb+") as file:
            header = file.readline()
            try:
                found = json.loads(header)["run"]
                found.keys()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{self.path} is not the journal of a run; delete it to start anew.") from None
            if found != run:
                changed = ", ".join(sorted(k for k in {**run, **found} if run.get(k) != found.get(k)))
                raise ValueError(
                    f"{self.path} is from an unfinished run with other settings ({changed}). Repeat that run with its "
                    "settings, or delete the file to start anew; paid answers stay in the score store."
                )
            while line := file.readline():
                place = file.tell() - len(line)
                try:
                    record = json.loads(line)
                    if list(record) == ["spent"]:
                        spent = float(record["spent"])
                        self.spent = spent if spent >= 0 else self.spent
                    else:
                        self._places[operator.index(record["start"])] = place
                except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # truncated line
                    file.truncate(place)
                    break

    def get(self, start: int) -> dict[str, Any] | None:
        """The record of the chunk that starts at row `start`, or None."""
        if start not in self._places:
            return None
        with self.path.open("rb") as file:
            file.seek(self._places[start])
            return json.loads(file.readline())

    @property
    def begun(self) -> bool:
        """Whether the journal holds a finished chunk or a spent amount."""
        return bool(self._places or self.spent)

    def put(self, record: dict[str, Any]) -> None:
        """Store the record of a chunk: `start`, the number of its first row, and any other fields."""
        self._places[record["start"]] = self._append(record)

    def spend(self, spent: float) -> None:
        """Store the total spent so far in US dollars, including unfinished chunks. Written to disk at once."""
        if spent != self.spent:
            self.spent = spent
            self._append({"spent": spent}, sync=False)

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of all chunks in order."""
        for start in sorted(self._places):
            record = self.get(start)
            assert record is not None
            yield record

    def cut(self, start: int) -> None:
        """Remove the chunks from row `start` on. They must have been stored in order."""
        with self.path.open("rb+") as file:
            file.truncate(self._places[start])
        self._places = {known: place for known, place in self._places.items() if known < start}
        if self.spent:
            self._append({"spent": self.spent})

    def delete(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _append(self, data: dict[str, Any], sync: bool = True) -> int:
        with self._lock, self.path.open("ab") as file:
            place = file.tell()
            file.write(json.dumps(data, separators=(",", ":")).encode() + b"\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
        return place
