"""Guidelines for the task, written once by the LLM itself and kept in the provider's declaration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..configuration import LLMProvider, ProviderKind, Task
from .api.client import Client, explain
from .methods.request_method import Method, UnansweredError, content, first_choice
from .prompting.examples import Pool, balanced_examples
from .prompting.prompts import Example, PromptWriter, fill, quote, templates, tidy
from .providers.consent import allowed
from .providers.endpoints import resolve
from .providers.pricing import require_price
from .providers.request_error import RequestError
from .score_batch import ScoringError, Usage
from .session.background import run_sync
from .session.cancellation import gather_or_drain, leave_wire
from .session.dollar_budget import Budget, BudgetReachedError, as_budget
from .session.run_context import Run

MAX_WORDS = 200


def write_guidelines(
    provider: LLMProvider | str | dict[str, Any],
    labels: Sequence[str],
    multi_label: bool = False,
    class_descriptions: dict[str, str] | None = None,
    *,
    pool: Pool | None = None,
    num_examples: int = 12,
    max_cost_usd: float | Budget | None = None,
    seed: int = 0,
    keep: Callable[[str], Any] | None = None,
) -> tuple[LLMProvider, Usage]:
    """Let the LLM write a role and a line for each class, for its own prompts. One request, at fit, not per predict.

    The guidelines are saved with the model; the LLM is told not to quote the examples.

    Args:
        provider: An LLM behind an API.
        labels: Class names.
        multi_label: Whether several classes may apply.
        class_descriptions: `{class name: description}`.
        pool: Labelled `(texts, labels)`; a balanced choice is shown to the LLM.
        num_examples: How many are shown.
        max_cost_usd: No request if it will probably cost more than these US dollars, or than a budget has left.
        seed: Seed of the choice.
        keep: Called with the guidelines when they have come, also if the caller is interrupted meanwhile (Ctrl-C).

    Returns:
        The provider with its `guidelines` set, and what was spent. A provider that has guidelines is returned as it is.

    Raises:
        ScoringError: If the LLM gives none, or if it is declared by a model from the Hub and not allowed.
        ValueError: For a local model, which only scores, and for recorded scores and functions.
    """
    provider = allowed(LLMProvider.from_any(provider), labels, class_descriptions)
    if provider.guidelines:
        return provider, Usage()
    if provider.kind != ProviderKind.API:
        raise ValueError(f"{provider.name} cannot write guidelines: that takes an LLM behind an API.")
    examples = balanced_examples(pool, labels, num_examples, seed) if pool else []
    task = Task(labels, multi_label, dict(class_descriptions or {}))
    method = _GuidelinesMethod(provider, resolve(provider), task, examples)
    text, usage = run_sync(_ask(provider, method, max_cost_usd, keep or (lambda text: None)))
    return replace(provider, guidelines=text), usage


async def _ask(
    provider: LLMProvider,
    method: "_GuidelinesMethod",
    max_cost_usd: float | Budget | None,
    keep: Callable[[str], Any],
) -> tuple[str, Usage]:
    budget = as_budget(max_cost_usd)
    if budget is not None and math.isfinite(budget.limit):
        require_price(provider, method.endpoint)
    client, run = Client(provider, method.endpoint), Run(budget)

    async def ask() -> tuple[str, Usage]:
        try:
            reply = await client.ask(method, [""], [], run)
            text = quote(content(first_choice(reply.data)).strip())
            keep(text)
            return text, reply.usage
        finally:
            leave_wire()

    try:
        return (await gather_or_drain([ask()], run.halt))[0]
    except RequestError as error:
        raise explain(error, provider, method.endpoint, method.name) or ScoringError(
            f"{provider.name} wrote no guidelines: {error.reason}."
        ) from None
    except BudgetReachedError as error:
        told = f" ({budget.told()})" if budget else ""
        raise ScoringError(f"{provider.name} wrote no guidelines: {error}{told}.") from None
    except UnansweredError as error:
        raise ScoringError(f"{provider.name} wrote no guidelines: {error}.") from None


class _GuidelinesMethod(Method):
    """A request for guidelines in the shape of a method, so that the client serves it."""

    name = "guidelines"
    answer = "json"

    def body(self, texts: Sequence[str], neighbours: Sequence[Example] = ()) -> dict[str, Any]:
        """One user message."""
        writer: PromptWriter = self.prompts
        prompt = fill(
            templates()["guidelines"],
            cardinality=templates()["cardinality"]["multi" if self.multi_label else "single"],
            classes=writer.classes(),
            examples=writer.examples(writer.shown),
            max_words=MAX_WORDS,
        )
        return {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": tidy(prompt)}],
            **self.provider.params,
        }

    def answer_tokens(self, num_texts: int) -> float:
        """As many as they may have words, and some."""
        return 1.5 * MAX_WORDS

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Any]:
        """Not used: guidelines are no scores."""
        return []
