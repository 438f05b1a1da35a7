"""Which LLMs an `AutoFusionClassifier` asks: those of its model, or what its user puts in their place."""

import os
from copy import deepcopy
from dataclasses import replace
from typing import Any

from .auto_saving import LLM
from .configuration import LLMProvider
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .scoring.model_scorers import build_scorers
from .scoring.providers.consent import check_texts


class AskingClassifierMixin:
    """The scorers, made when first needed."""

    llm: LLM | list[LLM]
    model_: LabelFusionForSequenceClassification
    cache: bool
    progress: bool
    _embed: Any

    def _llms(self) -> list[Any]:
        if self.llm is None:
            return []
        return list(self.llm) if isinstance(self.llm, list | tuple) else [self.llm]

    def _scorers(self, pool: Any = None, cache: bool | None = None) -> list[Any]:
        """The same ones until something changes: they keep connections, and count what the rate limits allow."""
        config, pool = self.model_.config, pool or getattr(self, "_pool", None)
        providers = config.providers
        llms = self._llms()
        if llms == ["recorded"]:  # of as many LLMs as the training data hold
            llms = llms * len(providers)
        for i, (llm, provider) in enumerate(zip(llms, providers, strict=False)):
            llms[i] = llm if is_function(llm) else asked_instead(llm, provider)
        runtime = {"cache": self.cache if cache is None else cache, "progress": self.progress}
        declared = [provider.to_dict() for provider in providers]
        given = [deepcopy(llm) if isinstance(llm, LLMProvider) else llm for llm in llms]
        task = (config.label_names, config.multi_label, dict(config.class_descriptions or {}), config.name_or_path)
        wanted = (declared, given, runtime, task, hash(frozenset(os.environ.items())))  # keys are in the environment
        built = getattr(self, "_built", None)
        if built is None or built[0] != wanted or built[1] is not pool:
            made = build_scorers(config, llms, pool=pool, embed=self._embed, **runtime)
            built = self._built = (wanted, pool, made)
        return built[2]

    def __getstate__(self) -> dict[str, Any]:
        """Without the scorers, whose clients belong to this process."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {name: value for name, value in state.items() if name != "_built"}


def is_function(llm: Any) -> bool:
    """Whether an LLM is a Python function."""
    return callable(llm) and not isinstance(llm, LLMProvider)


def declaration(llm: Any) -> LLMProvider:
    """The provider that stands for what a user gives as an LLM."""
    if is_function(llm):
        return LLMProvider(model=f"callable/{getattr(llm, '__name__', type(llm).__name__)}")
    return LLMProvider.from_any(llm)


def asked_instead(llm: Any, declared: LLMProvider) -> LLMProvider | None:
    """What is asked in place of a declared LLM; `None`: that one.

    A model string says which LLM, not how it is asked. Of the same model, what was learnt for it stays.
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
