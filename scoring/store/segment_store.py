"""A score store for clusters without a database: a folder, or an object store, of immutable Parquet segments.

Each machine works with a store of its own, an SQLite file. What others have published is read into it; what it has been
told is published in segments of many answers. A segment is written once and never changed, so that no lock is needed.
There are no claims between machines: two that ask the same question within a minute both pay for it.
"""

import atexit
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..score_batch import ScoringError
from .score_store import ScoreStore, default_path
from .stored_answers import RECORD, Answer, Look, Record, as_records

PUBLISH_EVERY_S, PUBLISH_EVERY = 60.0, 5000  # seconds, or answers, between two segments
logger = logging.getLogger(__name__)


class SegmentStore(ScoreStore):
    """A store whose answers are exchanged by way of a shared folder.

    Args:
        folder: The folder that all machines reach, or the URL of one that Arrow can open (`s3://`, `gs://`).
        local: This machine's file. Default: beside the usual score store, one for each `folder`.

    Raises:
        ScoringError: If either cannot be used.
    """

    def __init__(self, folder: str, local: str | Path | None = None) -> None:
        import pyarrow as pa
        from pyarrow import fs

        self.folder = folder.rstrip("/")
        name = hashlib.sha256(self.folder.encode()).hexdigest()[:16]
        try:
            if "://" in self.folder:
                self._files, self._root = fs.FileSystem.from_uri(self.folder)
            else:
                self._files, self._root = fs.LocalFileSystem(), str(Path(self.folder).absolute())
            self._files.create_dir(self._root, recursive=True)
        except (OSError, pa.ArrowInvalid, ValueError) as error:
            raise self._unusable(error) from None
        self._turn = threading.RLock()
        self._read: set[str] = set()  # segments that are in the local file
        self._fresh: dict[bytes, Record] = {}  # answers to publish
        self._looked = self._published = time.monotonic()
        super().__init__(local or default_path().with_name(f"segments-{name}.sqlite"))
        self._left = Path(f"{self.path}.unpublished-{os.getpid()}")  # there while answers wait
        self.pull()
        self._recover()
        atexit.register(self._last)

    def claim(
        self,
        keys: Sequence[bytes],
        owner: str,
        num_labels: int | None = None,
        sums_to_one: bool = False,
        wait: bool = True,
    ) -> Look:
        """See `ScoreStore`; first, once a minute, what others have published is read."""
        if time.monotonic() - self._looked > PUBLISH_EVERY_S:
            self.pull()
        return super().claim(keys, owner, num_labels, sums_to_one, wait)

    def put_many(self, answers: Iterable[Answer], owner: str = "", wait: bool = True) -> None:
        """See `ScoreStore`; from time to time, they are published."""
        answers = list(answers)
        with self._turn:
            if not self._fresh:
                self._left.touch()
            super().put_many(answers, owner, wait)
            self._fresh |= {record[0]: record for record in as_records(answers, time.time())}
            due = time.monotonic() - self._published > PUBLISH_EVERY_S or len(self._fresh) >= PUBLISH_EVERY
        if due:
            self.publish()

    def add_records(self, records: Sequence[Record]) -> int:
        """See `Store`; they are published, too."""
        count = super().add_records(records)
        with self._turn:
            self._fresh |= {record[0]: record for record in records}
        if len(self._fresh) >= PUBLISH_EVERY:
            self.publish()
        return count

    def pull(self) -> int:
        """Read the segments that are new. Returns: how many answers came with them."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyarrow import fs

        count = 0
        with self._turn:
            self._looked = time.monotonic()
            try:
                found = self._files.get_file_info(fs.FileSelector(self._root))
                for info in sorted(found, key=lambda info: info.path):
                    if info.base_name in self._read or not info.base_name.endswith(".parquet"):
                        continue
                    with self._files.open_input_file(info.path) as file:
                        table = pq.read_table(file, columns=list(RECORD))
                    rows = list(zip(*(table.column(name).to_pylist() for name in RECORD), strict=True))
                    for start in range(0, len(rows), 5000):
                        count += super().add_records(rows[start : start + 5000])
                    self._read.add(info.base_name)
            except (OSError, pa.ArrowException, KeyError) as error:
                raise self._unusable(error) from None
        return count

    def publish(self) -> None:
        """Write what is new as a segment.

        Where that fails, it is tried again later: the answers are in the local file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._turn:
            self._published = time.monotonic()
            if not self._fresh:
                return
            rows = [self._fresh[key] for key in sorted(self._fresh)]
            table = pa.table(dict(zip(RECORD, map(list, zip(*rows, strict=True)), strict=True)), _schema())
            name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex}.parquet"
            draft = f"{self._root}/.{name}.tmp"
            is_local = "://" not in self.folder
            try:
                # An object appears when its stream is closed; a file, when it gets its name.
                with self._files.open_output_stream(draft if is_local else f"{self._root}/{name}") as file:
                    pq.write_table(table, file, compression="zstd")
                if is_local:
                    os.replace(draft, f"{self._root}/{name}")
            except (OSError, pa.ArrowException) as error:
                logger.warning("%s. They are kept in %s.", self._unusable(error), self.path)
                return
            self._read.add(name)
            self._fresh = {}
            self._left.unlink(missing_ok=True)

    def close(self) -> None:
        """Publish what is left, and close the file."""
        self.publish()
        atexit.unregister(self._last)
        super().close()

    def _last(self) -> None:
        if self._pid == os.getpid():
            with suppress(Exception):
                self.publish()

    def _recover(self) -> None:
        """Publish what a killed process may not have published: the answers of a day; doubled ones do no harm."""
        left = [path for path in self._left.parent.glob(f"{Path(self.path).name}.unpublished-*") if not _lives(path)]
        if not left:
            return
        since = time.time() - 86400.0
        for records in self.records():
            self._fresh |= {record[0]: record for record in records if record[-1] > since}
        self.publish()
        for path in left if not self._fresh else []:
            path.unlink(missing_ok=True)

    def _unusable(self, error: object) -> ScoringError:
        from ...configuration.secrets import redact

        said = " ".join(redact(str(error)).split())
        return ScoringError(f"The shared score store {redact(self.folder)} cannot be used ({said}).")


def _lives(marker: Path) -> bool:
    """Whether the process that a marker names is running."""
    try:
        os.kill(int(marker.name.rpartition("-")[2]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    return True


def _schema() -> Any:
    import pyarrow as pa

    texts, numbers = (pa.binary(), pa.string(), pa.string(), pa.binary()), (pa.int64(), pa.int64(), pa.float64())
    return pa.schema(list(zip(RECORD, (*texts, *numbers, pa.float64()), strict=True)))
