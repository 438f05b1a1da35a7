"""Handles Ctrl-C, SIGTERM and SIGHUP in the `labelfusion` command.

The first signal stops new queries; replies to queries in flight have a few seconds to arrive and be stored. The second
signal ends the process at once.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP is not everywhere


class Stopped(KeyboardInterrupt):
    """Raised by the first signal, wherever the program is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Handle the signals inside the context. Signals ignored at process start, as by `nohup`, stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if heard:
            os._exit(128 + number)
        heard.append(number)
        raise Stopped(number)

    def deliver_again(lost: "sys.UnraisableHookArgs") -> None:
        """Python drops what is raised in a destructor or a callback of the garbage collector."""
        if isinstance(lost.exc_value, Stopped):
            heard.clear()
            main, number = threading.main_thread().ident, lost.exc_value.number
            # From another thread: an exception raised here would be dropped, too.
            threading.Timer(0.01, lambda: signal.pthread_kill(main or 0, number)).start()
        else:
            report(lost)

    report, sys.unraisablehook = sys.unraisablehook, deliver_again
    before = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, handle)
    try:
        yield
    except BaseException:
        _drain()  # with the handlers in place: a second signal ends this, too
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = report


def told(interrupt: KeyboardInterrupt, verb: str, args: argparse.Namespace | None) -> int:
    """Say in one line what is kept. Returns: the exit status."""
    number = getattr(interrupt, "number", signal.SIGINT)
    kept = [*getattr(interrupt, "__notes__", []), *_stored()]
    if kept:
        text = f"{'; '.join(kept)}: the same command goes on there."
    elif getattr(args, "no_cache", False):
        text = "Without the score store nothing is kept."
    else:
        text = "Nothing is kept yet: the same command starts anew."
    print(f"labelfusion {verb}: interrupted ({signal.Signals(number).name}). {text}", file=sys.stderr)
    return 128 + number


def _drain() -> None:
    if (loop := sys.modules.get("labelfusion.scoring.session.background")) is not None:
        loop.drain()


def _stored() -> list[str]:
    """What this process has put into score stores on disk."""
    store = sys.modules.get("labelfusion.scoring.store.score_store")
    written = store.ScoreStore.written.items() if store is not None else ()
    return [f"{count} LLM answers of this run are kept in {path}" for path, count in written if path != ":memory:"]
