"""The state of one `score` call of an `APIScorer`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..methods.json_answer import JSONMethod
from ..methods.request_method import Method
from ..methods.server_traits import UnknownScaleError
from ..prompting.prompts import Example
from ..reasons import Missing, MissingKind
from ..score_batch import ScoringError, UnansweredError, Usage
from ..session.run_context import Run
from ..store.stored_answers import Answer
from .coordination import Coordinator, Outcome


@dataclass
class Call:
    """State of one `score` call; rows are those of its distinct texts."""

    texts: list[str]
    neighbours: list[list[Example]]
    scores: NDArray[np.float32]
    run: Run
    model: str
    failure_limit: int
    keys: dict[int, bytes] = field(default_factory=dict)
    errors: dict[int, Missing] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    cached: int = 0
    failures: int = 0  # consecutive
    stopped: Missing | None = None  # why no more requests are sent
    broken: ScoringError | None = None  # if no further request can work
    asked: bool = False  # something
    # Answers of models whose scale is not known yet: row, and what it has cost.
    pending: list[tuple[JSONMethod, int, UnknownScaleError, Usage]] = field(default_factory=list)

    def open(self, rows: list[int]) -> list[int]:
        """Those of `rows` without an outcome."""
        return [row for row in rows if row not in self.errors and np.isnan(self.scores[row]).any()]

    def unkept(self, error: str) -> None:
        """Handle a store that cannot be written: return paid answers, and send no more requests."""
        self.stopped = self.stopped or Missing(MissingKind.STOPPED, f"no answer can be kept. {error}")

    def pay(self, usage: Usage) -> None:
        """Count what a request has cost."""
        self.usage += usage
        if self.run.progress:
            self.run.progress.add(cost_usd=usage.cost_usd)

    def note(self, row: int, outcome: Outcome, cached: bool = False) -> None:
        """Note the scores of a row, or the reason why it has none."""
        failed = isinstance(outcome, Missing)
        if isinstance(outcome, Missing):
            self.errors[row] = outcome
        else:
            self.scores[row] = outcome
            self.failures = 0
        self.cached += cached and not failed
        if self.run.progress:
            self.run.progress.add(done=1, cached=int(cached and not failed), failed=int(failed))

    async def keep(
        self,
        shared: Coordinator,
        method: Method,
        rows: Sequence[int],
        answers: Sequence[NDArray[np.float32] | UnansweredError],
        usage: Usage,
    ) -> None:
        """Store the answers, then note the outcome of all rows."""
        share = 1 / len(rows)
        tokens = round(usage.prompt_tokens * share), round(usage.completion_tokens * share)
        unsaved = await shared.save(
            [
                Answer(self.keys[row], answer, self.model, method.name, *tokens, usage.cost_usd * share)
                for row, answer in zip(rows, answers, strict=True)
                if not isinstance(answer, UnansweredError)
            ]
        )
        if unsaved:
            self.unkept(unsaved)
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, UnknownScaleError) and isinstance(method, JSONMethod):
                self.pending.append((method, row, answer, Usage(0, *tokens, usage.cost_usd * share)))
                self._count_failure(answer.reason)
            elif not isinstance(answer, UnansweredError) or answer.refused:
                outcome = answer.missing if isinstance(answer, UnansweredError) else answer
                self.note(row, outcome)
                shared.tell(self.keys[row], outcome)
            else:
                self.failed(shared, [row], answer.missing)

    async def reread(self, shared: Coordinator) -> None:
        """Read the answers that wait for the scale of their model, if it is known by now."""
        ready = [entry for entry in self.pending if entry[0].learnt.scale.known is not None]
        self.pending = [entry for entry in self.pending if entry not in ready]
        for method, row, error, usage in ready:
            answer: NDArray[np.float32] | UnansweredError
            try:
                answer = method.scores_of(error.values)
            except UnansweredError as contradiction:
                answer = contradiction
            await self.keep(shared, method, [row], [answer], usage)

    def failed(self, shared: Coordinator, rows: Sequence[int], reason: Missing) -> None:
        """These rows have no usable answer."""
        for row in rows:
            self.note(row, reason)
            if reason.is_final:  # else another call may try
                shared.tell(self.keys[row], reason)
            self._count_failure(reason)

    def _count_failure(self, reason: str) -> None:
        self.failures += 1
        if self.failures >= self.failure_limit and not self.stopped:
            why = f"{self.failures} texts in a row without a usable answer, the last: {reason}"
            self.stopped = Missing(MissingKind.STOPPED, why)
