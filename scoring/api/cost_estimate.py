"""An estimate of what scoring will cost and take, made without a request."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ..providers.pricing import estimate_tokens, find_price
from .api_scorer import APIScorer
from .client import prompt_parts

SECONDS_PER_REQUEST = 1.0  # assumed, as no request is sent


@dataclass
class Estimate:
    """Rough needs of a provider for some texts.

    Args:
        method: Method that will be used; `json` is assumed where `auto` has not tried yet.
        texts: Distinct texts.
        cached: Of these, those with an answer in the score store.
        requests: Requests to send.
        prompt_tokens: Tokens of their prompts.
        completion_tokens: Tokens of their answers; what a model thinks before it answers is not foreseen.
        cost_usd: US dollars; None if no price is known.
        seconds: Time at the allowed concurrency and rate limits, at a second a request.
    """

    method: str
    texts: int = 0
    cached: int = 0
    requests: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    cost_usd: float | None = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        known = self.cost_usd is not None and other.cost_usd is not None
        return Estimate(
            other.method,
            self.texts + other.texts,
            self.cached + other.cached,
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
            self.seconds + other.seconds,
        )


async def estimate(scorer: APIScorer, texts: Sequence[str]) -> Estimate:
    """Estimate what scoring the distinct `texts` takes. Sends no request and needs no key."""
    provider, questions = scorer.provider, scorer.questions
    name = await scorer.likely_method()
    texts = [text for text in dict.fromkeys(texts) if text.strip()]
    neighbours = await asyncio.to_thread(questions.neighbours, texts)
    store = await scorer.store()
    keys = [questions.key(name, t, n) for t, n in zip(texts, neighbours, strict=True)]
    stored = await asyncio.to_thread(store.get_many, keys) if store else {}
    left = [i for i, key in enumerate(keys) if key not in stored]
    result = Estimate(name, texts=len(texts), cached=len(texts) - len(left))
    for start in range(0, len(left), provider.texts_per_request):
        rows = left[start : start + provider.texts_per_request]
        method = questions.method(name, texts[rows[0]])
        body = method.body([texts[i] for i in rows], [e for i in rows for e in neighbours[i]])
        result.requests += 1
        result.prompt_tokens += sum(map(estimate_tokens, prompt_parts(body)))
        result.completion_tokens += method.answer_tokens(len(rows))
    price = find_price(provider, scorer.endpoint)
    result.cost_usd = price.cost(result.prompt_tokens, result.completion_tokens) if price else None
    tokens = result.prompt_tokens + result.completion_tokens
    result.seconds = max(
        result.requests * SECONDS_PER_REQUEST / provider.max_concurrency,
        60 * result.requests / provider.requests_per_minute if provider.requests_per_minute else 0.0,
        60 * tokens / provider.tokens_per_minute if provider.tokens_per_minute else 0.0,
    )
    return result
