"""The contract of a scorer: texts and a `Run` in, a `ScoreBatch` out."""

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

from ...configuration import ProviderKind
from ..score_batch import Capabilities, ScoreBatch
from .run_context import Run


class TextScorer(Protocol):
    """The minimal interface, for scorers of the user: every function that takes scorers accepts it."""

    name: str
    labels: list[str]
    multi_label: bool

    async def score(self, texts: Sequence[str]) -> ScoreBatch:
        """Score `texts`, in order. A text without an answer is a row of NaN with a reason in `errors`."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """The whole interface: says what it is, and respects a `Run`. One instance serves many calls."""

    name: str
    labels: list[str]
    multi_label: bool
    kind: ProviderKind
    capabilities: Capabilities

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """Score `texts`, in order, within the limits of `run`.

        A text without an answer is a row of NaN with a reason in `errors`.

        Raises:
            ScoringError: Only if the scorer cannot work at all.
        """
        ...


class CustomScorer:
    """Makes a `TextScorer` a `Scorer`: its `run` is ignored.

    Args:
        scorer: The scorer. Its `provider`, an `LLMProvider`, says what kind it is, if it has one; with the `method`
            `"recorded"` it is not queried.
    """

    def __init__(self, scorer: TextScorer) -> None:
        self.scorer = scorer
        self.name, self.labels, self.multi_label = scorer.name, scorer.labels, scorer.multi_label
        recorded = getattr(scorer, "method", None) == ProviderKind.RECORDED
        usual = ProviderKind.RECORDED if recorded else ProviderKind.CALLABLE
        self.kind: ProviderKind = getattr(getattr(scorer, "provider", scorer), "kind", usual)
        self.capabilities: Capabilities = getattr(scorer, "capabilities", Capabilities())

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """The batch of the scorer."""
        return await self.scorer.score(texts)


def complete(scorer: TextScorer) -> Scorer:
    """`scorer` itself if it is a whole `Scorer`, else a `CustomScorer` around it."""
    whole = hasattr(scorer, "capabilities") and hasattr(scorer, "kind")  # `isinstance` would take 30 us a call
    return cast(Scorer, scorer) if whole else CustomScorer(scorer)
