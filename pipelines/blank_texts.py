"""Excludes rows without a text from a run, and reinserts them into its results as missing."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .inputs import Row

if TYPE_CHECKING:
    from .inference import Inference

NO_TEXT = "no text"


class Blanks:
    """Records which rows of a run have no text, in reading order.

    Args:
        nothing: The empty result.
    """

    def __init__(self, nothing: "Inference") -> None:
        self._nothing = nothing
        self._read: deque[bool] = deque()

    def leave_out(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows with a text, and record the others."""
        for row in rows:
            blank = row[0] is None or not row[0].strip()
            self._read.append(blank)
            if not blank:
                yield row

    def put_back(self, parts: Generator["Inference", None, None]) -> Generator["Inference", None, None]:
        """Yield the parts of a run on the rows of `leave_out`, with the excluded rows reinserted."""
        with closing(parts):  # a run that is stopped early stores paid answers
            for part in parts:
                flags: list[bool] = []
                texts = 0
                while texts < len(part):
                    flags.append(self._read.popleft())
                    texts += not flags[-1]
                yield with_gaps(part, np.array(flags, dtype=bool)) if any(flags) else part
        if self._read:
            yield with_gaps(self._nothing, np.array(self._read, dtype=bool))


def with_gaps(part: "Inference", blank: NDArray[np.bool_]) -> "Inference":
    """Insert rows of NaN into `part`, with a missing text as reason, wherever `blank` is true."""
    rows = np.flatnonzero(~blank)

    def spread(values: NDArray, empty: float) -> NDArray:
        out = np.full((len(blank), *values.shape[1:]), empty, dtype=values.dtype)
        out[rows] = values
        return out

    errors = {int(rows[row]): reason for row, reason in part.errors.items()}
    return replace(
        part,
        logits=spread(part.logits, np.nan),
        encoder_logits=spread(part.encoder_logits, np.nan),
        llm_scores=spread(part.llm_scores, np.nan),
        llm_called=spread(part.llm_called, False),
        cost_usd=spread(part.cost_usd, 0.0),
        novelty=spread(part.novelty, 0.0),
        wanted=spread(part.wanted, False),
        errors=dict(sorted({**errors, **dict.fromkeys(np.flatnonzero(blank).tolist(), NO_TEXT)}.items())),
    )
