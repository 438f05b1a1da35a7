"""`score_texts`: runs several scorers at once, each distinct text once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..score_batch import ScoreBatch
from .background import run_sync
from .cancellation import gather_or_cancel
from .dollar_budget import Budget
from .progress import Progress, shown_progress
from .run_context import Run
from .score_table import expand, unique
from .scorer import Scorer, TextScorer, complete


def score_texts(
    scorers: Sequence[TextScorer],
    texts: Sequence[str],
    *,
    progress: bool | Callable[..., None] = False,
    max_cost_usd: float | Budget | None = None,
) -> tuple[NDArray[np.float32], list[ScoreBatch]]:
    """Score `texts` with all `scorers` concurrently; a text that occurs several times is queried once.

    Args:
        scorers: P scorers with the same K classes.
        texts: n texts.
        progress: Show a progress bar, or a function called with a `scoring.session.progress.Progress` at each step.
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
    """Score `texts` with all `scorers` concurrently, each distinct text once: duplicates are removed here alone.

    Args:
        scorers: `Scorer`s, or `TextScorer`s of the user.
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
