"""`open_store`: the score store at a place that a user names."""

import os
from pathlib import Path

from .store.score_store import ScoreStore, default_path
from .store.stored_answers import Store

STORE_VARIABLE = "LABELFUSION_STORE"
POSTGRES = ("postgresql://", "postgres://")
SEGMENTS = "segments:"


def open_store(where: Store | str | Path | None = None) -> Store:
    """Open a score store.

    Args:
        where: A store; or the path of an SQLite file; or `postgresql://user@host/database` for several machines at
            once; or `segments:` before a folder or the URL of an object store (`segments:s3://bucket/scores`), for
            clusters without a database. Default: what the environment variable `LABELFUSION_STORE` says, or the SQLite
            file in the Hugging Face cache folder.

    Raises:
        ScoringError: If it cannot be opened. The message holds no password.
    """
    if isinstance(where, Store):
        return where
    place = str(where or os.environ.get(STORE_VARIABLE) or "")
    if place.startswith(POSTGRES):
        from .shared_stores import PostgresStore

        return PostgresStore(place)
    if place.startswith(SEGMENTS):
        from .shared_stores import SegmentStore

        return SegmentStore(place.removeprefix(SEGMENTS))
    return ScoreStore(place or None)


def store_file(where: str | Path | None = None) -> Path | None:
    """The SQLite file that `open_store` would open; None if it is another kind of store."""
    place = str(where or os.environ.get(STORE_VARIABLE) or "")
    if place.startswith((*POSTGRES, SEGMENTS)):
        return None
    return Path(place) if place else default_path()
