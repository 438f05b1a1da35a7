"""The client of one provider: requests with bounded concurrency, rate limits, retries and a budget."""

import asyncio
import json
import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...configuration import LLMProvider
from ..methods.request_method import Method
from ..prompting.prompts import Example
from ..providers.endpoints import CHAT, Endpoint
from ..providers.error_replies import KEY, MODEL
from ..providers.pricing import Price, estimate_tokens, find_price, read_usage
from ..providers.request_error import UNCONNECTED, RequestError
from ..providers.transport import LitellmTransport, OpenAITransport, Transport, missing_key
from ..score_batch import ScoringError, Usage
from ..session.cancellation import leave_wire
from ..session.cost_forecast import Costs, Need
from ..session.dollar_budget import BudgetReachedError, Reservation
from ..session.limits import RateLimit, Slots, current_reservation
from ..session.run_context import Run

logger = logging.getLogger(__name__)

ATTEMPTS = 6
ATTEMPTS_AT_LIMIT = 20  # for requests above the rate limit (HTTP 429)
ATTEMPTS_UNHEARD = 3  # to connect to a server that never answered: most likely the address is wrong
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
LONGEST_WAIT_S = 900.0  # the longest wait that a server may ask for; longer ones come from daily quotas
AWAIT_S = 1.0  # between two checks whether a server has started
# Parameters that a model may refuse and that can be left out; the methods need the others.
_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}  # of the answer's length
OPTIONAL_PARAMETERS = ("temperature", "max_tokens", "max_completion_tokens", "n", "seed")
NOT_OFFERED = (400, 403, 404, 405, 422, 501)  # replies of servers that lack a feature
NOT_THERE = (404, 405, 501)  # replies of servers that lack a path


@dataclass
class Reply:
    """Replies to one question (several for `vote`) and what they cost."""

    data: dict[str, Any]
    usage: Usage


