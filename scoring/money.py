"""Prices, token estimates and the budget that stops a run."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..configuration import LLMProvider
from .base import ScoringError, Usage
from .providers import Endpoint

MOST_TOKENS = 1e8  # of one request
CHARS_PER_TOKEN = 3.6  # typical of English prompts; what the server reports replaces it


class BudgetReachedError(Exception):
    """The next request might spend more than is allowed."""


@dataclass(frozen=True)
class Price:
    """US dollars per token; `cached` is for the part of the prompt that the provider has cached."""

    input: float
    output: float
    cached: float

    def cost(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        """US dollars of one request."""
        fresh = max(0.0, prompt_tokens - cached_tokens)
        return fresh * self.input + cached_tokens * self.cached + completion_tokens * self.output


class Budget:
    """A hard limit in US dollars. Requests in flight count with their estimated cost, so it is hardly ever passed."""

    def __init__(self, limit: float) -> None:
        if not limit >= 0:
            raise ValueError(f"`max_cost_usd` must not be negative, got {limit!r}.")
        self.limit, self.spent, self.reserved = limit, 0.0, 0.0

    @property
    def left(self) -> float:
        """US dollars that are neither spent nor set aside."""
        return self.limit - self.spent - self.reserved

    def reserve(self, estimate: float) -> None:
        """Set `estimate` dollars aside for a request.

        Raises:
            BudgetReachedError: If the limit does not allow it.
        """
        if estimate > self.left:
            raise BudgetReachedError(f"budget of ${self.limit:g} reached")
        self.reserved += estimate

    def settle(self, estimate: float, cost: float) -> None:
        """Replace what was set aside by what the request cost."""
        self.reserved -= estimate
        self.spent += cost


def find_price(provider: LLMProvider, endpoint: Endpoint) -> Price | None:
    """The price of a model: the declared one, nothing for a server of one's own, else that of litellm's price list.

    The list is read from the installed litellm without importing it.

    Returns:
        None if no price is known.
    """
    if provider.price is not None:
        return Price(provider.price[0] / 1e6, provider.price[1] / 1e6, provider.price[0] / 1e6)
    if endpoint.price_name is None:
        return Price(0.0, 0.0, 0.0)
    prices = _price_list()
    entry = prices.get(endpoint.price_name) or prices.get(endpoint.price_name.partition("/")[2]) or {}
    if entry.get("input_cost_per_token") is None:
        return None
    fresh = float(entry["input_cost_per_token"])
    return Price(
        fresh,
        float(entry.get("output_cost_per_token") or 0.0),
        float(entry.get("cache_read_input_token_cost") or fresh),
    )


def require_price(provider: LLMProvider, endpoint: Endpoint) -> None:
    """Refuse a limit in dollars for a model whose price is unknown.

    Raises:
        ScoringError: Saying how to give the price.
    """
    if find_price(provider, endpoint) is None:
        raise ScoringError(
            f"`max_cost_usd` needs the price of {provider.name}, which is unknown: give `price=(input, output)` in "
            "dollars per million tokens, or install litellm, whose price list is used."
        )


def estimate_tokens(num_chars: float) -> float:
    """Tokens in a text of `num_chars` characters, roughly."""
    return num_chars / CHARS_PER_TOKEN


def read_usage(reply: dict[str, Any], price: Price | None, estimate: tuple[float, float]) -> Usage:
    """Tokens and cost of a reply; `estimate` `(prompt, completion)` tokens stand in where the server reports none.

    NaN, negative counts, more tokens than any model reads, words and truth values are no report.

    The answers of decision APIs are free of charge: only their input is billed.
    """
    given = reply.get("usage")
    usage = given if isinstance(given, dict) else {}

    def count(*names: str, within: Any = usage) -> float | None:
        found = (within.get(name) for name in names) if isinstance(within, dict) else ()
        return next((n for n in found if type(n) in (int, float) and 0 <= n <= MOST_TOKENS), None)

    decision = "answers" in reply
    prompt = count("prompt_tokens", "input_tokens") or round(estimate[0])
    completion = count("completion_tokens", "output_tokens")
    if completion is None:
        completion = round(estimate[1])
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = count("cached_tokens", within=details) or count("prompt_cache_hit_tokens") or 0
    cost = price.cost(prompt, 0 if decision else completion, min(cached, prompt)) if price else 0.0
    return Usage(1, int(prompt), int(completion), cost)


@cache
def _price_list() -> dict[str, Any]:
    spec = find_spec("litellm")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "model_prices_and_context_window_backup.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}
