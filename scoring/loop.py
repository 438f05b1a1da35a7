"""One background event loop for the process, and `score_texts`, which runs several scorers on it at once.

A loop per call (`asyncio.run`) would break pooled connections and fail inside Jupyter and FastAPI, which run a loop.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .base import ScoreBatch, Scorer, expand, unique
from .budget import Budget
from .run import Progress, ProgressBar, Run, current_run
from .tasks import gather_or_cancel

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None  # a forked child has the object, but the thread is not alive


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background event loop, started at the first call in a daemon thread."""
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="labelfusion-loop", daemon=True)
            _thread.start()
        return _loop


def submit(coro: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start `coro` on the background loop and return at once; `Future.cancel` cancels it."""
    return asyncio.run_coroutine_threadsafe(coro, background_loop())


def run_sync(coro: Coroutine[Any, Any, T], cleanup_s: float = 10.0) -> T:
    """Run `coro` on the background loop and wait for its result; also from a thread whose own loop is running.

    Ctrl-C cancels it and waits up to `cleanup_s` seconds, so that it can put away what was finished, before
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
    ended = threading.Event()

    async def body() -> T:
        try:
            return await coro
        finally:
            ended.set()

    future = submit(body())
    try:
        return future.result()
    except BaseException:
        if not ended.is_set():
            future.cancel()
            ended.wait(cleanup_s)
        raise


def score_texts(
    scorers: Sequence[Scorer],
    texts: Sequence[str],
    *,
    progress: bool | Callable[..., None] = False,
    max_cost_usd: float | Budget | None = None,
) -> tuple[NDArray[np.float32], list[ScoreBatch]]:
    """Score `texts` with all `scorers` at once; a text that occurs several times is asked once.

    Args:
        scorers: P scorers with the same K classes.
        texts: n texts.
        progress: Show a progress bar, or a function called with a `scoring.run.Progress` at each step.
        max_cost_usd: Limit in US dollars for this call, all scorers together; or a budget that several calls share.

    Returns:
        float32 `(n, P, K)`, NaN for a missing answer, and one `ScoreBatch` of n rows for each scorer.

    Raises:
        ValueError: If the scorers disagree about the classes.
        ScoringError: If a scorer cannot work at all (no key, unknown model); what was finished is in the score store.
    """
    return run_sync(ascore_texts(scorers, texts, progress=progress, max_cost_usd=max_cost_usd))


async def ascore_texts(
    scorers: Sequence[Scorer],
    texts: Sequence[str],
    *,
    progress: bool | Callable[..., None] = False,
    max_cost_usd: float | Budget | None = None,
) -> tuple[NDArray[np.float32], list[ScoreBatch]]:
    """`score_texts` as a coroutine, for callers that have an event loop, and perhaps a `Budget`, of their own."""
    for scorer in scorers:
        if list(scorer.labels) != list(scorers[0].labels):
            raise ValueError(f"{scorer.name} scores {scorer.labels}, but {scorers[0].name} {scorers[0].labels}.")
    distinct, rows = unique(texts)
    shown = Progress(total=len(distinct) * len(scorers), report=progress if callable(progress) else None)
    bar = ProgressBar(shown.total) if progress is True else None
    shown.report = bar or shown.report
    budget = max_cost_usd if max_cost_usd is None or isinstance(max_cost_usd, Budget) else Budget(max_cost_usd)
    token = current_run.set(Run(budget, shown))
    try:
        batches = await gather_or_cancel(_score(scorer, distinct, shown) for scorer in scorers)
    finally:
        current_run.reset(token)
        if bar:
            bar.close()
    if not batches:
        return np.zeros((len(texts), 0, 0), dtype=np.float32), []
    batches = [expand(batch, rows) for batch in batches]
    return np.stack([batch.scores for batch in batches], axis=1), batches


async def _score(scorer: Scorer, texts: list[str], shown: Progress) -> ScoreBatch:
    batch = await scorer.score(texts)
    if not getattr(scorer, "counts_progress", False):
        shown.add(done=len(texts), failed=len(batch.errors), cost_usd=batch.usage.cost_usd)
    return batch
