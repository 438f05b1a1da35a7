"""A stand-in for an LLM, for tests of what asks it."""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from labelfusion.scoring.score_batch import ScoreBatch, Usage

NAMES = ["class0", "class1", "class2"]


class FakeScorer:
    """Answers at once, remembers what it was asked, costs a cent a text."""

    labels, multi_label, method = list(NAMES), False, "json"

    def __init__(
        self,
        name: str = "judge",
        cost: float = 0.01,
        fail: Sequence[str] = (),
        before: Callable[[list[str]], Awaitable[None]] | None = None,
    ) -> None:
        self.name, self.cost, self.fail, self.before = name, cost, fail, before
        self.asked: list[str] = []

    async def score(self, texts: Sequence[str]) -> ScoreBatch:
        self.asked += texts
        if self.before is not None:
            await self.before(list(texts))
        scores = np.tile(np.array([0.2, 0.7, 0.1], dtype=np.float32), (len(texts), 1))
        errors = {i: "refused" for i, text in enumerate(texts) if text in self.fail}
        scores[list(errors)] = np.nan
        return ScoreBatch(scores, self.method, Usage(len(texts), cost_usd=self.cost * len(texts)), errors)
