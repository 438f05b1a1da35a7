"""The scorers of a model's LLMs: made from the config or from what the caller puts in their place, and checked."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from ..configuration import LabelFusionConfig, LLMProvider
from ..scoring.base import ScoreBatch, Scorer, ScoringError, missing

Scorers: TypeAlias = Sequence[Scorer] | Callable[[], Sequence[Scorer]]

SERVERS_VARIABLE = "LABELFUSION_SERVERS"  # hosts, separated by commas, that models from the Hub may send texts to


def build_scorers(config: LabelFusionConfig, llm: Any = None, **runtime: Any) -> list[Scorer]:
    """Make the scorers of a model's providers.

    Args:
        config: The model's config.
        llm: What to ask instead of the declared providers, for one provider or as a list with one entry for each: a
            function `(list of n texts) -> (n, num_labels)` probabilities, a model string, an `LLMProvider`, a dict of
            its fields, or a `Scorer`. `None`: as declared.
        **runtime: For `scoring.build_scorer` (`store`, `cache`, `embed`, `pool`, ...).

    Raises:
        ValueError: If `llm` does not fit the number of providers.
        ScoringError: If a model from the Hub names a server of its author's choice, which nobody has allowed.
    """
    from ..scoring.factory import build_scorer

    chosen = list(llm) if isinstance(llm, list | tuple) else [llm] * max(config.num_providers, 1)
    if len(chosen) != config.num_providers or (
        llm is not None and chosen and chosen[0] is llm and config.num_providers > 1
    ):
        names = [p.name for p in config.providers]
        raise ValueError(
            f"`llm` must name {config.num_providers} LLMs, one for each provider of the model {names}; got {llm!r}. "
            + ("The model was made without LLMs." if not names else "Use None in the list for a provider as declared.")
        )
    scorers: list[Scorer] = []
    for provider, choice in zip(config.providers, chosen, strict=True):
        function = None
        if hasattr(choice, "score"):
            scorers.append(choice)
            continue
        if choice is None:
            _check_servers(provider, config)
        if callable(choice):
            provider, function = LLMProvider(model="callable", name=provider.name), choice
        elif choice is not None:
            provider = LLMProvider.from_any(choice)
        scorers.append(
            build_scorer(
                provider,
                config.label_names,
                config.multi_label,
                config.class_descriptions,
                function=function,
                **runtime,
            )
        )
    return scorers


class DeferredScorers:
    """`build_scorers` at the first call; anew in each process that this is sent to, for clients cannot be sent.

    Args:
        config: The model's config.
        llm: As for `build_scorers`.
        runtime: Its other arguments.
    """

    def __init__(self, config: LabelFusionConfig, llm: Any, runtime: dict[str, Any]) -> None:
        self.config, self.llm, self.runtime = config, llm, runtime
        self._made: list[Scorer] | None = None

    def __call__(self) -> list[Scorer]:
        """The scorers."""
        if self._made is None:
            self._made = build_scorers(self.config, self.llm, **self.runtime)
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}


class Unbroken:
    """A scorer that, where it cannot work at all, has no answers instead: what others say is not lost.

    Args:
        scorer: The scorer.
        broke: Called with the error; returns the reason that the texts are given, or raises.
    """

    def __init__(self, scorer: Scorer, broke: Callable[[ScoringError], str]) -> None:
        self.scorer, self.broke = scorer, broke
        self.name, self.labels, self.multi_label = scorer.name, scorer.labels, scorer.multi_label
        self.counts_progress = getattr(scorer, "counts_progress", False)

    async def score(self, texts: Sequence[str]) -> ScoreBatch:
        """The scorer's batch, or what it had until it broke down."""
        try:
            return await self.scorer.score(texts)
        except ScoringError as error:
            reason = self.broke(error)
            if error.batch is not None:
                return error.batch
            nothing = missing(len(texts), len(self.labels))
            return ScoreBatch(nothing, "missing", errors=dict.fromkeys(range(len(texts)), reason))


def _check_servers(provider: LLMProvider, config: LabelFusionConfig) -> None:
    """Ask before texts, and perhaps a key, go where a file from the Hub says; a folder of one's own may say so."""
    source = config.name_or_path
    if not source or os.path.isdir(source):
        return
    urls = [provider.api_base, *(value for value in provider.params.values() if isinstance(value, str))]
    hosts = {urlsplit(url).hostname for url in urls if url and "://" in url} - {None, "localhost", "127.0.0.1", "::1"}
    allowed = {host.strip() for host in os.environ.get(SERVERS_VARIABLE, "").split(",")}
    for host in sorted(hosts - allowed, key=str):
        key = f", and the key in {provider.api_key_env}" if provider.api_key_env else ""
        raise ScoringError(
            f"{source} wants texts{key} sent to {host}, a server that its author chose. If you trust it, set the "
            f"environment variable {SERVERS_VARIABLE}={host}."
        )


def check_scorers(scorers: Sequence[Scorer], config: LabelFusionConfig) -> None:
    """Refuse scorers that do not fit the model.

    Raises:
        ValueError: For another number of scorers than providers, other classes, or another kind of problem.
    """
    if len(scorers) != config.num_providers:
        raise ValueError(
            f"`scorers` has {len(scorers)} entries, but the model declares {config.num_providers} LLM providers: "
            f"{[p.name for p in config.providers]}."
        )
    for scorer in scorers:
        if list(scorer.labels) != config.label_names or scorer.multi_label != config.multi_label:
            raise ValueError(
                f"The scorer {scorer.name!r} scores {list(scorer.labels)} (multi_label={scorer.multi_label}), but the "
                f"model's classes are {config.label_names} (multi_label={config.multi_label})."
            )
