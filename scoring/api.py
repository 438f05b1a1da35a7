"""`APIScorer`: scores from an LLM behind an API, each distinct question paid once."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..configuration import LLMProvider
from .api_errors import FILTERED, KEY, TOO_LONG
from .base import ScoreBatch, ScoringError, Usage, expand, missing, unique
from .budget import BudgetReachedError
from .client import NOT_OFFERED, Client, explain, is_missing_feature
from .engine import Engine, Outcome
from .examples import Pool, normalized
from .method import Method, UnansweredError, UnsupportedError
from .method_choice import MethodChoice, Verdict
from .money import require_price
from .prompts import Example
from .providers import resolve
from .questions import Questions
from .run import Run, current_question, current_run
from .store import Answer, ScoreStore
from .tasks import gather_or_cancel
from .transport import RequestError

logger = logging.getLogger(__name__)


@dataclass
class _Call:
    """State of one `score` call; rows are those of its distinct texts."""

    texts: list[str]
    neighbours: list[list[Example]]
    scores: NDArray[np.float32]
    run: Run
    keys: dict[int, bytes] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    cached: int = 0
    failures: int = 0  # in a row
    stopped: str | None = None  # why no more is asked
    broken: ScoringError | None = None  # where that is because nothing can work any more
    unpaid: str | None = None  # the reason of rows that there was no money for

    def open(self, rows: list[int]) -> list[int]:
        """Those of `rows` without an outcome."""
        return [row for row in rows if row not in self.errors and np.isnan(self.scores[row]).any()]

    def pay(self, usage: Usage) -> None:
        """Count what a request has cost."""
        self.usage += usage
        if self.run.progress:
            self.run.progress.add(cost_usd=usage.cost_usd)

    def note(self, row: int, outcome: Outcome, cached: bool = False) -> None:
        """Note the scores of a row, or the reason why it has none."""
        failed = isinstance(outcome, str)
        if isinstance(outcome, str):
            self.errors[row] = outcome
        else:
            self.scores[row] = outcome
            self.failures = 0
        self.cached += cached and not failed
        if self.run.progress:
            self.run.progress.add(done=1, cached=int(cached and not failed), failed=int(failed))


class APIScorer:
    """Scores from an LLM behind an API.

    Args:
        provider: Declaration.
        labels: K class names.
        multi_label: Whether several classes may apply.
        class_descriptions: `{class name: description}`.
        store: Score store, or its path. Default: the one in the Hugging Face cache folder.
        cache: False: no store.
        embed: For `prompt="nearest"`: `(list of n texts) -> (n, d)`.
        pool: Labelled `(texts, labels)` for `"few-shot"` and `"nearest"`.
        failure_limit: Texts in a row without a usable answer (refusals aside) after which no more is asked.

    Raises:
        ValueError: If the declaration asks for something that is not given, such as examples.
    """

    counts_progress = keeps_budget = True
    tells_sent = True

    def __init__(
        self,
        provider: LLMProvider,
        labels: Sequence[str],
        multi_label: bool,
        class_descriptions: dict[str, str] | None = None,
        *,
        store: ScoreStore | str | Path | None = None,
        cache: bool = True,
        embed: Callable[[list[str]], Any] | None = None,
        pool: Pool | None = None,
        failure_limit: int = 20,
    ) -> None:
        self.provider, self.name = provider, provider.name or provider.model
        self.labels, self.multi_label = list(labels), multi_label
        self.endpoint = resolve(provider)
        self.questions = Questions(
            provider, self.endpoint, self.labels, multi_label, dict(class_descriptions or {}), pool, embed
        )
        self.failure_limit = failure_limit
        self._store, self._cache = store, cache
        self._choice = MethodChoice(self.questions, provider.method)
        self._engines: WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = WeakKeyDictionary()
        if provider.method != "auto":
            self.questions.method(provider.method)

    async def score(self, texts: Sequence[str]) -> ScoreBatch:
        """Score `texts`, in order; equal texts are asked once.

        Raises:
            ScoringError: If nothing can work: no key, a refused key, an unknown model. Finished answers are stored.
        """
        bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if bad is not None:
            raise ValueError(f"{self.name}: text {bad} is a {type(texts[bad]).__name__}, not a string.")
        distinct, rows = unique(texts)
        run = current_run.get(None) or Run()
        if run.budget is not None and math.isfinite(run.budget.limit):
            await asyncio.to_thread(require_price, self.provider, self.endpoint)
        neighbours = await asyncio.to_thread(self.questions.neighbours, distinct)
        call = _Call(distinct, neighbours, missing(len(distinct), len(self.labels)), run)
        todo = [row for row, text in enumerate(distinct) if text.strip()]
        for row in set(range(len(distinct))) - set(todo):
            call.note(row, "empty text")
        name = self._choice.chosen
        if todo:
            engine = await self._engine()
            if name is None:
                question = current_question.get()
                async with nullcontext() if question and question.again else engine.probing:  # one finds out for all
                    name = await self._choice.recall(engine.store)
                    if name is None:
                        name, todo = await self._probe(engine, call, todo)
            if name is not None:
                try:
                    await self._answer(engine, call, name, todo)
                except UnsupportedError:  # the server has changed since the method was found
                    await self._choice.forget(engine.store)
                    name, todo = await self._probe(engine, call, call.open(todo))
                    if name is not None:
                        await self._answer(engine, call, name, todo)
        for row in np.flatnonzero(np.isnan(call.scores).any(axis=1)).tolist():
            if row not in call.errors:
                call.note(row, call.stopped or "not asked")
        if call.stopped and call.broken is None:
            logger.warning("%s: stopped early: %s.", self.name, call.stopped)
        method = name or self.provider.method
        batch = expand(ScoreBatch(call.scores, method, call.usage, call.errors, call.cached), rows)
        if call.broken is not None:
            call.broken.batch = batch
            raise call.broken
        return batch

    async def likely_method(self) -> str:
        """The method that will be used, as far as is known without asking; `json` where `auto` has not tried yet."""
        return await self._choice.recall(await self.store()) or "json"

    async def store(self) -> ScoreStore | None:
        """The score store, opened at its first use; None if there is none."""
        if not self._cache:
            return None
        if not isinstance(self._store, ScoreStore):
            opened = await asyncio.to_thread(ScoreStore, self._store)
            if not isinstance(self._store, ScoreStore):  # another call may have been quicker
                self._store = opened
        return self._store

    async def _engine(self) -> Engine:
        loop = asyncio.get_running_loop()
        if loop not in self._engines:
            store = await self.store()
            client = await asyncio.to_thread(Client, self.provider, self.endpoint)  # its imports take seconds
            self._engines.setdefault(loop, Engine(client, store))
        return self._engines[loop]

    async def _answer(self, engine: Engine, call: _Call, name: str, todo: list[int]) -> None:
        """Answer the rows `todo`: from the store, from a question that is on its way already, or by asking."""
        call.keys |= {row: self.questions.key(name, call.texts[row], call.neighbours[row]) for row in todo}
        found = await engine.stored([call.keys[row] for row in todo])
        question = current_question.get()
        asked: list[int] = []
        waiting: dict[int, asyncio.Future[Outcome | None]] = {}
        for row in todo:
            key = call.keys[row]
            if key in found:
                call.note(row, found[key], cached=True)
            elif (future := engine.claim(key)) is not None and not (question and question.again):
                waiting[row] = future
            else:
                asked.append(row)
        groups = self._groups(name, call, asked)

        async def worker() -> None:
            for method, rows in groups:
                if call.stopped:
                    return
                try:
                    await self._ask(engine, call, method, rows)
                except ScoringError as error:
                    if not call.usage.requests:
                        raise
                    call.broken, call.stopped = error, str(error)  # it worked at first: keep what is paid

        try:
            # More workers than requests on the wire: some write prompts and read answers meanwhile.
            workers = self.provider.max_concurrency * 3 // 2
            await gather_or_cancel(worker() for _ in range(min(workers, len(asked))))
        finally:
            for row in asked:
                engine.release(call.keys[row])
        left = []
        for row, future in waiting.items():
            outcome = await asyncio.shield(future)
            if outcome is None:
                left.append(row)
            else:
                call.note(row, outcome, cached=True)
        if left and not call.stopped:
            await self._answer(engine, call, name, left)

    def _groups(self, name: str, call: _Call, rows: list[int]) -> Iterator[tuple[Method, list[int]]]:
        """The requests to send: rows that share a prompt, `texts_per_request` together."""
        size = self.provider.texts_per_request
        together: dict[Method, list[int]] = {}
        for row in rows:
            together.setdefault(self.questions.method(name, call.texts[row]), []).append(row)
        for method, members in together.items():
            for start in range(0, len(members), size):
                yield method, members[start : start + size]

    async def _ask(
        self, engine: Engine, call: _Call, method: Method, rows: list[int], probing: bool = False, last: bool = False
    ) -> Verdict:
        """Ask about `rows` in one request, store and note what comes.

        Args:
            engine: Client and store.
            call: The call that the rows are of.
            method: The method.
            rows: Rows that share a prompt.
            probing: Whether `auto` is finding out if the method works.
            last: Whether there is no other method.

        Raises:
            ScoringError: If no other request can work either.
            UnsupportedError: While probing, if the method is not offered.
            UnansweredError: While probing, if the answer cannot be read.
        """
        try:
            reply = await engine.client.ask(method, [call.texts[r] for r in rows], _joint(call, rows), call.run)
        except BudgetReachedError as error:  # a shorter text may still do
            call.pay(error.usage)
            call.unpaid = str(error)
            for row in rows:
                call.note(row, call.unpaid)
            return Verdict.TROUBLE
        except RequestError as error:
            call.pay(error.usage)
            if error.kind in (FILTERED, TOO_LONG):
                return await self._ask_apart(engine, call, method, rows, error.reason)
            refused = error.kind != KEY and error.status in NOT_OFFERED
            if refused and ((probing and not last) or (self._choice.recalled and is_missing_feature(error))):
                raise UnsupportedError(error.reason) from None
            if (fatal := explain(error, self.provider, self.endpoint, method.name)) is not None:
                raise fatal from None
            self._failed(engine, call, rows, error.reason)
            return Verdict.TROUBLE
        call.pay(reply.usage)
        answers: list[NDArray[np.float32] | UnansweredError]
        try:
            answers = method.read(reply.data, len(rows))
        except UnansweredError as error:
            if probing and not error.refused:
                raise
            answers = [error] * len(rows)
        except UnsupportedError as error:
            if probing or self._choice.recalled:
                raise
            answers = [UnansweredError(str(error))] * len(rows)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            answers = [UnansweredError("malformed")] * len(rows)
        if probing and all(isinstance(answer, UnansweredError) and not answer.refused for answer in answers):
            raise UnansweredError(str(answers[0]))
        self._choice.recalled = False
        await self._keep(engine, call, method, rows, answers, reply.usage)
        return Verdict.ANSWERED

    async def _ask_apart(self, engine: Engine, call: _Call, method: Method, rows: list[int], reason: str) -> Verdict:
        """Ask about each row of a refused request by itself: the fault may be one text's. A row alone has none."""
        for row in rows if len(rows) > 1 else []:
            await self._ask(engine, call, method, [row])
        if len(rows) == 1:
            call.note(rows[0], reason)
            engine.tell(call.keys[rows[0]], reason)
        return Verdict.SETTLED

    async def _keep(
        self,
        engine: Engine,
        call: _Call,
        method: Method,
        rows: list[int],
        answers: Sequence[NDArray[np.float32] | UnansweredError],
        usage: Usage,
    ) -> None:
        """Store what was answered, then note all of it."""
        share = 1 / len(rows)
        tokens = round(usage.prompt_tokens * share), round(usage.completion_tokens * share)
        await engine.save(
            [
                Answer(call.keys[row], answer, self.endpoint.model, method.name, *tokens, usage.cost_usd * share)
                for row, answer in zip(rows, answers, strict=True)
                if not isinstance(answer, UnansweredError)
            ]
        )
        for row, answer in zip(rows, answers, strict=True):
            if not isinstance(answer, UnansweredError) or answer.refused:
                outcome = answer.reason if isinstance(answer, UnansweredError) else answer
                call.note(row, outcome)
                engine.tell(call.keys[row], outcome)
            else:
                self._failed(engine, call, [row], f"unusable answer: {answer.reason}")

    def _failed(self, engine: Engine, call: _Call, rows: list[int], reason: str) -> None:
        for row in rows:
            call.failures += 1
            call.note(row, reason)
            engine.tell(call.keys[row], reason)
        if call.failures >= self.failure_limit and not call.stopped:
            call.stopped = f"{call.failures} texts in a row without a usable answer, the last: {reason}"

    async def _probe(self, engine: Engine, call: _Call, todo: list[int]) -> tuple[str | None, list[int]]:
        """Find the method of `auto` by asking about the first texts.

        Returns:
            The method, if there is one, and the rows that are still to be answered.
        """

        async def ask(name: str, row: int, last: bool) -> Verdict:
            call.keys[row] = self.questions.key(name, call.texts[row], call.neighbours[row])
            method = self.questions.method(name, call.texts[row])
            return await self._ask(engine, call, method, [row], probing=True, last=last)

        try:
            found = await self._choice.find(todo, ask, engine.store)
        except ScoringError as error:
            raise ScoringError(f"{self.name}: {error}") from None
        for row, reason in found.unread.items():
            self._failed(engine, call, [row], f"unusable answer: {reason}")
        if found.trouble and not call.stopped:
            last = next(reversed(call.errors.values()))
            call.stopped = last if last == call.unpaid else f"no answer from the API, the last: {last}"
        return found.method, found.left


def _joint(call: _Call, rows: list[int]) -> list[Example]:
    """The neighbours of all rows of a request; none that is another row of it."""
    asked = {normalized(call.texts[row]) for row in rows} if len(rows) > 1 else set()
    found = {e["text"]: e for row in rows for e in call.neighbours[row] if normalized(str(e["text"])) not in asked}
    return list(found.values())
