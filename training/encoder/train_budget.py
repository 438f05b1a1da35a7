"""The budget of training the encoder: work, counted in tokens, and a stop by the clock."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...modeling_labelfusion.encoding import without_surrogates
from ..fit_options import FitOptions

if TYPE_CHECKING:
    from ...modeling_labelfusion.encoding import TextEncoder

clock = time.monotonic  # tests replace it
ENCODING = 0.5  # work of encoding a token, relative to training on it


class OutOfTimeError(Exception):
    """`max_train_minutes` are over."""


@dataclass
class TrainBudget:
    """What is left of `max_train_tokens`, and when `max_train_minutes` are over.

    What is trained depends on the tokens alone, so the same seed gives the same model on a slow, busy or fast machine.
    The clock can only stop the training, and nothing of a stopped training is kept.

    Args:
        lengths: int64 `(n,)`: tokens of each training text.
        tokens: Tokens left.
        deadline: Time of `clock` in seconds; `None`: none.
        spent: Tokens used so far.
    """

    lengths: NDArray[np.int64]
    tokens: float
    deadline: float | None = None
    spent: float = 0.0

    @classmethod
    def start(cls, encoder: "TextEncoder", texts: Sequence[str], options: FitOptions) -> "TrainBudget":
        """The whole budget; the minutes start now."""
        minutes = options.max_train_minutes
        deadline = None if minutes is None else clock() + 60 * minutes
        return cls(token_counts(encoder, texts, options.finetune.max_length), options.max_train_tokens, deadline)

    def spend(self, tokens: float) -> None:
        """Take the tokens of a training that is about to start off the budget. It may become negative."""
        self.tokens -= tokens
        self.spent += tokens

    @contextmanager
    def stopping(self, encoder: "TextEncoder") -> Iterator[None]:
        """Raise `OutOfTimeError` from the first forward pass of the encoder after the deadline."""
        if self.deadline is None:
            yield
            return
        deadline = self.deadline

        def check(*_: object) -> None:
            if clock() >= deadline:
                raise OutOfTimeError

        hook = encoder.model.encoder.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()


def token_counts(encoder: "TextEncoder", texts: Sequence[str], max_length: int | None = None) -> NDArray[np.int64]:
    """int64 `(n,)`: tokens of each text that the encoder reads, special tokens included."""
    limit = min(max_length or encoder.limit, encoder.limit)
    counts = [
        len(ids)
        for start in range(0, len(texts), 1000)
        for ids in encoder.tokenizer(
            [without_surrogates(text) for text in texts[start : start + 1000]], truncation=True, max_length=limit
        )["input_ids"]
    ]
    return np.array(counts, dtype=np.int64)
