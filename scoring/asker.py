"""Queries the LLMs of a run: scorers built when first needed, answers in the background, one budget for all."""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig, ProviderKind
from .callable_recorded import CallableScorer
from .model_scorers import Scorers, Unbroken, build_scorers, check_scorers
from .reasons import Missing, MissingKind, add_reason
from .score_batch import ScoreBatch, ScoringError
from .session.cancellation import gather_or_cancel
from .session.deadlines import DEADLINE, Patience
from .session.dollar_budget import Budget, as_budget
from .session.run_context import Dispatch, Run
from .session.score_table import ScoreTable, unique
from .session.scorer import Scorer, TextScorer, complete

if TYPE_CHECKING:
    from .session.background import Job

LONGEST_UNPAID = 32  # texts in a row without money, after which no more LLM is queried
NO_MORE = "No more LLM queries in this run: %s. The encoder answers the remaining texts."

logger = logging.getLogger(__name__)


class Asking:
    """A running query of the LLMs on the background loop.

    Args:
        coro: Queries the LLMs.
        jobs: The running jobs of the run; this one is added.
    """

    def __init__(self, coro: Coroutine[Any, Any, ScoreTable], jobs: "list[Job[Any]]") -> None:
        from .session.background import Job

        self._job, self._jobs = Job(coro), jobs
        jobs[:] = [job for job in jobs if not job.ended.is_set()] + [self._job]

    def result(self) -> ScoreTable:
        """Wait for the answers. After Ctrl-C no request goes out any more, and replies on the wire are stored first."""
        return self._job.result(self._jobs)


