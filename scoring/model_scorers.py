"""The scorers of a model's LLMs: made from the config or from what the caller puts in their place, and checked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from ..configuration import LabelFusionConfig, LLMProvider
from .reasons import Missing
from .score_batch import ScoreBatch, ScoringError, missing
from .session.run_context import Run
from .session.scorer import Scorer, TextScorer

Scorers: TypeAlias = Sequence[TextScorer] | Callable[[], Sequence[TextScorer]]

MAX_DECLARED = 10  # LLMs of a model from the Hub that are queried


def build_scorers(config: LabelFusionConfig, llm: Any = None, **runtime: Any) -> list[TextScorer]:
    """Make the scorers of a model's providers.

    Args:
        config: The model's config.
        llm: What to query instead of the declared providers, for one provider or as a list with one entry for each: a
            function `(list of n texts) -> (n, num_labels)` probabilities, a model string, an `LLMProvider`, a dict of
            its fields, or a `Scorer`. `None`: as declared.
        **runtime: For `scoring.build_scorer` (`store`, `cache`, `embed`, `pool`, ...).

    Raises:
        ValueError: If `llm` does not fit the number of providers.
        ScoringError: If a model from the Hub declares an LLM that its user has not allowed, see `providers.consent`.
    """
    from .factory import build_scorer
    from .providers.consent import check_texts

    chosen = list(llm) if isinstance(llm, list | tuple) else [llm] * max(config.num_providers, 1)
    if len(chosen) != config.num_providers or (
        llm is not None and chosen and chosen[0] is llm and config.num_providers > 1
    ):
        names = [p.name for p in config.providers]
        raise ValueError(
            f"`llm` must name {config.num_providers} LLMs, one for each provider of the model {names}; got {llm!r}. "
            + ("The model was made without LLMs." if not names else "Use None in the list for a provider as declared.")
        )
    if config.source and chosen.count(None) > MAX_DECLARED:
        raise ScoringError(
            f"{config.source} declares {config.num_providers} LLMs; from the Hub, up to {MAX_DECLARED} are queried. "
            "Give those that you want as `llm=`, with 'recorded' for the others."
        )
    scorers: list[TextScorer] = []
    for provider, choice in zip(config.providers, chosen, strict=True):
        function = None
        if hasattr(choice, "score"):
            scorers.append(choice)
            continue
        if callable(choice):
            provider, function = LLMProvider(model="callable", name=provider.name), choice
        elif choice is not None:
            provider = LLMProvider.from_any(choice)
            if config.source:  # the user's LLM, but classes from the Hub
                check_texts(LLMProvider("classes", source=config.source), config.label_names, config.class_descriptions)
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
        self._made: list[TextScorer] | None = None

    def __call__(self) -> list[TextScorer]:
        """The scorers."""
        if self._made is None:
            self._made = build_scorers(self.config, self.llm, **self.runtime)
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}


class Unbroken:
    """A scorer whose `ScoringError` becomes missing answers, so that the answers of other scorers are not lost.

    Args:
        scorer: The scorer.
        broke: Called with the error; returns the reason for the texts, or raises.
    """

    def __init__(self, scorer: Scorer, broke: Callable[[ScoringError], Missing]) -> None:
        self.scorer, self.broke = scorer, broke
        self.name, self.labels, self.multi_label = scorer.name, scorer.labels, scorer.multi_label
        self.kind, self.capabilities = scorer.kind, scorer.capabilities

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """The scorer's batch, or what it had until it broke down."""
        try:
            return await self.scorer.score(texts, run)
        except ScoringError as error:
            reason = self.broke(error)
            if error.batch is not None:  # its reasons may be plain messages
                told = {row: reason if said == reason else said for row, said in error.batch.errors.items()}
                return replace(error.batch, errors=told)
            nothing = missing(len(texts), len(self.labels))
            return ScoreBatch(nothing, "missing", errors=dict.fromkeys(range(len(texts)), reason))


def check_scorers(scorers: Sequence[TextScorer], config: LabelFusionConfig) -> None:
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
