"""Stores that several machines share, where self-contained repositories look for them in the installed package."""

from .store.postgres_store import PostgresStore
from .store.segment_store import SegmentStore

__all__ = ["PostgresStore", "SegmentStore"]