class Asker:
    """Queries the LLMs of one run.

    Args:
        config: The model's config.
        scorers: One for each provider, or a function that makes them, called at the first query. `None`: those that the
            config declares.
        max_cost_usd: Maximum cost of the run in US dollars, or a budget that the caller can observe. When it is spent,
            no LLM is queried any more.
        chunk_size: Texts in one query while there is a limit that a scorer does not respect by itself.
        progress: Show a progress bar.
        patience: Deadlines and hedged requests. Each text is then queried by itself; with a limit in dollars too, one
            text after the other.

    Raises:
        ValueError: For a `max_cost_usd` that is not a number from 0.
    """

    def __init__(
        self,
        config: LabelFusionConfig,
        scorers: Scorers | None = None,
        max_cost_usd: float | Budget | None = None,
        chunk_size: int = 128,
        progress: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.config, self.chunk_size, self.progress = config, chunk_size, progress
        self.budget = as_budget(max_cost_usd)
        self._limited = self.budget is not None and math.isfinite(self.budget.limit)
        self.patience = patience or Patience()
        self._jobs: list[Job[Any]] = []
        self.spent = 0.0
        self._given = scorers
        self._scorers: dict[int, Scorer] | None = None
        self._worked = False
        self._local = False  # local models alone, which have a progress bar of their own
        self._broken: dict[int, Missing] = {}  # LLMs that are not queried any more, and why
        self._over = False  # the money is spent
        self._unpaid = 0  # number of the last texts in a row without money
        self._turn = asyncio.Lock()  # the next query waits until the cost of the last one is known

    @property
    def providers(self) -> list[int]:
        """Indices of the LLMs that can be queried; recorded scores cannot."""
        return list(self._resolve())

    def submit(self, texts: list[str], only: int | None = None, waited_s: NDArray[np.floating] | None = None) -> Asking:
        """Query all LLMs, or only that with the index `only`, about `texts` in the background.

        Args:
            texts: The texts.
            only: Index of an LLM.
            waited_s: float `(n,)`: seconds that each text has waited for other LLMs; they count towards its deadline.

        Raises:
            ValueError: If the scorers do not fit the model.
        """
        scorers = {i: scorer for i, scorer in self._resolve().items() if only in (None, i)}
        waited_s = np.zeros(len(texts)) if waited_s is None else waited_s
        local = [scorer.kind == ProviderKind.LOCAL for scorer in scorers.values()]
        self._local = all(local)
        asking = Asking(self._ask(scorers, texts, waited_s), self._jobs)
        # A local LLM and the encoder compete for the same cores or GPU, so running them one after the other is faster.
        if any(local):
            asking.result()
        return asking

    def stop(self) -> None:
        """Send no more requests. Replies on the wire have a few seconds to be stored."""
        if self._jobs:
            from .session.background import stop

            stop(self._jobs)

    def _resolve(self) -> dict[int, Scorer]:
        """The scorers that can be queried, by provider."""
        if self._scorers is None:
            if self._given is None:
                scorers: Sequence[TextScorer] = build_scorers(self.config)
            else:
                scorers = self._given() if callable(self._given) else self._given
            check_scorers(scorers, self.config)
            self._scorers = {}
            for i, scorer in enumerate(map(complete, scorers)):
                if isinstance(scorer, CallableScorer) and scorer.function is None:
                    logger.warning(
                        "%s is a Python function, which is not saved with the model. Its scores are missing, unless "
                        "you pass it as `llm=`.",
                        scorer.name,
                    )
                elif scorer.kind != ProviderKind.RECORDED:
                    self._scorers[i] = scorer
        return self._scorers

    async def _ask(self, scorers: dict[int, Scorer], texts: list[str], waited_s: NDArray[np.floating]) -> ScoreTable:
        count = len(texts)
        answers = self._empty(count)
        if not scorers:
            return answers
        if self.patience.in_use:
            return await self._ask_singly(scorers, texts, waited_s)
        if not self._limited or all(scorer.capabilities.budget for scorer in scorers.values()):
            await self._ask_rows(scorers, texts, range(count), answers)
            return answers
        async with self._turn:
            for start in range(0, count, self.chunk_size):
                await self._ask_rows(scorers, texts, range(start, min(start + self.chunk_size, count)), answers)
        return answers

    async def _ask_singly(
        self, scorers: dict[int, Scorer], texts: list[str], waited_s: NDArray[np.floating]
    ) -> ScoreTable:
        """Query each text by itself, and each LLM about it by itself, until its deadline."""
        waited = dict(zip(texts, waited_s.tolist(), strict=True))

        async def ask(text: str) -> ScoreTable:
            started, end = time.monotonic(), self.patience.end(waited[text])
            asked = [self._in_time(p, scorer, text, end, len(scorers) > 1) for p, scorer in scorers.items()]
            answers = self._empty(1)
            for part in await gather_or_cancel(asked):
                answers.add(part, [0])
            answers.took_s[0] = time.monotonic() - started
            return answers

        distinct, rows = unique(texts)
        if not self._limited:
            parts = await gather_or_cancel([ask(text) for text in distinct])
        else:
            async with self._turn:
                parts = [await ask(text) for text in distinct]
        shared = np.bincount(rows)
        answers = self._empty(len(texts))
        for i, row in enumerate(rows.tolist()):
            answers.add(parts[row], [i], 1 / shared[row])
        return answers

    async def _in_time(self, p: int, scorer: Scorer, text: str, end: float, several: bool) -> ScoreTable:
        async def ask(dispatch: Dispatch) -> ScoreTable:
            answers = self._empty(1)
            await self._ask_rows({p: scorer}, [text], range(1), answers, Run(dispatch=dispatch, deadline=end))
            return answers

        def usable(answers: ScoreTable) -> bool:
            return not np.isnan(answers.scores[0, p]).any()

        told, sent = await self.patience.first(ask, end, scorer.capabilities.dispatch, usable)
        if told is not None:
            return told
        late = self._empty(1)
        reason = Missing(MissingKind.DEADLINE, DEADLINE)
        late.called[0], late.missing[0] = sent, reason.named(scorer.name) if several else reason
        return late

    async def _ask_rows(
        self,
        scorers: dict[int, Scorer],
        texts: list[str],
        rows: range,
        answers: ScoreTable,
        run: Run | None = None,
    ) -> None:
        from .session.runner import run_scorers

        if self.budget is not None and self.budget.over:
            self._stop()
        over = self._over
        asked = [] if over else [p for p in scorers if p not in self._broken]
        before = self.budget.spent if self.budget is not None else 0.0
        batches = await run_scorers(
            [Unbroken(scorers[p], partial(self._break, p)) for p in asked],
            texts[rows.start : rows.stop],
            replace(run or Run(), budget=self.budget),
            progress=bool(asked) and self.progress and not self._local and not self.patience.in_use,
        )
        found = self._table(len(rows), {p: scorers[p].name for p in asked}, batches)
        for p in scorers.keys() - set(asked):
            for row in range(len(rows)):
                add_reason(found.missing, row, self._limit_reached() if over else self._broken[p])
        self._worked |= bool(found.called.any())
        cost_usd = sum(batch.usage.cost_usd for batch in batches)
        self.spent += cost_usd
        if self.budget is not None:  # what scorers have counted themselves does not count twice
            self.budget.settle(0.0, max(0.0, before + cost_usd - self.budget.spent))
        answers.add(found, rows)

    def _table(self, count: int, names: dict[int, str], batches: Sequence[ScoreBatch]) -> ScoreTable:
        """One table from the batches of several LLMs about the same `count` texts."""
        found = self._empty(count)
        unpaid = False
        for (p, name), batch in zip(names.items(), batches, strict=True):
            found.scores[:, p] = batch.scores
            found.cost_usd += batch.usage.cost_usd / count
            called = np.ones(count, dtype=bool)
            for row, said in batch.errors.items():
                reason = Missing.of(said)
                called[row] = reason.kind not in (MissingKind.UNAVAILABLE, MissingKind.BUDGET)
                if reason.kind == MissingKind.BUDGET:
                    unpaid, reason = True, self._limit_reached()
                add_reason(found.missing, row, reason if reason.kind == MissingKind.UNAVAILABLE else reason.named(name))
            found.called |= called
        if unpaid:
            self._count_unpaid(found.called)
        return found

    def _count_unpaid(self, called: NDArray[np.bool_]) -> None:
        """Stop after many texts in a row without money, although a shorter text may still be affordable."""
        paid = np.flatnonzero(called)
        self._unpaid = len(called) - 1 - int(paid[-1]) if len(paid) else self._unpaid + len(called)
        if self._unpaid >= LONGEST_UNPAID:
            self._stop()

    def _empty(self, count: int) -> ScoreTable:
        return ScoreTable.empty(count, self.config.num_providers, self.config.num_labels)

    def late_cost_usd(self) -> float:
        """US dollars of answers that came after the deadline, or after a hedged request, since this was last called."""
        total = 0.0
        while self.patience.unheard:
            total += float(self.patience.unheard.pop().cost_usd.sum())
        return total

    def _limit_reached(self) -> Missing:
        limit = self.budget.named if self.budget else "`max_cost_usd`"
        return Missing(MissingKind.BUDGET, f"{limit} reached")

    def _stop(self) -> None:
        if not self._over:
            self._over = True
            told = f" ({self.budget.told()})" if self.budget else ""
            logger.warning(NO_MORE, self._limit_reached() + told)

    def _break(self, p: int, error: ScoringError) -> Missing:
        """Query the LLM `p` no more in this run; the others go on. An error if nothing has worked so far."""
        if not self._worked and (error.batch is None or not error.batch.mask.any()):
            raise ScoringError(f"{error} (For the encoder alone: llm_policy='never', or llm=None in `fit`.)") from error
        if p not in self._broken:
            self._broken[p] = error.missing
            if len(self._broken) == len(self._resolve()):
                logger.warning(NO_MORE, error)
            else:
                logger.warning("One LLM is not queried any more in this run: %s. The others go on.", error)
        return self._broken[p]
