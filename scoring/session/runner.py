"""One background event loop for the process, and `score_texts`, which runs several scorers on it at once.

A loop per call (`asyncio.run`) would break pooled connections and fail inside Jupyter and FastAPI, which run a loop.
"""

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..score_batch import ScoreBatch
from ..scorer import Scorer, TextScorer, complete
from .cancellation import DRAIN_S, gather_or_cancel, on_wire
from .dollar_budget import Budget
from .run_context import Progress, Run, shown_progress
from .score_table import expand, unique

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_in_a_hurry = False  # the user has asked twice
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
        """Let it stop asking, and store what is on the wire; the second time, end it at once."""
        self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())


def stop(jobs: Sequence[Job[Any]]) -> None:
    """Stop `jobs` together: nothing new is asked, and what is on the wire has `DRAIN_S` seconds to be stored.

    A second Ctrl-C meanwhile is not held up.
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
    """Wait, `DRAIN_S` seconds at most, until what is on the wire is stored, also what nobody waits for any more."""
    end = time.monotonic() + DRAIN_S
    while not _in_a_hurry and time.monotonic() < end:
        if not any(not task.done() and task.get_loop() is _loop for task in list(on_wire)):
            return
        time.sleep(0.02)


def run_sync(coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` on the background loop and wait for its result; also from a thread whose own loop is running.

    Ctrl-C stops it: nothing more is asked, and what is on the wire is awaited for a few seconds and stored before
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


def score_texts(
    scorers: Sequence[TextScorer],
    texts: Sequence[str],
    *,
    progress: bool | Callable[..., None] = False,
    max_cost_usd: float | Budget | None = None,
) -> tuple[NDArray[np.float32], list[ScoreBatch]]:
    """Score `texts` with all `scorers` at once; a text that occurs several times is asked once.

    Args:
        scorers: P scorers with the same K classes.
        texts: n texts.
        progress: Show a progress bar, or a function called with a `scoring.session.run_context.Progress` at each step.
        max_cost_usd: Limit in US dollars for this call, all scorers together; or a budget that several calls share.

    Returns:
        float32 `(n, P, K)`, NaN for a missing answer, and one `ScoreBatch` of n rows for each scorer.

    Raises:
        ValueError: If the scorers disagree about the classes.
        ScoringError: If a scorer cannot work at all (no key, unknown model); what was finished is in the score store.
    """
    return run_sync(ascore_texts(scorers, texts, progress=progress, max_cost_usd=max_cost_usd))


async def ascore_texts(
    scorers: Sequence[TextScorer],
    texts: Sequence[str],
    *,
    progress: bool | Callable[..., None] = False,
    max_cost_usd: float | Budget | None = None,
) -> tuple[NDArray[np.float32], list[ScoreBatch]]:
    """`score_texts` as a coroutine, for callers that have an event loop, and perhaps a `Budget`, of their own."""
    for scorer in scorers:
        if list(scorer.labels) != list(scorers[0].labels):
            raise ValueError(f"{scorer.name} scores {scorer.labels}, but {scorers[0].name} {scorers[0].labels}.")
    budget = max_cost_usd if max_cost_usd is None or isinstance(max_cost_usd, Budget) else Budget(max_cost_usd)
    batches = await run_scorers(scorers, texts, Run(budget), progress)
    if not batches:
        return np.zeros((len(texts), 0, 0), dtype=np.float32), []
    return np.stack([batch.scores for batch in batches], axis=1), batches


async def run_scorers(
    scorers: Sequence[TextScorer], texts: Sequence[str], run: Run, progress: bool | Callable[..., None] = False
) -> list[ScoreBatch]:
    """Score `texts` with all `scorers` at once, each distinct text once. The only place where duplicates are removed.

    Args:
        scorers: Whole ones, or those of the user's own.
        texts: n texts.
        run: Budget and deadline; its `progress` is made here.
        progress: As for `score_texts`.

    Returns:
        One `ScoreBatch` of n rows for each scorer.
    """
    distinct, rows = unique(texts)
    with shown_progress(len(distinct) * len(scorers), progress) as shown:
        ours = replace(run, progress=shown)
        batches = await gather_or_cancel(_score(complete(scorer), distinct, ours, shown) for scorer in scorers)
    return [expand(batch, rows) for batch in batches]


async def _score(scorer: Scorer, texts: list[str], run: Run, shown: Progress) -> ScoreBatch:
    batch = await scorer.score(texts, run)
    if not scorer.capabilities.progress:
        shown.add(done=len(texts), failed=len(batch.errors), cost_usd=batch.usage.cost_usd)
    return batch
