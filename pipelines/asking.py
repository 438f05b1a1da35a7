"""Asking the LLMs of a run: scorers built when first needed, answers in the background, one budget for all of it."""

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig, LLMProvider
from ..scoring.base import Scorer, ScoringError
from ..scoring.tasks import gather_or_cancel
from .patience import DEADLINE, Patience

if TYPE_CHECKING:
    from ..scoring.money import Budget

Scorers: TypeAlias = Sequence[Scorer] | Callable[[], Sequence[Scorer]]

SERVERS_VARIABLE = "LABELFUSION_SERVERS"  # hosts, separated by commas, that models from the Hub may send texts to
BUDGET_REASON = "budget of $"  # how the reason begins that a scorer gives for a text it had no money for

logger = logging.getLogger(__name__)


def build_scorers(config: LabelFusionConfig, llm: Any = None, **runtime: Any) -> list[Scorer]:
    """Make the scorers of a model's providers.

    Args:
        config: The model's config.
        llm: What to ask instead of the declared providers, for one provider or as a list with one entry for each: a
            function `(list of n texts) -> (n, num_labels)` probabilities, a model string, an `LLMProvider`, a dict of
            its fields, or a `Scorer`. `None`: as declared.
        **runtime: For `scoring.build_scorer` (`store`, `cache`, `embed`, `pool`, ...).

    Raises:
        ValueError: If `llm` does not fit the number of providers.
        ScoringError: If a model from the Hub names a server of its author's choice, which nobody has allowed.
    """
    from ..scoring.factory import build_scorer

    chosen = list(llm) if isinstance(llm, list | tuple) else [llm] * max(config.num_providers, 1)
    if len(chosen) != config.num_providers or (
        llm is not None and chosen and chosen[0] is llm and config.num_providers > 1
    ):
        names = [p.name for p in config.providers]
        raise ValueError(
            f"`llm` must name {config.num_providers} LLMs, one for each provider of the model {names}; got {llm!r}. "
            + ("The model was made without LLMs." if not names else "Use None in the list for a provider as declared.")
        )
    scorers: list[Scorer] = []
    for provider, choice in zip(config.providers, chosen, strict=True):
        function = None
        if hasattr(choice, "score"):
            scorers.append(choice)
            continue
        if choice is None:
            _check_servers(provider, config)
        if callable(choice):
            provider, function = LLMProvider(model="callable", name=provider.name), choice
        elif choice is not None:
            provider = LLMProvider.from_any(choice)
        scorers.append(
            build_scorer(
                provider,
                config.label_names,
                config.multi_label,
                config.class_descriptions,
                function=function,
                **runtime,
            )
        )
    return scorers


def _check_servers(provider: LLMProvider, config: LabelFusionConfig) -> None:
    """Ask before texts, and perhaps a key, go where a file from the Hub says; a folder of one's own may say so."""
    source = config.name_or_path
    if not source or os.path.isdir(source):
        return
    urls = [provider.api_base, *(value for value in provider.params.values() if isinstance(value, str))]
    hosts = {urlsplit(url).hostname for url in urls if url and "://" in url} - {None, "localhost", "127.0.0.1", "::1"}
    allowed = {host.strip() for host in os.environ.get(SERVERS_VARIABLE, "").split(",")}
    for host in sorted(hosts - allowed, key=str):
        key = f", and the key in {provider.api_key_env}" if provider.api_key_env else ""
        raise ScoringError(
            f"{source} wants texts{key} sent to {host}, a server that its author chose. If you trust it, set the "
            f"environment variable {SERVERS_VARIABLE}={host}."
        )


@dataclass
class Answers:
    """What the LLMs said about n texts.

    Args:
        scores: float32 `(n, num_providers, num_labels)`, NaN for a missing answer.
        called: bool `(n,)`: whether an LLM was asked.
        cost_usd: float64 `(n,)`: US dollars, those of a request split evenly over its texts.
        errors: `{row: reason}` for missing answers.
    """

    scores: NDArray[np.float32]
    called: NDArray[np.bool_]
    cost_usd: NDArray[np.float64]
    errors: dict[int, str] = field(default_factory=dict)

    @classmethod
    def none(cls, count: int, config: LabelFusionConfig) -> "Answers":
        """No answers about `count` texts, yet."""
        scores = np.full((count, config.num_providers, config.num_labels), np.nan, dtype=np.float32)
        return cls(scores, np.zeros(count, dtype=bool), np.zeros(count))


