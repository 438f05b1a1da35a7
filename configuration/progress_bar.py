"""Progress bars: tqdm's in a terminal or a notebook, and a few plain lines in a log file."""

import sys
import time
from typing import Any

from tqdm.asyncio import tqdm as terminal_bar
from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 30.0
SECONDS_SHOWN_FROM = 1.0  # shorter work shows nothing


def is_watched() -> bool:
    """Whether somebody sees a bar move: stderr is a terminal, or this is a notebook."""
    notebook = tqdm is not terminal_bar  # as tqdm found
    return notebook or bool(sys.stderr and sys.stderr.isatty())


def progress_bar(total: int | None, desc: str, unit: str = "text", *, disable: bool = False, initial: int = 0) -> Any:
    """A bar of `total` units with tqdm's methods, which is also a context; `initial` units were done before.

    A bar rewrites its line. A file keeps every version of it, so there a line is added twice a minute and at the end.
    """
    if disable or is_watched():
        delay = SECONDS_SHOWN_FROM
        return tqdm(
            total=total,
            desc=desc,
            unit=f" {unit}s",
            disable=disable,
            initial=initial,
            delay=delay,
            mininterval=0.2,
            dynamic_ncols=True,
        )
    return ProgressLines(total, desc, unit, initial)


class ProgressLines:
    """The part of tqdm's interface that this package uses, written as whole lines to stderr."""

    def __init__(self, total: int | None, desc: str, unit: str, initial: int = 0) -> None:
        self.total, self.desc, self.unit, self.n, self._initial = total, desc, unit, initial, initial
        self._notes = ""
        self._started = self._written = time.monotonic()
        self._shown: int | None = None  # `n` of the last line

    def update(self, n: int = 1) -> None:
        """Count `n` more units."""
        self.n += n
        now = time.monotonic()
        if now - self._written >= SECONDS_BETWEEN_LINES:
            self._written = now
            self.refresh()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Notes for the end of the next line."""
        self._notes = text

    def refresh(self) -> None:
        """Write a line."""
        if self.n == self._shown:
            return
        self._shown = self.n
        elapsed, done = time.monotonic() - self._started, self.n - self._initial
        rate = done / elapsed if elapsed > 0 else 0.0
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.n:,}{of} {self.unit}s", _time(elapsed)]
        parts += [f"{rate:.1f} a second"] if rate else []
        if self.total is not None and self.n < self.total and rate:
            parts += [f"{_time((self.total - self.n) / rate)} left"]
        parts += [self._notes] if self._notes else []
        print(f"{self.desc}: {', '.join(parts)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Write the last line, if the work took long enough to tell."""
        if self.n > self._initial and time.monotonic() - self._started >= SECONDS_SHOWN_FROM:
            self.refresh()

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
