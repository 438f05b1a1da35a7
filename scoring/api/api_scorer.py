"""`APIScorer`: scores from an LLM behind an API; each distinct query is paid once."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ...configuration import LLMProvider, ProviderKind, Task
from ..methods.request_method import Method, UnsupportedError
from ..methods.server_traits import UnknownScaleError
from ..open_store import open_store
from ..prompting.examples import Pool, normalized
from ..prompting.prompts import Example
from ..providers.endpoints import resolve
from ..providers.error_replies import FILTERED, TOO_LONG
from ..providers.pricing import require_price
from ..providers.request_error import UNCONNECTED, RequestError
from ..reasons import Missing, MissingKind
from ..score_batch import Capabilities, ScoreBatch, ScoringError, UnansweredError, missing
from ..session.cancellation import gather_or_drain, leave_wire
from ..session.dollar_budget import BudgetReachedError
from ..session.run_context import Run
from ..store.stored_answers import Store
from .call_state import Call
from .client import Client, explain, is_missing_feature, is_refused
from .coordination import Coordinator, Outcome, Turns
from .method_choice import MethodChoice, Verdict
from .questions import Questions

logger = logging.getLogger(__name__)


class APIScorer:
    """Scores from an LLM behind an API.

    Args:
        provider: Declaration.
        labels: K class names.
        multi_label: Whether several classes may apply.
        class_descriptions: `{class name: description}`.
        store: Score store, or where it is, see `open_store`. Default: the one in the Hugging Face cache folder.
        cache: False: no store.
        embed: For `prompt="nearest"`: `(list of n texts) -> (n, d)`.
        pool: Labelled `(texts, labels)` for `"few-shot"` and `"nearest"`.
        failure_limit: Consecutive texts without a usable answer, not counting refusals, after which no more requests
            are sent.

    Raises:
        ValueError: If the declaration needs something that is not given, such as examples.
    """

    kind = ProviderKind.API
    capabilities = Capabilities(progress=True, budget=True, dispatch=True)

    def __init__(
        self,
        provider: LLMProvider,
        labels: Sequence[str],
        multi_label: bool,
        class_descriptions: dict[str, str] | None = None,
        *,
        store: Store | str | Path | None = None,
        cache: bool = True,
        embed: Callable[[list[str]], Any] | None = None,
        pool: Pool | None = None,
        failure_limit: int = 20,
    ) -> None:
        self.provider, self.name = provider, provider.name or provider.model
        self.labels, self.multi_label = list(labels), multi_label
        self.endpoint = resolve(provider)
        task = Task(self.labels, multi_label, dict(class_descriptions or {}))
        self.questions = Questions(provider, self.endpoint, task, pool, embed)
        self.failure_limit = failure_limit
        self._store, self._cache = store, cache
        self._choice = MethodChoice(self.questions, provider.method)
        self._coordinators: WeakKeyDictionary[asyncio.AbstractEventLoop, Coordinator] = WeakKeyDictionary()
        if provider.method != "auto":
            self.questions.method(provider.method)

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """Score `texts`, in order. Equal texts have the same answer, from the store or from the first of them.

        Raises:
            ScoringError: If nothing can work: no key, a refused key, an unknown model. Finished answers are stored.
        """
        bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if bad is not None:
            raise ValueError(f"{self.name}: text {bad} is a {type(texts[bad]).__name__}, not a string.")
        texts = list(texts)
        run = replace(run or Run(), halted=False)  # calls stop independently
        if run.budget is not None and math.isfinite(run.budget.limit):
            await asyncio.to_thread(require_price, self.provider, self.endpoint)
        neighbours = await asyncio.to_thread(self.questions.neighbours, texts)
        scores = missing(len(texts), len(self.labels))
        call = Call(texts, neighbours, scores, run, self.endpoint.model, self.failure_limit)
        todo = [row for row, text in enumerate(texts) if text.strip()]
        for row in set(range(len(texts))) - set(todo):
            call.note(row, Missing(MissingKind.NO_TEXT, "empty text"))
        name = self._choice.chosen
        if todo:
            shared = await self._coordinator()
            await self.questions.learnt.scale.recall(shared.store, self.questions.model_key())
            if name is None:
                ((name, todo),) = await gather_or_drain([self._method(shared, call, todo)], run.halt)
            if name is not None:
                try:
                    await self._answer(shared, call, name, todo)
                except UnsupportedError:  # the server has changed since the method was found
                    await self._choice.forget(shared.store)
                    ((name, todo),) = await gather_or_drain([self._method(shared, call, call.open(todo))], run.halt)
                    if name is not None:
                        await self._answer(shared, call, name, todo)
            await call.reread(shared)  # another call may have shown the scale
            for _, row, error, _ in call.pending:
                call.note(row, error.missing)
        for row in np.flatnonzero(np.isnan(call.scores).any(axis=1)).tolist():
            if row not in call.errors:
                call.note(row, call.stopped or Missing(MissingKind.STOPPED, "not asked"))
        if call.stopped and call.broken is None:
            server = self.endpoint.base if UNCONNECTED in call.stopped else None
            asked = f" Is a server running at {server}?" if server else ""
            logger.warning("%s: stopped early: %s.%s", self.name, call.stopped.rstrip("."), asked)
        method = name or self.provider.method
        batch = ScoreBatch(call.scores, method, call.usage, dict(call.errors), call.cached)
        if call.broken is not None:
            call.broken.batch = batch
            raise call.broken
        return batch

    async def likely_method(self) -> str:
        """The method that will be used, without sending a request; `json` if `auto` has not tried any yet."""
        return await self._choice.recall(await self.store()) or "json"

    async def store(self) -> Store | None:
        """The score store, opened at its first use; None if there is none."""
        if not self._cache:
            return None
        if not isinstance(self._store, Store):
            opened = await asyncio.to_thread(open_store, self._store)
            if not isinstance(self._store, Store):  # unless another call has opened it meanwhile
                self._store = opened
        return self._store

    async def _coordinator(self) -> Coordinator:
        loop = asyncio.get_running_loop()
        if loop not in self._coordinators:
            store = await self.store()
            client = await asyncio.to_thread(Client, self.provider, self.endpoint)  # its imports take seconds
            self._coordinators.setdefault(loop, Coordinator(client, store, len(self.labels), self.multi_label))
        return self._coordinators[loop]

    async def _answer(self, shared: Coordinator, call: Call, name: str, todo: list[int]) -> None:
        """Answer the rows `todo` from the store, from an equal running query, or by a request."""
        call.keys |= {row: self.questions.key(name, call.texts[row], call.neighbours[row]) for row in todo}
        found = await shared.stored([call.keys[row] for row in todo])
        again = call.run.is_hedge
        ours: list[int] = []
        waiting: dict[int, asyncio.Future[Outcome | None]] = {}
        asked: list[int] = []
        for row in todo:
            key = call.keys[row]
            if key in found:
                call.note(row, found[key], cached=True)
                continue
            future = shared.start(key)
            if future is None:
                ours.append(row)
            elif not again:
                waiting[row] = future
                continue
            asked.append(row)
        try:
            taken = await self._ask_all(shared, call, name, asked, again)
            while taken and not call.stopped:  # by other processes; what they give up is queried here
                look = await shared.change([call.keys[row] for row in taken])
                for row in taken:
                    if (scores := look.found.get(call.keys[row])) is not None:
                        self._found(shared, call, row, scores)
                free = [row for row in taken if call.keys[row] in look.free]
                taken = [row for row in taken if call.keys[row] in look.taken]
                taken += await self._ask_all(shared, call, name, free, again)
        finally:
            try:
                await shared.release([call.keys[row] for row in ours])
            finally:
                for row in ours:
                    shared.finish(call.keys[row])
        left = []
        for row, future in waiting.items():
            outcome = await asyncio.shield(future)
            if outcome is None:
                left.append(row)
            else:
                call.note(row, outcome, cached=True)
        if left and not call.stopped:
            await self._answer(shared, call, name, left)

    async def _ask_all(self, shared: Coordinator, call: Call, name: str, rows: list[int], again: bool) -> list[int]:
        """Query `rows`. Returns: those that other processes are querying."""
        turns = Turns(
            shared,
            self._groups(name, call, rows),
            call.keys,
            lambda row, scores: self._found(shared, call, row, scores),
            claimed=not again,
        )

        async def worker() -> None:
            while not call.stopped and not call.run.halted:
                try:
                    turn = await turns.next()
                except ScoringError as error:  # if no claim can be written, no answer can be stored
                    if not call.asked:
                        raise
                    call.unkept(str(error))
                    return
                if turn is None:
                    return
                call.asked = True
                try:
                    await self._ask(shared, call, *turn)
                except ScoringError as error:
                    if not call.usage.requests:
                        raise
                    call.broken, call.stopped = error, error.missing  # earlier requests worked: keep their paid answers
                finally:
                    leave_wire()
                # Rows without an answer: other processes may query them now. If they waited for all of our rows, and
                # we for theirs, neither would end.
                await shared.release(call.keys[row] for row in turn[1])

        # More workers than concurrent requests: some write prompts and read answers meanwhile.
        workers = self.provider.max_concurrency * 3 // 2
        await gather_or_drain((worker() for _ in range(min(workers, len(rows)))), call.run.halt)
        return turns.taken

    def _found(self, shared: Coordinator, call: Call, row: int, scores: NDArray[np.float32]) -> None:
        """Another process has answered."""
        call.note(row, scores, cached=True)
        shared.tell(call.keys[row], scores)

    def _groups(self, name: str, call: Call, rows: list[int]) -> Iterator[tuple[Method, list[int]]]:
        """The requests to send: rows that share a prompt, `texts_per_request` together."""
        size = self.provider.texts_per_request
        together: dict[Method, list[int]] = {}
        for row in rows:
            together.setdefault(self.questions.method(name, call.texts[row]), []).append(row)
        for method, members in together.items():
            for start in range(0, len(members), size):
                yield method, members[start : start + size]

    async def _ask(
        self,
        shared: Coordinator,
        call: Call,
        method: Method,
        rows: list[int],
        probing: bool = False,
        last: bool = False,
    ) -> Verdict:
        """Query `rows` in one request; store and note the answers.

        Args:
            shared: Client and store.
            call: The call that the rows belong to.
            method: The method.
            rows: Rows that share a prompt.
            probing: Whether `auto` is trying whether the method works.
            last: Whether there is no other method.

        Raises:
            ScoringError: If no other request can work either.
            UnsupportedError: While probing, if the method is not offered.
            UnansweredError: While probing, if the answer cannot be read.
        """
        try:
            reply = await shared.client.ask(method, [call.texts[r] for r in rows], _joint(call, rows), call.run)
        except BudgetReachedError as error:  # a shorter text may still be affordable
            call.pay(error.usage)
            for row in rows:
                call.note(row, error.missing)
            return Verdict.TROUBLE
        except RequestError as error:
            call.pay(error.usage)
            if error.kind in (FILTERED, TOO_LONG):
                return await self._ask_apart(shared, call, method, rows, error.missing)
            if is_refused(error, method) and (
                (probing and not last) or (self._choice.recalled and is_missing_feature(error))
            ):
                raise UnsupportedError(error.reason) from None
            if (fatal := explain(error, self.provider, self.endpoint, method.name)) is not None:
                raise fatal from None
            call.failed(shared, rows, error.missing)
            return Verdict.TROUBLE
        call.pay(reply.usage)
        answers: list[NDArray[np.float32] | UnansweredError]
        try:
            answers = method.read(reply.data, len(rows))
        except UnansweredError as error:
            if probing and error.unread:
                raise
            answers = [error] * len(rows)
        except UnsupportedError as error:
            if probing or self._choice.recalled:
                raise
            answers = [UnansweredError(str(error))] * len(rows)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            answers = [UnansweredError("malformed")] * len(rows)
        if probing and all(isinstance(answer, UnansweredError) and answer.unread for answer in answers):
            raise UnansweredError(str(answers[0]))
        self._choice.recalled = False
        await call.keep(shared, method, rows, answers, reply.usage)
        if self.multi_label:
            await self.questions.learnt.scale.keep(shared.store, self.questions.model_key(), self.endpoint.model)
            await call.reread(shared)
        return Verdict.SETTLED if all(isinstance(a, UnknownScaleError) for a in answers) else Verdict.ANSWERED

    async def _ask_apart(
        self, shared: Coordinator, call: Call, method: Method, rows: list[int], reason: Missing
    ) -> Verdict:
        """Query each row of a refused request by itself: one text may be the cause. A single row has no answer."""
        for row in rows if len(rows) > 1 else []:
            await self._ask(shared, call, method, [row])
        if len(rows) == 1:
            call.note(rows[0], reason)
            shared.tell(call.keys[rows[0]], reason)
        return Verdict.SETTLED

    async def _method(self, shared: Coordinator, call: Call, todo: list[int]) -> tuple[str | None, list[int]]:
        """The method of `auto`, known or found by probing, and the rows that are still to be answered."""

        async def known() -> bool:
            return await self._choice.recall(shared.store) is not None

        # One call finds out for all.
        alone = nullcontext() if call.run.is_hedge else shared.alone(self.questions.model_key(), known)
        async with alone:
            return (self._choice.chosen, todo) if await known() else await self._probe(shared, call, todo)

    async def _probe(self, shared: Coordinator, call: Call, todo: list[int]) -> tuple[str | None, list[int]]:
        """Find the method of `auto` by querying the first texts.

        Returns:
            The method, if there is one, and the rows that are still to be answered.
        """

        async def ask(name: str, row: int, last: bool) -> Verdict:
            call.keys[row] = self.questions.key(name, call.texts[row], call.neighbours[row])
            method = self.questions.method(name, call.texts[row])
            try:
                return await self._ask(shared, call, method, [row], probing=True, last=last)
            finally:
                leave_wire()

        try:
            found = await self._choice.find(todo, ask, shared.store)
        except ScoringError as error:
            raise ScoringError(str(error) if str(error).startswith(self.name) else f"{self.name}: {error}") from None
        for row, reason in found.unread.items():
            call.failed(shared, [row], reason)
        if found.trouble and not call.stopped:
            last = next(reversed(call.errors.values()))
            unpaid = last.kind in (MissingKind.BUDGET, MissingKind.UNRECORDED)
            call.stopped = last if unpaid else Missing(MissingKind.STOPPED, f"no answer from the API, the last: {last}")
        return found.method, found.left


def _joint(call: Call, rows: list[int]) -> list[Example]:
    """The neighbours of all rows of a request; none that is another row of it."""
    asked = {normalized(call.texts[row]) for row in rows} if len(rows) > 1 else set()
    found = {e["text"]: e for row in rows for e in call.neighbours[row] if normalized(str(e["text"])) not in asked}
    return list(found.values())
