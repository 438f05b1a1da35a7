"""One provider's questions as lines of a batch, and the answers in its result files, stored as they are read."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..api.api_scorer import APIScorer
from ..methods.json_answer import JSONMethod
from ..methods.server_traits import UnknownScaleError
from ..providers.endpoints import CHAT
from ..providers.error_replies import FILTERED, TOO_LONG, read_error
from ..providers.pricing import find_price, read_usage
from ..reasons import Missing, MissingKind
from ..score_batch import ScoringError, UnansweredError, Usage
from ..session.background import run_sync
from ..store.stored_answers import Answer, Store

STORED_AT_ONCE = 500
RETRIED = (408, 409, 429)  # and from 500 on: the same request may be answered later


@dataclass
class Collected:
    """What a batch has brought.

    Args:
        answered: Answers that are in the store now.
        final: `{key in hexadecimal: reason}` of questions that were asked in vain: asking again would not help.
        open: `{reason: count}` of those that may be asked again.
        usage: What it has cost.
    """

    answered: int = 0
    final: dict[str, str] = field(default_factory=dict)
    open: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)


class BatchQuestions:
    """The questions of a scorer, asked by batch: the same ones, under the same keys, as one by one.

    Args:
        scorer: The scorer.
        store: Where answers go.

    Raises:
        ScoringError: For a scorer that cannot be asked by batch.
    """

    def __init__(self, scorer: Any, store: Store) -> None:
        if not isinstance(scorer, APIScorer):
            raise ScoringError(f"{scorer.name} runs on this machine: there is no batch API to ask.")
        provider = scorer.provider
        if provider.texts_per_request > 1 or provider.prompt == "nearest":
            raise ScoringError(f"{scorer.name}: a batch asks one text a request, and not with the prompt 'nearest'.")
        self.scorer, self.questions, self.store = scorer, scorer.questions, store
        name = run_sync(scorer.likely_method())
        self.method = "json" if name == "decision" and provider.method == "auto" else name
        if self.method == "decision":
            raise ScoringError(f"{scorer.name}: decisions cannot be asked by batch; use method='json' or 'logprob'.")
        priced = replace(provider, params={**provider.params, "service_tier": "batch"})
        self.price = find_price(priced, scorer.endpoint)  # a declared price is taken as it is

    def keys(self, texts: Iterable[str]) -> Iterator[bytes]:
        """The keys of the questions about `texts`."""
        return (self.questions.key(self.method, text) for text in texts)

    def line(self, key: bytes, text: str) -> bytes:
        """The line of a question."""
        body = self.questions.method(self.method, text).body([text])
        request = {"custom_id": key.hex(), "method": "POST", "url": f"/v1{CHAT}", "body": body}
        return json.dumps(request, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def estimated_cost(self, line: bytes) -> float:
        """US dollars of a question, without what the model thinks; 0 if no price is known."""
        answer = self.questions.method(self.method).answer_tokens(1)
        return self.price.cost(len(line) / 4, answer) if self.price else 0.0

    def collect(self, lines: Iterable[str], wanted: set[str]) -> Collected:
        """Read the lines of result files in any order, and store the answers.

        Args:
            lines: Lines of the files of answers and errors.
            wanted: Keys of the batch, in hexadecimal. Those without a line, and lines about others, are left out.
        """
        told = Collected()
        run_sync(self.questions.learnt.scale.recall(self.store, self.questions.model_key()))
        ready: list[Answer] = []
        unscaled: list[tuple[str, UnknownScaleError, Usage]] = []
        seen: set[str] = set()
        for line in lines:
            try:
                entry = json.loads(line)
                name = entry["custom_id"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if name not in wanted or name in seen:
                continue
            seen.add(name)
            outcome, usage = self._read(entry)
            told.usage += usage
            if isinstance(outcome, UnknownScaleError):
                unscaled.append((name, outcome, usage))
            elif isinstance(outcome, Missing) and outcome.is_final:
                told.final[name] = str(outcome)
            elif isinstance(outcome, Missing):
                told.open[str(outcome)] += 1
            else:
                ready.append(self._answer(name, outcome, usage))
            if len(ready) >= STORED_AT_ONCE:
                told.answered += self._keep(ready)
        self._scale(unscaled, ready, told)
        told.answered += self._keep(ready)
        if left := len(wanted - seen):
            told.open["not answered in time"] += left
        return told

    def _read(self, entry: dict[str, Any]) -> tuple[NDArray[np.float32] | Missing | UnknownScaleError, Usage]:
        error, response = entry.get("error"), entry.get("response")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if error or status != 200 or not isinstance(body, dict):
            code = error.get("code") if isinstance(error, dict) else None
            if not isinstance(status, int) or status in RETRIED or status >= 500:
                return Missing(MissingKind.FAILED, str(code or f"HTTP {status}")[:80]), Usage()
            said = read_error(status, body, "", ())
            kinds = {FILTERED: MissingKind.REFUSED, TOO_LONG: MissingKind.TOO_LONG}
            kind = kinds.get(str(said.kind), MissingKind.FAILED if said.kind else MissingKind.REJECTED)
            return Missing(kind, f"HTTP {status} {said.code or ''}".strip()), Usage()
        method = self.questions.method(self.method)
        usage = read_usage(body, self.price, (0.0, method.answer_tokens(1)))
        try:
            (answer,) = method.read(body, 1)
        except UnansweredError as unanswered:
            answer = unanswered
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            answer = UnansweredError("malformed")
        except Exception as unsupported:  # the reply shows that this method is not offered
            answer = UnansweredError(str(unsupported))
        if isinstance(answer, UnknownScaleError):
            return answer, usage
        return (answer.missing if isinstance(answer, UnansweredError) else answer), usage

    def _scale(
        self, unscaled: Sequence[tuple[str, UnknownScaleError, Usage]], ready: list[Answer], told: Collected
    ) -> None:
        """Read the answers that had to wait until the scale of the model's confidences was known."""
        method, scale = self.questions.method(self.method), self.questions.learnt.scale
        for name, error, usage in unscaled:
            try:
                if scale.known is None or not isinstance(method, JSONMethod):
                    raise error
                ready.append(self._answer(name, method.scores_of(error.values), usage))
            except UnansweredError as unanswered:
                told.final[name] = str(unanswered.missing)
        run_sync(scale.keep(self.store, self.questions.model_key(), self.scorer.endpoint.model))

    def _answer(self, name: str, scores: NDArray[np.float32], usage: Usage) -> Answer:
        spent = usage.prompt_tokens, usage.completion_tokens, usage.cost_usd
        return Answer(bytes.fromhex(name), scores, self.scorer.endpoint.model, self.method, *spent)

    def _keep(self, answers: list[Answer]) -> int:
        """Store `answers`, and the method for `auto` to find them by."""
        count = len(answers)
        if count:
            self.store.put_many(answers)
            key = self.questions.model_key()
            if self.scorer.provider.method == "auto" and self.store.get_method(key) is None:
                self.store.put_method(key, self.questions.model_name(), self.method)
        answers.clear()
        return count
