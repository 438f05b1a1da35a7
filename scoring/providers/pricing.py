"""Prices of models, estimates of tokens, and what a reply has cost."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...configuration import LLMProvider
from ..score_batch import ScoringError, Usage
from .endpoints import Endpoint

MOST_TOKENS = 1e8  # of one request
CHARS_PER_TOKEN = 3.6  # typical of English prompts; what the server reports replaces it
BYTES_PER_TOKEN = 2.5  # typical of what is not ASCII, in UTF-8
_TIERS = {"flex": "_flex", "priority": "_priority", "batch": "_batches"}  # how the price list calls a `service_tier`
_ABOVE = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


@dataclass(frozen=True)
class Price:
    """US dollars per token.

    Args:
        input: Of the prompt.
        output: Of the answer.
        cached: Of the part of the prompt that the provider has cached.
        above: `(tokens, price)`: other prices of a request whose prompt is longer, in rising order.
    """

    input: float
    output: float
    cached: float
    above: tuple[tuple[int, "Price"], ...] = ()

    def cost(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        """US dollars of one request."""
        price = next((p for tokens, p in reversed(self.above) if prompt_tokens > tokens), self)
        fresh = max(0.0, prompt_tokens - cached_tokens)
        return fresh * price.input + cached_tokens * price.cached + completion_tokens * price.output


def find_price(provider: LLMProvider, endpoint: Endpoint) -> Price | None:
    """The price of a model: the declared one, zero for a server of the user's own, else that of litellm's price list.

    The list is read from the installed litellm without importing it. With `service_tier` among the provider's `params`
    it is the price of that tier.

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
    tier = provider.params.get("service_tier")
    ending = _TIERS.get(tier, "") if isinstance(tier, str) else ""
    if tier == "priority" and entry.get("input_cost_per_token" + ending) is None:
        return None  # more expensive than the price that is known
    found = _listed(entry, "", ending)
    lengths = sorted({int(match[1]) for name in entry if (match := _ABOVE.match(name))})
    above = tuple((1000 * k, _listed(entry, f"_above_{k}k_tokens", ending, found)) for k in lengths)
    return Price(found.input, found.output, found.cached, above)


def may_think(provider: LLMProvider, endpoint: Endpoint) -> bool:
    """Whether the model may think before it answers, in tokens that count like those of the answer.

    It does where `params` say so. A hosted model is taken to, unless `params` or the price list say otherwise; a server
    of the user's own is not.
    """
    effort = provider.params.get("reasoning_effort")
    if isinstance(effort, str):
        return effort != "none"
    if any(_thinks(name, value) for name, value in provider.params.items()):
        return True
    if endpoint.price_name is None:
        return False
    prices = _price_list()
    entry = prices.get(endpoint.price_name) or prices.get(endpoint.price_name.partition("/")[2])
    return not entry or bool(entry.get("supports_reasoning"))


def _thinks(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        return any(_thinks(f"{name} {inner}", v) for inner, v in value.items())
    return ("think" in name or "reason" in name) and value not in (None, False, 0, "none", "disabled", "off")


def _listed(entry: dict[str, Any], above: str, tier: str, other: Price | None = None) -> Price:
    """A price of the price list: that of the tier, else the usual one, else the `other`."""

    def dollars(name: str, default: float) -> float:
        given = (entry.get(name + above + ending) for ending in dict.fromkeys((tier, "")))
        return next((float(value) for value in given if value is not None), default)

    fresh = dollars("input_cost_per_token", other.input if other else 0.0)
    output = dollars("output_cost_per_token", other.output if other else 0.0)
    cached = dollars("cache_read_input_token_cost", fresh)
    return Price(fresh, output, min(cached, fresh))


def require_price(provider: LLMProvider, endpoint: Endpoint) -> None:
    """Refuse a limit in dollars for a model whose price is unknown.

    Raises:
        ScoringError: Saying how to give the price.
    """
    if find_price(provider, endpoint) is None:
        tier = f" (service_tier={provider.params['service_tier']!r})" if "service_tier" in provider.params else ""
        raise ScoringError(
            f"`max_cost_usd` needs the price of {provider.name}{tier}, which is unknown: give "
            "`price=(input, output)` in dollars per million tokens, or install litellm, whose price list is used."
        )


def estimate_tokens(text: str) -> float:
    """Tokens in a text, roughly, whatever its script."""
    plain = len(text.encode("ascii", "ignore"))
    return plain / CHARS_PER_TOKEN + (len(text.encode("utf-8", "surrogatepass")) - plain) / BYTES_PER_TOKEN


def read_usage(reply: dict[str, Any], price: Price | None, estimate: tuple[float, float]) -> Usage:
    """Tokens and cost of a reply; `estimate` `(prompt, completion)` tokens stand in where the server reports none.

    NaN, negative counts, more tokens than any model reads, words and truth values are no report.

    The answers of decision APIs are free of charge: only their input is billed. Of several answers each has a token at
    least: llama.cpp's server counts those of one alone.
    """
    given = reply.get("usage")
    usage = given if isinstance(given, dict) else {}

    def count(*names: str, within: Any = usage) -> float | None:
        found = [within.get(name) for name in names] if isinstance(within, dict) else []
        numbers = (n for n in found if isinstance(n, int | float) and not isinstance(n, bool))
        return next((n for n in numbers if 0 <= n <= MOST_TOKENS), None)

    decision = "answers" in reply
    prompt = count("prompt_tokens", "input_tokens") or round(estimate[0])
    completion = count("completion_tokens", "output_tokens")
    if completion is None:
        completion = round(estimate[1])
    choices = reply.get("choices")
    completion = max(completion, len(choices) if isinstance(choices, list) and len(choices) > 1 else 0)
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