class Asking:
    """A question to the LLMs that is under way on the background loop."""

    def __init__(self, coro: Any) -> None:
        from ..scoring.loop import submit

        self._ended = threading.Event()
        self._future: Future[Answers] = submit(self._body(coro))

    async def _body(self, coro: Any) -> Answers:
        try:
            return await coro
        finally:
            self._ended.set()

    def result(self) -> Answers:
        """Wait for the answers."""
        return self._future.result()

    def cancel(self, wait_s: float = 5.0) -> None:
        """Give up, leaving the scorers `wait_s` seconds to put away what is paid for."""
        if self._future.cancel():
            self._ended.wait(wait_s)


class Asker:
    """Asks the LLMs of one run.

    Args:
        config: The model's config.
        scorers: One for each provider, or a function that makes them, called at the first question. `None`: those that
            the config declares.
        max_cost_usd: US dollars that the run may spend; when they are spent, no more is asked.
        chunk_size: Texts asked at a time while there is a limit.
        progress: Show a progress bar.
        patience: Deadlines and second requests: each text is then a question of its own; with a limit in dollars too,
            one after the other.

    Raises:
        ValueError: For a `max_cost_usd` that is not a number from 0.
    """

    def __init__(
        self,
        config: LabelFusionConfig,
        scorers: Scorers | None = None,
        max_cost_usd: float | None = None,
        chunk_size: int = 128,
        progress: bool = False,
        patience: Patience | None = None,
    ) -> None:
        if max_cost_usd is not None and (
            not isinstance(max_cost_usd, int | float) or isinstance(max_cost_usd, bool) or not max_cost_usd >= 0
        ):
            raise ValueError(f"`max_cost_usd` must be US dollars, 0 or more, or None; got {max_cost_usd!r}.")
        self.config, self.max_cost_usd, self.chunk_size, self.progress = config, max_cost_usd, chunk_size, progress
        self.patience = patience or Patience()
        self.spent = 0.0
        self._open: list[Budget] = []  # of the questions under way
        self._given = scorers
        self._scorers: dict[int, Scorer] | None = None
        self._worked = False
        self._local = False  # local models alone, which have a progress bar of their own
        self._stopped: str | None = None  # why nothing more is asked
        self._turn = asyncio.Lock()  # with a limit, one question at a time: the next must know what the last one cost

    @property
    def providers(self) -> list[int]:
        """Indices of the LLMs that can be asked; those of recorded scores cannot."""
        return list(self._resolve())

    def submit(self, texts: list[str], only: int | None = None) -> Asking:
        """Ask all LLMs, or that of the index `only`, about `texts` in the background.

        Raises:
            ValueError: If the scorers do not fit the model.
        """
        scorers = {i: scorer for i, scorer in self._resolve().items() if only in (None, i)}
        asking = Asking(self._ask(scorers, texts))
        # A local LLM and the encoder would fight for the same cores or the same GPU: one after the other is faster.
        local = [getattr(getattr(scorer, "provider", None), "is_local", False) for scorer in scorers.values()]
        self._local = all(local)
        if any(local):
            try:
                asking.result()
            except BaseException:
                asking.cancel()
                raise
        return asking

    def _resolve(self) -> dict[int, Scorer]:
        """The scorers that can be asked, by provider."""
        if self._scorers is None:
            if self._given is None:
                scorers: Sequence[Scorer] = build_scorers(self.config)
            else:
                scorers = self._given() if callable(self._given) else self._given
            check_scorers(scorers, self.config)
            self._scorers = {}
            for i, scorer in enumerate(scorers):
                if getattr(scorer, "function", self) is None:
                    logger.warning(
                        "%s is a Python function, which is not saved with the model. Its scores are missing, unless "
                        "you pass it as `llm=`.",
                        scorer.name,
                    )
                elif getattr(scorer, "method", None) != "recorded":
                    self._scorers[i] = scorer
        return self._scorers

    async def _ask(self, scorers: dict[int, Scorer], texts: list[str]) -> Answers:
        count = len(texts)
        answers = Answers.none(count, self.config)
        if not scorers:
            return answers
        if self.patience.in_use:
            return await self._ask_singly(scorers, texts)
        if self.max_cost_usd is None:
            await self._ask_rows(scorers, texts, slice(0, count), answers)
            return answers
        async with self._turn:
            for start in range(0, count, self.chunk_size):
                await self._ask_rows(scorers, texts, slice(start, min(start + self.chunk_size, count)), answers)
        return answers

    async def _ask_singly(self, scorers: dict[int, Scorer], texts: list[str]) -> Answers:
        """Each text by itself, as long as the patience lasts."""
        distinct = list(dict.fromkeys(texts))
        if self.max_cost_usd is None:
            parts = await gather_or_cancel([self._in_time(scorers, text) for text in distinct])
        else:
            async with self._turn:
                parts = [await self._in_time(scorers, text) for text in distinct]
        found = dict(zip(distinct, parts, strict=True))
        shared = Counter(texts)
        rows = [found[text] for text in texts]
        return Answers(
            np.concatenate([part.scores for part in rows]),
            np.concatenate([part.called for part in rows]),
            np.array([part.cost_usd[0] / shared[text] for text, part in zip(texts, rows, strict=True)]),
            {i: part.errors[0] for i, part in enumerate(rows) if 0 in part.errors},
        )

    async def _in_time(self, scorers: dict[int, Scorer], text: str) -> Answers:
        async def ask() -> Answers:
            answers = Answers.none(1, self.config)
            await self._ask_rows(scorers, [text], slice(0, 1), answers)
            return answers

        answers = await self.patience.first(ask)
        if answers is None:
            answers = Answers.none(1, self.config)
            answers.called[0], answers.errors[0] = True, DEADLINE
        return answers

    async def _ask_rows(self, scorers: dict[int, Scorer], texts: list[str], rows: slice, answers: Answers) -> None:
        from ..scoring.loop import ascore_texts
        from ..scoring.money import Budget

        remaining = None
        if self.max_cost_usd is not None:  # less what those cost that are still to come, late as they may be
            left = self.max_cost_usd - self.spent - sum(b.spent + b.reserved for b in self._open)
            remaining = Budget(max(left, 0.0))
            if left <= 0:
                self._stop(self._limit_reached())
        if self._stopped is None:
            self._open += [remaining] if remaining else []
            try:
                scores, batches = await ascore_texts(
                    list(scorers.values()),
                    texts[rows],
                    progress=self.progress and not self._local,
                    max_cost_usd=remaining,
                )
            except ScoringError as error:
                if not self._worked:
                    raise ScoringError(
                        f"{error} (For the encoder alone: llm_policy='never', or llm=None in `fit`.)"
                    ) from error
                self._stop(str(error))
            finally:
                self._open = [budget for budget in self._open if budget is not remaining]
        count = rows.stop - rows.start
        if self._stopped is not None:
            answers.errors.update(dict.fromkeys(range(rows.start, rows.stop), self._stopped))
            return
        self._worked = True
        answers.scores[rows, list(scorers)] = scores
        unasked = np.zeros(count, dtype=int)  # by how many providers, for want of money
        for scorer, batch in zip(scorers.values(), batches, strict=True):
            self.spent += batch.usage.cost_usd
            answers.cost_usd[rows] += batch.usage.cost_usd / count
            for row, reason in batch.errors.items():
                if reason.startswith(BUDGET_REASON):
                    unasked[row] += 1
                    reason = self._limit_reached()
                said = answers.errors.get(row + rows.start)
                answers.errors[row + rows.start] = "; ".join(filter(None, [said, f"{scorer.name}: {reason}"]))
        answers.called[rows] = unasked < len(scorers)
        if unasked.any():
            self._stop(self._limit_reached())

    def late_cost_usd(self) -> float:
        """US dollars of the answers that have come too late, or second, since this was last called."""
        total = 0.0
        while self.patience.unheard:
            total += float(self.patience.unheard.pop().cost_usd.sum())
        return total

    def _limit_reached(self) -> str:
        return f"`max_cost_usd` of ${self.max_cost_usd:g} reached"

    def _stop(self, reason: str) -> None:
        if self._stopped is None:
            logger.warning("No more LLM questions in this run: %s. The encoder answers the remaining texts.", reason)
        self._stopped = reason


def check_scorers(scorers: Sequence[Scorer], config: LabelFusionConfig) -> None:
    """Refuse scorers that do not fit the model.

    Raises:
        ValueError: For another number of scorers than providers, other classes, or another kind of problem.
    """
    if len(scorers) != config.num_providers:
        raise ValueError(
            f"`scorers` has {len(scorers)} entries, but the model declares {config.num_providers} LLM providers: "
            f"{[p.name for p in config.providers]}."
        )
    for scorer in scorers:
        if list(scorer.labels) != config.label_names or scorer.multi_label != config.multi_label:
            raise ValueError(
                f"The scorer {scorer.name!r} scores {list(scorer.labels)} (multi_label={scorer.multi_label}), but the "
                f"model's classes are {config.label_names} (multi_label={config.multi_label})."
            )
