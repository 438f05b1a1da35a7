"""Selects the LLMs that a classifier queries: those that its model declares, or the user's replacements."""

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeAlias

from .configuration import LabelFusionConfig, LLMProvider
from .scoring.model_scorers import build_scorers
from .scoring.providers.consent import check_texts

LLM: TypeAlias = str | LLMProvider | dict[str, Any] | Callable[[list[str]], Any] | None


class ScorerCache:
    """Caches a classifier's scorers until a setting changes, to keep connections and the state of rate limits."""

    def __init__(self) -> None:
        self._key: Any = None
        self._pool: Any = None
        self._scorers: list[Any] = []

    def get(self, config: LabelFusionConfig, llms: list[Any], *, pool: Any, **options: Any) -> list[Any]:
        """Return one scorer per provider.

        Args:
            config: The model's config.
            llms: The user's LLMs, see `as_list`.
            pool: Labelled texts to choose prompt examples from; None: use those of the provider.
            **options: `embed`, `cache` and `progress` of `build_scorers`.
        """
        providers = config.providers
        if llms == ["recorded"]:  # stands for all LLMs in the training data
            llms = llms * len(providers)
        llms = list(llms)
        for i, (llm, provider) in enumerate(zip(llms, providers, strict=False)):
            llms[i] = llm if is_function(llm) else replacement(llm, provider)
        declared = [provider.to_dict() for provider in providers]
        given = [deepcopy(llm) if isinstance(llm, LLMProvider) else llm for llm in llms]
        task = (config.label_names, config.multi_label, dict(config.class_descriptions or {}), config.name_or_path)
        how = {name: value for name, value in options.items() if name != "embed"}
        key = (declared, given, how, task, hash(frozenset(os.environ.items())))  # API keys come from the environment
        if self._key != key or self._pool is not pool:
            self._scorers = build_scorers(config, llms, pool=pool, **options)
            self._key, self._pool = key, pool
        return self._scorers


def as_list(llm: LLM | list[LLM]) -> list[Any]:
    """The argument `llm` of a classifier as a list, empty for None."""
    if llm is None:
        return []
    return list(llm) if isinstance(llm, list | tuple) else [llm]


def is_function(llm: Any) -> bool:
    """Whether an LLM is a Python function."""
    return callable(llm) and not isinstance(llm, LLMProvider)


def declaration(llm: Any) -> LLMProvider:
    """The `LLMProvider` for an LLM in any form that a user may pass."""
    if is_function(llm):
        return LLMProvider(model=f"callable/{getattr(llm, '__name__', type(llm).__name__)}")
    return LLMProvider.from_any(llm)


def replacement(llm: Any, declared: LLMProvider) -> LLMProvider | None:
    """The provider to query in place of a declared one; `None` keeps the declared one.

    A model string names the LLM, not how to query it. For the same model, settings learnt in training are kept.
    """
    given = declaration(llm)
    if given.model != declared.model:
        return given
    if declared.source and not given.source:
        check_texts(declared)
    learnt = {name: getattr(given, name) or getattr(declared, name) for name in ("prior", "examples", "guidelines")}
    given = replace(given, **learnt)
    same = given == declared and bool(given.source) == bool(declared.source)
    return None if isinstance(llm, str) or same else given
