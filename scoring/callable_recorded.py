"""Scorers without an LLM: a Python function, and scores that come with the data."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..configuration import ProviderKind
from ..configuration.secrets import redact
from .reasons import Missing, MissingKind
from .score_batch import Capabilities, ScoreBatch, check_scores, missing
from .session.run_context import Run


class CallableScorer:
    """Scores from a Python function `(list of n texts) -> array (n, K)` of probabilities; NaN rows are missing.

    Without a function (a reloaded model: functions are not saved) every answer is missing.
    """

    method = "callable"
    kind = ProviderKind.CALLABLE
    capabilities = Capabilities(dispatch=True)

    def __init__(
        self, name: str, labels: list[str], multi_label: bool, function: Callable[[list[str]], Any] | None = None
    ) -> None:
        self.name, self.labels, self.multi_label, self.function = name, list(labels), multi_label, function

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """Call the function in a thread.

        Raises:
            ValueError: If its answer is not `(n, K)` of probabilities.
            RuntimeError: If it raised `SystemExit`, `KeyboardInterrupt` or `StopIteration`.
        """
        if self.function is None or not texts:
            reason = Missing(MissingKind.NO_SCORES, f"{self.name}: no function was given")
            return ScoreBatch(
                missing(len(texts), len(self.labels)), self.method, errors=dict.fromkeys(range(len(texts)), reason)
            )
        said = await asyncio.to_thread(self._call, self.function, list(texts), _sender(run))
        if inspect.iscoroutine(said):
            said.close()
            raise ValueError(f"{self.name}: the function is asynchronous; give a plain one.")
        try:
            answer = np.asarray(said, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.name}: the function gave a {type(said).__name__} that is no array of probabilities "
                f"({redact(str(error))}); expected ({len(texts)}, {len(self.labels)}), texts x classes, NaN for a "
                "missing answer."
            ) from None
        scores = check_scores(answer, len(texts), len(self.labels), self.multi_label, self.name)
        gone = np.flatnonzero(np.isnan(scores).any(axis=1)).tolist()
        reason = Missing(MissingKind.NO_SCORES, "the function gave no answer")
        return ScoreBatch(scores, self.method, errors=dict.fromkeys(gone, reason))

    def _call(self, function: Callable[[list[str]], Any], texts: list[str], begun: Callable[[], Any]) -> Any:
        begun()
        try:
            return function(texts)
        except (StopIteration, SystemExit, KeyboardInterrupt) as error:  # would end the event loop, or never arrive
            raise RuntimeError(
                f"{self.name}: the function raised {type(error).__name__}: {redact(str(error))}"
            ) from error


def _sender(run: Run | None) -> Callable[[], Any]:
    """Reports, from a thread, that the query is being answered."""
    if run is None or run.dispatch is None:
        return lambda: None
    return partial(asyncio.get_running_loop().call_soon_threadsafe, run.dispatch.send)


class RecordedScorer:
    """For scores that come with the data (`llm_scores`): has no answer for any text."""

    method = "recorded"
    kind = ProviderKind.RECORDED
    capabilities = Capabilities(budget=True)  # it costs nothing

    def __init__(self, name: str, labels: list[str], multi_label: bool) -> None:
        self.name, self.labels, self.multi_label = name, list(labels), multi_label

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """All rows missing."""
        reason = Missing(MissingKind.NO_SCORES, "recorded scores come with the data; this text has none")
        return ScoreBatch(
            missing(len(texts), len(self.labels)), self.method, errors=dict.fromkeys(range(len(texts)), reason)
        )
