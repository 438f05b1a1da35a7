"""A window of texts on its way through the engine."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..scoring.reasons import Missing, add_reason
from .asking import Answers, Asking


@dataclass
class Window:
    """n texts, what is known about them, and the question that is under way.

    Args:
        texts: The texts.
        scores: float32 `(n, num_providers, num_labels)`: what is known so far, NaN for missing.
        embeddings: float32 `(n, hidden_size)`, once they are there.
        asked: int `(m,)`: the rows that the question in `asking` is about.
        asking: The question.
        steps: Goes on to the next question, where one follows from the answers to the last.
    """

    texts: list[str]
    scores: NDArray[np.float32]
    embeddings: torch.Tensor | None = None
    asked: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    asking: Asking | None = None
    steps: Iterator[None] = field(default_factory=lambda: iter(()))

    def __post_init__(self) -> None:
        self.called = np.zeros(len(self.texts), dtype=bool)
        self.cost_usd = np.zeros(len(self.texts))
        self.waited_s = np.zeros(len(self.texts))  # for the LLMs asked so far
        self.wanted = np.zeros(self.scores.shape[:2], dtype=bool)
        self.errors: dict[int, Missing] = {}

    def proceed(self) -> None:
        """Ask the next question; `asking` is `None` if there is none."""
        self.asking = None
        next(self.steps, None)

    def take(self, answers: Answers) -> None:
        """Put in the answers about the rows `asked`; an LLM that has not answered leaves what was there."""
        self.waited_s[self.asked] += answers.took_s
        known = np.where(np.isnan(answers.scores), self.scores[self.asked], answers.scores)
        self.scores[self.asked] = known
        self.called[self.asked] |= answers.called
        self.cost_usd[self.asked] += answers.cost_usd
        for i, reason in answers.errors.items():
            add_reason(self.errors, int(self.asked[i]), reason)
