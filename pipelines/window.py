"""A window of texts on its way through the engine."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..scoring.asker import Asking
from ..scoring.session.score_table import ScoreTable


@dataclass
class Window:
    """n texts, what is known about them, and the question that is under way.

    Args:
        texts: The texts.
        known: What is known so far.
        embeddings: float32 `(n, hidden_size)`, once they are there.
        asked: int `(m,)`: the rows that the question in `asking` is about.
        asking: The question.
        steps: Goes on to the next question, where one follows from the answers to the last.
    """

    texts: list[str]
    known: ScoreTable
    embeddings: torch.Tensor | None = None
    asked: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    asking: Asking | None = None
    steps: Iterator[None] = field(default_factory=lambda: iter(()))

    def __post_init__(self) -> None:
        self.waited_s = np.zeros(len(self.texts))  # for the LLMs queried so far
        self.wanted = np.zeros(self.known.scores.shape[:2], dtype=bool)

    def proceed(self) -> None:
        """Ask the next question; `asking` is `None` if there is none."""
        self.asking = None
        next(self.steps, None)

    def take(self, answers: ScoreTable) -> None:
        """Put in the answers about the rows `asked`; an LLM that has not answered leaves what was there."""
        self.waited_s[self.asked] += answers.took_s
        self.known.add(answers, self.asked)
