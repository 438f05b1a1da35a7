"""What is learned from replies: the formats that a server takes, the length and the scale of a model's answers."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..reasons import Missing, MissingKind
from ..score_batch import ScoringError, UnansweredError
from ..store.stored_answers import Store, question_key

CERTAIN = 3  # different answers in shares, and none in per cent, after which shares are assumed


class UnknownScaleError(UnansweredError):
    """Confidences of at most 1, of a model that has not shown yet whether they are per cent.

    Args:
        values: The confidences as the model wrote them.
    """

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__("confidences up to 1, of a model that has not shown yet whether they are per cent")
        self.values = list(values)

    @property
    def unread(self) -> bool:
        """It can be read as soon as the scale is known."""
        return False

    @property
    def missing(self) -> Missing:
        """The reason for as long as the scale is not known."""
        return Missing(MissingKind.UNDECIDED, self.reason)


@dataclass
class Scale:
    """The scale of the confidences of a model: per cent, as requested, or shares of 1. Decided once, not per text.

    Args:
        known: `"percent"`, `"share"`, or None: no reply has shown it yet.
    """

    known: str | None = None
    _kept: bool = False
    _shares: set[tuple[float, ...]] = field(default_factory=set)

    def read(self, values: Sequence[float]) -> list[float]:
        """`values` as probabilities, once it is clear what they are. Zeros are zeros on both scales.

        Raises:
            UnknownScaleError: If it is not clear yet.
            UnansweredError: If they contradict what the model has written before.
        """
        top, broken = max(values), any(0 < value < 1 for value in values)
        if top > 1:
            if self.known == "share":
                raise UnansweredError("confidences on another scale than before")
            if top <= 100:
                self.known = "percent"
            return [value / 100 for value in values]
        if top <= 0 or self.known == "share":
            return list(values)
        if self.known == "percent":
            if broken:
                raise UnansweredError("confidences on another scale than before")
            return [value / 100 for value in values]
        if broken and top > 0.5:  # in per cent nobody would be that unsure with decimals
            self._shares.add(tuple(values))
            if len(self._shares) >= CERTAIN:
                self.known = "share"
                return list(values)
        raise UnknownScaleError(values)

    async def recall(self, store: Store | None, model_key: bytes) -> None:
        """Use what earlier runs have found, if nothing is known yet."""
        if self.known is None and store is not None:
            found = await asyncio.to_thread(store.get_method, _scale_key(model_key))
            if found in ("percent", "share"):
                self.known, self._kept = found, True

    async def keep(self, store: Store | None, model_key: bytes, model: str) -> None:
        """Note it for later runs, once."""
        if self.known is not None and not self._kept and store is not None:
            self._kept = True
            with suppress(ScoringError):  # later runs will find it again
                await asyncio.to_thread(store.put_method, _scale_key(model_key), model, self.known)


@dataclass
class Learnt:
    """One object for all prompts and methods of a scorer.

    Args:
        structured: Best `response_format` that the server takes; None: not tried yet.
        limited: Whether answers are bounded; not so once one needed more.
        futile: Answers that could not be read without the limit either.
        scale: Of the confidences.
    """

    structured: str | None = None
    limited: bool = True
    futile: int = 0
    scale: Scale = field(default_factory=Scale)


def _scale_key(model_key: bytes) -> bytes:
    return question_key({"scale of": model_key.hex()})
