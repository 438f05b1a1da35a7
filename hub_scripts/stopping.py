"""Handles Ctrl-C, SIGTERM and SIGHUP in the `labelfusion` command.

The first signal stops new queries; replies to queries in flight have a few seconds to arrive and be stored. The second
signal ends the process at once.
"""

import argparse
import os
import signal
import sys
import threading
import time
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
    stopping = _Stopping(threading.main_thread().ident or 0)
    report, sys.unraisablehook = sys.unraisablehook, lambda lost: stopping.dropped(lost) or report(lost)
    before = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, stopping.handle)
    try:
        yield
    except BaseException:
        _drain()  # with the handlers in place: a second signal ends this, too
        raise
    finally:
        stopping.end()
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = report


class _Stopping:
    """What signals do in the main thread.

    Python drops what is raised in a destructor, or a callback of the garbage collector. Then the signal is sent again
    from another thread, until it is raised where nothing drops it.

    Args:
        main: Identifier of the main thread.
    """

    def __init__(self, main: int) -> None:
        self.main = main
        self._heard = self._dropping = self._resent = self._ended = False
        self._sending = threading.Lock()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler: the first signal raises `Stopped`, the second one ends the process."""
        again, self._resent = self._resent, False
        if self._ended or self._dropping or (again and self._heard):
            return
        if self._heard:
            os._exit(128 + number)
        self._heard = True
        raise Stopped(number)

    def dropped(self, lost: "sys.UnraisableHookArgs") -> bool:
        """For `sys.unraisablehook`: whether it was a `Stopped`, which is raised once more."""
        if not isinstance(lost.exc_value, Stopped):
            return False
        self._dropping, self._heard = True, False  # what is raised here would be dropped, too
        threading.Thread(target=self._send_again, args=(lost.exc_value.number,), daemon=True).start()
        self._dropping = False
        return True

    def end(self) -> None:
        """Send no more."""
        self._ended = True
        with self._sending:  # what is being sent has arrived
            pass

    def _send_again(self, number: int) -> None:
        while True:
            time.sleep(0.01)
            with self._sending:
                if self._heard or self._ended:
                    return
                self._resent = True
                signal.pthread_kill(self.main, number)


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
