"""The cost and carbon sections of a model card. They hold measured values only."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...configuration import LabelFusionConfig


def cost_section(folder: Path, config: "LabelFusionConfig", report: dict[str, Any] | None) -> str:
    """The LLM cost of the evaluation, and the results with fewer queries; empty if unknown."""
    parts = []
    if report is not None and report["llm_asked"]:
        asked, spent = report["llm_asked"], report["cost_usd"]
        text = f"In the evaluation above {'an LLM was' if config.num_providers == 1 else 'LLMs were'} queried about "
        text += f"{asked} of {report['rows']} texts"
        if spent > 0:
            text += f", for {dollars(spent)}: {dollars(1000 * spent / asked)} per 1,000 queried texts."
            if unknown := _unpriced(config):
                text += f" What {', '.join(unknown)} cost is not in it: no price is known here."
        else:
            text += f": {_free_of_charge(config)}."
        parts.append(text)
    points = folder / "evaluation" / "tradeoff.json"
    if points.is_file():
        from ...evaluation.tradeoff import tradeoff_table

        parts.append("Results with fewer queried texts ([figures](evaluation/tradeoff.csv)):")
        parts.append(tradeoff_table(json.loads(points.read_text(encoding="utf-8"))))
    if (folder / "evaluation" / "tradeoff.png").is_file():
        parts.append("![Accuracy against the share of queried texts](evaluation/tradeoff.png)")
    return "\n\n".join(parts)


def _free_of_charge(config: "LabelFusionConfig") -> str:
    """Why the evaluation has no cost, according to the declared providers."""
    from ...scoring.providers.endpoints import resolve
    from ...scoring.providers.pricing import find_price
    from .llm_needs import api_providers

    prices = [find_price(provider, resolve(provider)) for provider in api_providers(config)]
    if unknown := _unpriced(config):
        return f"what that cost was not counted, because no price is known here for {', '.join(unknown)}"
    if any(price.input or price.output for price in prices if price):
        return "nothing was paid then, because the answers were stored; what they had cost before is not counted here"
    if prices:
        return "the price is 0 by declaration, or because the server is one's own (`api_base`)"
    return "nothing was paid, because the models run locally or are the user's own function"


def _unpriced(config: "LabelFusionConfig") -> list[str]:
    from ...scoring.providers.endpoints import resolve
    from ...scoring.providers.pricing import find_price
    from .llm_needs import api_providers

    return [str(p.name) for p in api_providers(config) if find_price(p, resolve(p)) is None]


def carbon_sentence(training: dict[str, Any]) -> str:
    """The measured emissions of the training; empty if they were not measured."""
    measured = training.get("emissions")
    if not measured:
        return ""
    where = f" ({measured['country']})" if measured.get("country") else ""
    return (
        f"CodeCarbon measured {1000 * measured['kwh']:.2g} Wh and {1000 * measured['kg']:.2g} g of CO2 equivalent for "
        f"this machine{where}; what LLM providers emitted is not known."
    )


def dollars(value: float) -> str:
    """US dollars with at least two significant digits."""
    return f"${value:,.2f}" if value >= 0.1 else f"${value:.2g}"
