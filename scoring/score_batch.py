"""What scorers return and raise: `ScoreBatch`, `Usage`, and the errors."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .reasons import Missing, MissingKind


@dataclass
class Usage:
    """What was spent: requests sent, tokens read and written, US dollars."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost_usd + other.cost_usd,
        )


@dataclass(frozen=True)
class Capabilities:
    """What a scorer does with the `Run` that it is given.

    Args:
        progress: It counts each text in `run.progress` as it is finished.
        budget: It spends no more than `run.budget` allows, or nothing at all.
        dispatch: It tells `run.dispatch` when a request goes out.
    """

    progress: bool = False
    budget: bool = False
    dispatch: bool = False


@dataclass
class ScoreBatch:
    """Per-class scores of one provider for a list of texts.

    Args:
        scores: float32 `(num_texts, num_labels)`: probabilities in [0, 1]; rows sum to 1 for single-label; a row of NaN
            where the provider has no answer.
        method: How the scores were obtained, one of `labelfusion.configuration.llm_provider.METHODS`.
        usage: Requests, tokens and dollars spent for this batch (answers from the store cost nothing).
        errors: `{row: reason}` for rows without an answer: `Missing`, or a plain message. Never holds a text or a key.
        cached: Number of texts answered from the score store.
    """

    scores: NDArray[np.float32]
    method: str
    usage: Usage = field(default_factory=Usage)
    errors: dict[int, str] = field(default_factory=dict)
    cached: int = 0

    @property
    def mask(self) -> NDArray[np.bool_]:
        """bool `(num_texts,)`: True where there is an answer."""
        return np.asarray(~np.isnan(self.scores).any(axis=1))


class ScoringError(RuntimeError):
    """A scorer cannot work at all: no key, a missing package, an unknown model. The message says how to fix it.

    If it worked at first, `batch` holds the answers until then.
    """

    batch: ScoreBatch | None = None

    @property
    def missing(self) -> Missing:
        """The reason for the texts that are not queried because of it."""
        return Missing(MissingKind.UNAVAILABLE, str(self))


class UnansweredError(Exception):
    """A reply without a usable answer: a refusal, or something that cannot be read. Never holds a text.

    Args:
        reason: Short description.
        refused: The model declined. Another request would not help, and does not count as a failure of the model.
    """

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.refused = reason, refused

    @property
    def unread(self) -> bool:
        """Whether the model has answered, but the answer cannot be read."""
        return not self.refused

    @property
    def missing(self) -> Missing:
        """The reason for the text that has no answer."""
        if self.refused:
            return Missing(MissingKind.REFUSED, self.reason)
        return Missing(MissingKind.UNREADABLE, f"unusable answer: {self.reason}")


def missing(num_texts: int, num_labels: int) -> NDArray[np.float32]:
    """float32 `(num_texts, num_labels)` of NaN: no answer yet."""
    return np.full((num_texts, num_labels), np.nan, dtype=np.float32)


def check_scores(
    scores: NDArray[np.float32], num_texts: int, num_labels: int, multi_label: bool, source: str
) -> NDArray[np.float32]:
    """Validate scores that came from outside and return them as float32.

    Single-label rows are normalised to sum to 1. A row with any NaN counts as missing altogether.

    Raises:
        ValueError: For a wrong shape, values outside [0, 1], or a single-label row that sums to 0.
    """
    scores = np.asarray(scores, dtype=np.float32)
    if scores.shape != (num_texts, num_labels):
        raise ValueError(
            f"{source}: scores have shape {scores.shape}; expected ({num_texts}, {num_labels}), texts x classes."
        )
    gone = np.asarray(np.isnan(scores).any(axis=1))
    scores = np.where(gone[:, None], np.float32(np.nan), scores)
    given = scores[~gone]
    if given.size and (given.min() < -1e-4 or given.max() > 1 + 1e-4):
        bad = int(np.flatnonzero(~gone)[np.argmax(((given < -1e-4) | (given > 1 + 1e-4)).any(axis=1))])
        raise ValueError(
            f"{source}: row {bad} holds {scores[bad].tolist()}; scores are probabilities in [0, 1]. "
            "Apply a softmax (single-label) or a sigmoid (multi-label) to logits first."
        )
    scores = np.clip(scores, 0.0, 1.0)
    if not multi_label:
        total = scores.sum(axis=1, keepdims=True)
        if (total[~gone] <= 0).any():
            bad = int(np.flatnonzero(~gone)[np.argmax(total[~gone, 0] <= 0)])
            raise ValueError(f"{source}: row {bad} has no positive score; use NaN (null) for a missing answer.")
        scores = scores / total
    return scores.astype(np.float32)
