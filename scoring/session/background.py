"""One background event loop for the process, and jobs on it that can be stopped.

A loop per call (`asyncio.run`) would break pooled connections and fail inside Jupyter and FastAPI, which run a loop.
"""

import asyncio
import atexit
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

from .cancellation import DRAIN_S, on_wire

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_in_a_hurry = False  # a second Ctrl-C
_thread: threading.Thread | None = None  # a forked child has the object, but the thread is not alive


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background event loop, started at the first call in a daemon thread."""
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="labelfusion-loop", daemon=True)
            _thread.start()
            atexit.register(drain)
            if parent_process() is not None:  # such a child ends without `atexit`
                Finalize(None, drain, exitpriority=10)
        return _loop


def submit(coro: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start `coro` on the background loop and return at once; `Future.cancel` cancels it."""
    return asyncio.run_coroutine_threadsafe(coro, background_loop())


class Job(Generic[T]):
    """A coroutine on the background loop, which can be stopped.

    Args:
        coro: The coroutine.
    """

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        self.ended = threading.Event()
        self._result: Future[T] = Future()
        self._task: asyncio.Task[T] | None = None
        self._loop = background_loop()
        self._loop.call_soon_threadsafe(self._start, coro)

    def _start(self, coro: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(coro)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self._result.cancel()
        elif (error := task.exception()) is not None:
            self._result.set_exception(error)
        else:
            self._result.set_result(task.result())
        self.ended.set()

    def result(self, others: "Sequence[Job[Any]]" = ()) -> T:
        """Wait for the result. Where that fails, as after Ctrl-C, the job is stopped first, and `others` with it."""
        try:
            return self._result.result()
        except BaseException:
            stop([self, *others])
            raise

    def cancel(self) -> None:
        """Stop it: no new request goes out, replies on the wire are stored. The second time, end it at once."""
        self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())


def stop(jobs: Sequence[Job[Any]]) -> None:
    """Stop `jobs` together: no new request goes out, and replies on the wire have `DRAIN_S` seconds to be stored.

    A second Ctrl-C meanwhile ends at once.
    """
    global _in_a_hurry
    jobs = [job for job in dict.fromkeys(jobs) if not job.ended.is_set()]  # each once: twice would not let it finish
    for job in jobs:
        job.cancel()
    end = time.monotonic() + DRAIN_S + 1.0
    try:
        for job in jobs:
            job.ended.wait(max(0.0, end - time.monotonic()))
    except BaseException:
        _in_a_hurry = True
        raise


def drain() -> None:
    """Wait, `DRAIN_S` seconds at most, until all replies on the wire are stored, late ones included."""
    end = time.monotonic() + DRAIN_S
    while not _in_a_hurry and time.monotonic() < end:
        if not any(not task.done() and task.get_loop() is _loop for task in list(on_wire)):
            return
        time.sleep(0.02)


def run_sync(coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` on the background loop and wait for its result; also from a thread whose own loop is running.

    Ctrl-C stops it: no new request goes out, and replies on the wire are awaited for a few seconds and stored before
    `KeyboardInterrupt` goes on.

    Raises:
        RuntimeError: When called from the background loop itself, which would wait for ever.
    """
    loop = background_loop()
    try:
        here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if here is loop:
        coro.close()
        raise RuntimeError("run_sync was called on LabelFusion's own event loop; await the coroutine instead.")
    return Job(coro).result()
