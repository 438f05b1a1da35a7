"""`build_scorer`: from a provider's declaration to the scorer that serves it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configuration import LLMProvider, ProviderKind
from .callable_recorded import CallableScorer, RecordedScorer
from .providers.consent import allowed
from .session.scorer import Scorer

if TYPE_CHECKING:
    from .store.stored_answers import Store


def build_scorer(
    provider: LLMProvider | str | dict[str, Any],
    labels: list[str],
    multi_label: bool,
    class_descriptions: dict[str, str] | None = None,
    *,
    function: Callable[[list[str]], Any] | None = None,
    store: "Store | str | Path | None" = None,
    cache: bool = True,
    embed: Callable[[list[str]], Any] | None = None,
    pool: tuple[Sequence[str], Sequence[Any]] | None = None,
    failure_limit: int = 20,
    batch_size: int = 16,
    device: str | None = None,
    progress: bool = False,
) -> Scorer:
    """Make the scorer for `provider`.

    Args:
        provider: Declaration, dict of its fields, or model string.
        labels: K class names, in the order of the scores.
        multi_label: Whether several classes may be right at once.
        class_descriptions: `{class name: description}`.
        function: For `"callable/<name>"`: `(list of n texts) -> (n, K)` probabilities.
        store: Score store of API answers, or where it is: see `open_store`. Default: the one in the Hugging Face cache
            folder.
        cache: False: neither read nor write the score store.
        embed: For the prompt strategy `"nearest"`: `(list of n texts) -> float32 (n, d)`.
        pool: Labelled `(texts, labels)` that few-shot and nearest-neighbour prompts draw examples from; a label is a
            class name, or a list of them for multi-label.
        failure_limit: Texts in a row without a usable answer, refusals not counted, after which an API is not queried
            any more.
        batch_size: Texts in one forward of a local model.
        device: Torch device of a local model. Default: a GPU if there is one.
        progress: Progress bar of a local model.

    Raises:
        ValueError: For a declaration that contradicts itself.
        ScoringError: For one from the Hub that holds what only the user may declare, see `scoring.providers.consent`.
    """
    provider = allowed(LLMProvider.from_any(provider), labels, class_descriptions)
    name = provider.name or provider.model
    if provider.kind == ProviderKind.RECORDED:
        return RecordedScorer(name, labels, multi_label)
    if provider.kind == ProviderKind.CALLABLE:
        return CallableScorer(name, labels, multi_label, function)
    if provider.kind == ProviderKind.LOCAL:
        options = {"batch_size": batch_size, "device": device, "progress": progress}
        return _local_scorer(provider, labels, multi_label, class_descriptions, options)
    if provider.method == "likelihood":
        raise ValueError(f"{name}: the method 'likelihood' needs a local model ('local/...' or 'embedded/...').")
    from .api.api_scorer import APIScorer

    return APIScorer(
        provider, labels, multi_label, class_descriptions,
        store=store, cache=cache, embed=embed, pool=pool, failure_limit=failure_limit,
    )  # fmt: skip


def _local_scorer(
    provider: LLMProvider,
    labels: list[str],
    multi_label: bool,
    class_descriptions: dict[str, str] | None,
    options: dict[str, Any],
) -> Scorer:
    if provider.method not in ("auto", "likelihood", "decision"):
        raise ValueError(
            f"{provider.name}: a local model scores with the methods 'likelihood' and 'decision', not "
            f"{provider.method!r}. Serve it behind an OpenAI-compatible URL (`api_base`) for the others."
        )
    if provider.method == "decision":
        from .local_decision import LocalDecisionScorer

        return LocalDecisionScorer(provider, labels, multi_label, class_descriptions, **options)
    from .likelihood import LikelihoodScorer

    return LikelihoodScorer(provider, labels, multi_label, class_descriptions, **options)
