"""Gives freed memory back to the system during long runs."""

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

FIRST = 64  # batches after which the memory of a run is known
ROOM = 1.1  # what may be held at least, as a multiple of what cannot be given back


class FreedMemory:
    """Keeps a run from holding more and more memory that is free.

    Batches differ in length. The heap of the C library glibc then falls into pieces, of which few fit the next tensor:
    a process that classified short texts grew from 0.7 to 1.2 GB, and half of that was free. It grows in some runs
    only, so the memory is given back when there is much, not every time. Nothing happens with another C library.
    """

    def __init__(self) -> None:
        self._batches, self._limit = 0, 0

    def after_batch(self) -> None:
        """Note the memory at the start of a run; later, give back what is free if there is much."""
        if (trim := _malloc_trim()) is None:
            return
        self._batches += 1
        if self._batches == FIRST:
            self._limit = resident_bytes()
        elif self._batches > FIRST and resident_bytes() > self._limit:
            trim(0)
            self._limit = max(self._limit, int(ROOM * resident_bytes()))


def resident_bytes() -> int:
    """Bytes of this process in memory. On Linux."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim  # type: ignore[no-any-return]
