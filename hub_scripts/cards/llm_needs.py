"""Requirements to query a model's LLMs elsewhere: client packages, and API keys in the environment."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...configuration import LabelFusionConfig, LLMProvider


def api_providers(config: "LabelFusionConfig") -> "list[LLMProvider]":
    """The providers that are queried over a network."""
    from ...configuration import ProviderKind

    return [p for p in config.providers if p.kind == ProviderKind.API]


def askable(config: "LabelFusionConfig") -> "list[LLMProvider]":
    """The providers that can score a new text, locally or over a network."""
    from ...configuration import ProviderKind

    return [p for p in config.providers if p.kind != ProviderKind.RECORDED]


def clients(config: "LabelFusionConfig") -> list[str]:
    """The client packages, whose names are also those of the extras: `openai`, `litellm`."""
    from ...scoring.providers.endpoints import resolve

    return sorted({"litellm" if resolve(p).uses_litellm else "openai" for p in api_providers(config)})


def keys(config: "LabelFusionConfig") -> list[str]:
    """The environment variables of the API keys; "the key of ..." if only litellm knows the variable's name."""
    from ...scoring.providers.endpoints import resolve

    found = set()
    for provider in api_providers(config):
        endpoint = resolve(provider)
        if endpoint.key_required and endpoint.key_env:
            found.add(endpoint.key_env)
        elif endpoint.uses_litellm:
            found.add(f"the key of {provider.model.split('/')[0]}")
    return sorted(found)


def consents(config: "LabelFusionConfig") -> dict[str, str]:
    """`{environment variable: value}` required before the LLMs of a model from the Hub are queried."""
    from ...scoring.providers.consent import consent_needed

    found: dict[str, list[str]] = {}
    for provider in api_providers(config):
        for name, value in consent_needed(provider).items():
            if re.fullmatch(r"[\w.:\[\]-]+", value, re.ASCII):  # the value is written into a README
                found.setdefault(name, []).append(value)
    return {name: ",".join(dict.fromkeys(values)) for name, values in found.items()}
