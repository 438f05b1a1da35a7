"""`labelfusion score --dry-run`: the estimated cost of a run, before any query."""

import os
from collections.abc import Iterable

from .score_setup import Task


def dry_run(chunks: Iterable[tuple[int, list[str]]], task: Task, total: int) -> int:
    """Print the estimate for each LLM."""
    from ..scoring import run_sync
    from ..scoring.api.api_scorer import APIScorer
    from ..scoring.api.cost_estimate import Estimate, estimate
    from ..scoring.providers.transport import check_provider, missing_package

    for scorer in task.scorers:
        if isinstance(scorer, APIScorer):
            check_provider(scorer.endpoint, scorer.provider.api_base)
    totals: dict[str, Estimate] = {}
    seen: set[int] = set()
    for _, texts in chunks:
        new = [text for text in dict.fromkeys(texts) if hash(text) not in seen]
        seen.update(map(hash, new))
        for scorer in task.scorers:
            if isinstance(scorer, APIScorer):
                part = run_sync(estimate(scorer, new))
                totals[scorer.name] = totals[scorer.name] + part if scorer.name in totals else part
    print(f"{total} rows, {len(seen)} distinct texts, {len(task.labels)} classes. Nothing has been sent.")
    for scorer in task.scorers:
        needs = totals.get(scorer.name)
        if needs is None:
            print(f"{scorer.name}: runs on this machine; no cost. Time not estimated.")
            continue
        dollars = "unknown price (give --price)" if needs.cost_usd is None else f"about ${needs.cost_usd:.4f}"
        print(
            f"{scorer.name} ({needs.method}): {needs.cached} texts from the store, {needs.requests} requests, about "
            f"{needs.prompt_tokens:,.0f} + {needs.completion_tokens:,.0f} tokens, {dollars}, about "
            f"{_duration(needs.seconds)} if a request takes a second"
        )
        endpoint = scorer.endpoint  # type: ignore[attr-defined]
        if endpoint.key_env and not os.environ.get(endpoint.key_env):
            print(f"    {endpoint.key_env} is not set.")
        if (needed := missing_package(endpoint)) is not None:
            print(f"    {needed}")
    print("Tokens that a model spends on thinking before it answers are not foreseen.")
    return 0


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
