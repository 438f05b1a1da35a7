"""`ScoreTable`: what the LLMs said about some texts, on its way from the scorers to the fusion."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..reasons import Missing, add_reason
from ..score_batch import ScoreBatch, missing


@dataclass
class ScoreTable:
    """Scores of P providers for n texts.

    Args:
        scores: float32 `(n, P, K)`: probabilities, NaN for a missing answer.
        called: bool `(n,)`: whether an LLM was queried.
        cost_usd: float64 `(n,)`: US dollars, those of a request split evenly over its texts.
        missing: `{row: reason}` for missing answers; of several providers, all reasons.
        took_s: float64 `(n,)`: seconds that each text took, where it was waited for by itself.
    """

    scores: NDArray[np.float32]
    called: NDArray[np.bool_]
    cost_usd: NDArray[np.float64]
    missing: dict[int, Missing] = field(default_factory=dict)
    took_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.took_s = self.took_s if len(self.took_s) else np.zeros(len(self.called))

    @classmethod
    def empty(cls, num_texts: int, num_providers: int, num_labels: int) -> "ScoreTable":
        """Nothing is known yet."""
        scores = missing(num_texts * num_providers, num_labels).reshape(num_texts, num_providers, num_labels)
        return cls(scores, np.zeros(num_texts, dtype=bool), np.zeros(num_texts))

    def add(self, part: "ScoreTable", rows: Sequence[int] | NDArray[np.intp], share: float = 1.0) -> None:
        """Put `part` beside what is known: its row i is about row `rows[i]`. No row twice.

        Args:
            part: Its missing answers leave what is known.
            rows: Rows of this table, one for each of `part`.
            share: Part of its cost that is counted here.
        """
        rows = np.asarray(rows, dtype=np.intp)
        self.scores[rows] = np.where(np.isnan(part.scores), self.scores[rows], part.scores)
        self.called[rows] |= part.called
        self.cost_usd[rows] += share * part.cost_usd
        self.took_s[rows] = np.maximum(self.took_s[rows], part.took_s)
        for row, reason in part.missing.items():
            add_reason(self.missing, int(rows[row]), reason)


def unique(texts: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """The distinct texts in order of appearance, and for each text its place among them."""
    place: dict[str, int] = {}
    rows = [place.setdefault(text, len(place)) for text in texts]
    return list(place), np.asarray(rows, dtype=np.intp)


def expand(batch: ScoreBatch, rows: NDArray[np.intp]) -> ScoreBatch:
    """The batch whose row i is row `rows[i]` of `batch`."""
    errors = (
        {i: batch.errors[row] for i, row in enumerate(rows.tolist()) if row in batch.errors} if batch.errors else {}
    )
    return replace(batch, scores=batch.scores[rows], errors=errors)