class Client:
    """Sends the requests of one provider. Belongs to the event loop that it was made on.

    Args:
        provider: Limits, timeout, price.
        endpoint: Where requests go.

    Raises:
        ScoringError: If a package or a key is missing.
    """

    def __init__(self, provider: LLMProvider, endpoint: Endpoint) -> None:
        self.endpoint, self.name = endpoint, provider.name
        self._patience_s = provider.wait_for_server_s
        self._down_since: float | None = None  # since when the server is not ready
        self._heard = False  # whether the server ever answered
        self.price: Price | None = find_price(provider, endpoint)
        self._slots = Slots(provider.max_concurrency)
        self._transport: Transport = (
            LitellmTransport(endpoint, provider.timeout_s, provider.api_base, self._slots)
            if endpoint.uses_litellm
            else OpenAITransport(endpoint, provider.timeout_s, provider.max_concurrency, self._slots)
        )
        what = f"{endpoint.base} {endpoint.model}"
        self._requests = RateLimit(provider.requests_per_minute, f"requests of {what}")
        self._tokens = RateLimit(provider.tokens_per_minute, f"tokens of {what}")
        self._costs: defaultdict[str, Costs] = defaultdict(lambda: Costs(self.price))  # of each method
        self._refused: set[str] = set()
        self._absent: set[str] = set()  # paths that the server does not have
        if self.price is None:
            logger.warning("No price is known for %s: its dollars are not counted. Give `price`.", provider.name)

    async def ask(self, method: Method, texts: Sequence[str], neighbours: Sequence[Example], run: Run) -> Reply:
        """Send the requests of `method` about `texts`, as many as it needs.

        Raises:
            RequestError: If no usable reply came, also after retries.
            BudgetReachedError: If the run's budget does not allow another request.
        """
        reply = await self._collect(method, texts, neighbours, run)
        bounded = not self._refused >= _LIMITS.keys()
        if run.halted or not bounded or not method.was_cut(reply.data, len(texts)):
            return reply
        try:  # one attempt: a model that does not stop is not waited for repeatedly
            again = await self._collect(method, texts, neighbours, run, bounded=False, attempts=1)
        except (BudgetReachedError, RequestError) as error:
            method.learnt.futile += isinstance(error, RequestError)
            return Reply(reply.data, reply.usage + error.usage)
        if method.learnt.limited:
            method.unbound(again.data, len(texts))
            if not method.learnt.limited:
                logger.info("%s: its answers need more tokens than foreseen: no limit from now on.", self.name)
        return Reply(again.data, reply.usage + again.usage)

    async def _collect(
        self,
        method: Method,
        texts: Sequence[str],
        neighbours: Sequence[Example],
        run: Run,
        bounded: bool = True,
        attempts: int = ATTEMPTS,
    ) -> Reply:
        """The replies to a query, as many as the method needs."""
        replies: list[dict[str, Any]] = []
        usage = Usage()
        while not replies or method.more(replies):
            if run.halted:  # the votes so far may suffice
                if replies:
                    break
                raise RequestError("stopped")
            body = method.body(texts, neighbours)
            if replies and isinstance(body.get("seed"), int):
                body["seed"] += len(replies)  # the same one would give the same answer
            if not bounded:
                body.pop(method.endpoint.token_limit, None)
            try:
                reply, spent = await self._send(method, body, method.answer_tokens(len(texts)), run, attempts)
            except (BudgetReachedError, RequestError) as error:
                if not replies:
                    raise
                usage += error.usage
                break  # the votes so far may suffice
            replies.append(reply)
            if run.dispatch is not None:
                run.dispatch.paid = True
            usage += spent
        if len(replies) > 1:
            return Reply({**replies[0], "choices": [c for r in replies for c in r["choices"]]}, usage)
        return Reply(replies[0], usage)

    async def _send(
        self, method: Method, body: dict[str, Any], answer_tokens: float, run: Run, attempts: int = ATTEMPTS
    ) -> tuple[dict[str, Any], Usage]:
        """The reply, and the cost of it and of the failed attempts before it."""
        attempt, lost, degraded = 0, Usage(), False
        while True:
            if method.route(body) in self._absent:
                body = method.elsewhere(body, self._absent) or body
            for name in self._refused & body.keys():
                twin = _LIMITS.get(name)
                if twin and twin not in self._refused and twin not in body:
                    body[twin] = body[name]  # the same by its other name
                del body[name]
            try:
                reply, spent = await self._attempt(method, body, answer_tokens, run)
                if degraded:
                    method.accepted(body)
                self._heard, self._down_since = True, None
                return reply, lost + spent
            except BudgetReachedError as error:
                error.usage = lost
                raise
            except RequestError as error:
                error.usage = lost = lost + error.usage
                self._heard = self._heard or error.status is not None
                if run.dispatch is not None:
                    run.dispatch.unsend()
                leave_wire()
                if run.halted:
                    raise
                if error.status in (400, 422) and error.param in body and error.param in OPTIONAL_PARAMETERS:
                    self._refused.add(str(error.param))
                    continue
                if error.status in NOT_THERE:
                    self._absent.add(method.route(body))
                    if (other := method.elsewhere(body, self._absent)) is not None:
                        body = other
                        continue
                if (other := method.degrade(error, body)) is not None:
                    body, degraded = other, True
                    continue
                if self._is_awaited(error):
                    await asyncio.sleep(max(AWAIT_S, min(error.retry_after or 0.0, LONGEST_DELAY_S)))
                    continue
                attempt += 1
                if not error.retryable:
                    raise
                if (wait := error.retry_after or 0.0) > LONGEST_WAIT_S:
                    error.reason += f", to be sent again in {wait:.0f} s"
                    raise
                if attempt >= self._most_attempts(error, attempts):
                    error.reason += f", {attempt} attempts" if attempt > 1 else ""
                    raise
                await asyncio.sleep(self._delay(attempt, error.retry_after))

    async def _attempt(
        self, method: Method, body: dict[str, Any], answer_tokens: float, run: Run
    ) -> tuple[dict[str, Any], Usage]:
        """One request, and its cost."""
        need = estimate_need(body, answer_tokens)
        estimate = need.prompt, need.answer
        on_send = run.dispatch.send if run.dispatch is not None else None
        reservation = Reservation(run.budget, self._costs[method.name], need, on_send)
        token = current_reservation.set(reservation)
        try:
            await self._requests.acquire()
            await self._tokens.acquire(sum(estimate))
            route = method.route(body)
            await self._slots.turn()
            reply = await self._transport.post(route, body)
            self._absent.discard(route)
            usage = read_usage(reply, self.price, estimate)
            reservation.settle(usage)
            return reply, usage
        except RequestError as error:
            if reservation.refused is not None:
                raise reservation.refused from None
            if error.reply is not None and isinstance(error.reply.get("usage"), dict):
                error.usage = read_usage(error.reply, self.price, estimate)
                reservation.settle(error.usage)
            else:
                reservation.close(error.billed)
            raise
        finally:
            reservation.close()
            current_reservation.reset(token)

    def _most_attempts(self, error: RequestError, attempts: int) -> int:
        if error.status == 429:
            return ATTEMPTS_AT_LIMIT
        return attempts if self._heard or error.reason != UNCONNECTED else min(attempts, ATTEMPTS_UNHEARD)

    def _is_awaited(self, error: RequestError) -> bool:
        """Whether the server is starting or loading its model, and is still to be waited for."""
        refused = error.status is None and not error.billed and error.reason == UNCONNECTED
        if not self._patience_s or not (refused or error.status == 503):
            return False
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
            logger.warning(
                "%s: the server is not ready (%s): waiting for it, %g s at most.",
                self.name, error.reason, self._patience_s,
            )  # fmt: skip
        return now - self._down_since < self._patience_s

    def _delay(self, attempt: int, retry_after: float | None) -> float:
        """Seconds before the next attempt: what the server says, else a random part of an exponential delay."""
        if retry_after is not None:
            if self._slots.pause(retry_after) and retry_after > LONGEST_DELAY_S:
                logger.warning("%s asks to wait for %.0f seconds.", self.endpoint.model, retry_after)
            return retry_after + random.uniform(0, 0.1)
        return random.uniform(0.2, 1.0) * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (attempt - 1))


