"""A window of texts that the engine processes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..scoring.asker import Asking
from ..scoring.session.score_table import ScoreTable


@dataclass
class Window:
    """n texts with their scores so far and the running LLM request.

    Args:
        texts: The texts.
        known: Scores so far.
        embeddings: float32 `(n, embedding_size)`, once computed; 0 for texts with a quick answer.
        quick: float32 `(n, K)`: logits of the texts that the quick head answers, else NaN.
        asked: int `(m,)`: the rows that the request in `asking` is about.
        asking: The running request.
        steps: Starts the next request, if one depends on the answers to the last.
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
        self.quick = np.full((len(self.texts), self.known.scores.shape[2]), np.nan, dtype=np.float32)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """bool `(n,)`: texts with a quick answer."""
        return np.asarray(~np.isnan(self.quick[:, 0]))

    def proceed(self) -> None:
        """Start the next request; `asking` is `None` if there is none."""
        self.asking = None
        next(self.steps, None)

    def take(self, answers: ScoreTable) -> None:
        """Store the answers about the rows `asked`. Missing answers do not overwrite existing scores."""
        self.waited_s[self.asked] += answers.took_s
        self.known.add(answers, self.asked)