def is_missing_feature(error: RequestError) -> bool:
    """Whether an error shows that the server lacks the requested feature, whatever the text."""
    return error.status in NOT_THERE or (error.status in NOT_OFFERED and error.param is not None)


def is_refused(error: RequestError, method: Method) -> bool:
    """Whether the server may lack what `method` requests, rather than the model or a key."""
    # Decisions may be offered for some of the models only.
    absent = error.kind == KEY or (error.kind == MODEL and method.path == CHAT)
    return error.status in NOT_OFFERED and not absent


def explain(error: RequestError, provider: LLMProvider, endpoint: Endpoint, method: str) -> ScoringError | None:
    """The exception for an `error` after which no other request can work either, if it is such a one."""
    if error.kind == KEY or error.status == 401:
        if (missing := missing_key(endpoint)) is not None:
            return ScoringError(
                f"{provider.name}: a key is required (HTTP {error.status}), and none was sent: {missing}. "
                "Models that need none: docs/troubleshooting.md#keys-and-models."
            )
        key = endpoint.key_env or "the provider's own variable"
        return ScoringError(f"{provider.name}: the key was refused ({error.reason}). It is read from {key}.")
    if error.status in NOT_THERE or error.kind == MODEL:
        if method == "decision":
            return ScoringError(f"{provider.name} offers no decisions ({error.reason}); use method='auto'.")
        return ScoringError(
            f"{provider.name}: {endpoint.base or 'litellm'} has no model {endpoint.model!r} ({error.reason})."
        )
    if error.status in (402, 403) or "insufficient_quota" in error.reason:
        return ScoringError(f"{provider.name}: the account may not use {endpoint.model!r} ({error.reason}).")
    return None


def prompt_parts(body: dict[str, Any]) -> Iterator[str]:
    """The texts of the prompt in a request body."""
    if "questions" in body:  # of a decision API
        yield str(body["input"] if "input" in body else body["state"])
        yield str(body["questions"])
    else:
        yield from (message["content"] for message in body["messages"])


def body_length(body: dict[str, Any]) -> int:
    """Characters of the prompt in a request body."""
    return sum(map(len, prompt_parts(body)))


def estimate_need(body: dict[str, Any], answer_tokens: float) -> Need:
    """Tokens that a request body will need, and the most that it can: a token has a byte at least."""
    size = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    limits = [body[n] for n in ("max_tokens", "max_completion_tokens") if isinstance(body.get(n), int)]
    count = body["n"] if isinstance(body.get("n"), int) else 1
    most = float(min(limits) * count) if limits else math.inf
    return Need(sum(map(estimate_tokens, prompt_parts(body))), min(answer_tokens, most), float(size), most)
