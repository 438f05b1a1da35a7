"""Method `decision`: a decision API returns the probability of every class.

`POST /v1/decisions` (OpenAI, public beta since October 2026, and the servers that follow it): one `choice` question for
single-label; one `predicate` for each class, all in one request, for multi-label. A server that does not have this path
gets the same query in System One's format, `POST /v1/systemone`.
"""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from ...configuration import LLMProvider, Task
from ..prompting.prompts import Example, fill, quote, templates
from ..providers.endpoints import DECISIONS, SYSTEMONE, Endpoint
from .request_method import Method, Scores, UnansweredError, UnsupportedError, normalize, number
from .systemone_format import MAX_QUESTIONS, decision_answers, systemone_questions, systemone_state


class DecisionMethod(Method):
    """Probabilities from a decision API."""

    name: ClassVar[str] = "decision"
    answer: ClassVar[str] = "decision"
    path: ClassVar[str] = DECISIONS
    max_labels: ClassVar[int | None] = 128  # predicates a request that every client takes; `choice` takes 255

    def __init__(self, provider: LLMProvider, endpoint: Endpoint, task: Task, examples: Sequence[Example] = ()) -> None:
        super().__init__(provider, endpoint, task, examples)
        if self.multi_label:
            self._questions = [self._predicate(name) for name in self.names]
        else:
            described = self.prompts.descriptions
            choices = [{"value": c} | ({"description": described[c]} if c in described else {}) for c in self.names]
            question = {"type": "choice", "instructions": templates()["decision_single"], "choices": choices}
            self._questions = [question]

    def body(self, texts: Sequence[str], neighbours: Sequence[Example] = ()) -> dict[str, Any]:
        """The request body for one text."""
        context = self.prompts.context(neighbours)
        text = quote(texts[0])
        messages = [{"role": "user", "type": "message", "content": part} for part in (context, text)]
        return {
            "model": self.endpoint.model,
            "questions": self._questions,
            "input": messages if context else text,
            **self.provider.params,
        }

    def route(self, body: dict[str, Any]) -> str:
        """By the format of `body`."""
        return SYSTEMONE if "state" in body else DECISIONS

    def elsewhere(self, body: dict[str, Any], absent: Collection[str]) -> dict[str, Any] | None:
        """The question in System One's format; litellm finds the format of its providers by itself."""
        asked = self.route(body) == SYSTEMONE or SYSTEMONE in absent or self.endpoint.uses_litellm
        if asked or len(self._questions) > MAX_QUESTIONS:
            return None
        return self.systemone(body)

    def systemone(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body` in System One's format."""
        state, questions = systemone_state(body["input"]), systemone_questions(body["questions"])
        rest = {name: value for name, value in body.items() if name != "input"}
        return {**rest, "state": state, "questions": questions}

    def answer_tokens(self, num_texts: int) -> float:
        """Decision APIs bill no answer."""
        return 0.0

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """The probabilities, once every question has an answer of the right kind and every class its probability."""
        answers = reply.get("answers")
        if answers is None:
            raise UnsupportedError("the reply holds no decisions")
        if isinstance(answers, dict):
            answers = decision_answers(answers, self._questions)
        if not isinstance(answers, list | tuple) or not all(isinstance(a, dict) for a in answers):
            raise UnansweredError("malformed")
        if any(a.get("type") == "refusal" for a in answers):
            raise UnansweredError("refused", refused=True)
        kind = self._questions[0]["type"]
        if len(answers) != len(self._questions) or any(a.get("type") != kind for a in answers):
            raise UnansweredError("the answers do not fit the questions")
        key = "name" if self.multi_label else "value"
        given = answers if self.multi_label else answers[0].get("probabilities")
        if not isinstance(given, list | tuple) or not all(isinstance(p, dict) and "probability" in p for p in given):
            raise UnansweredError("an answer without probabilities")
        names = self.names
        if any(key in p for p in given) or not self.multi_label:  # predicates without names are in order
            names = [p.get(key) for p in given]
            if len(names) != len(self.names) or any(name not in names for name in self.names):
                raise UnansweredError("unknown or missing classes in the answer")
        scores = [number(p["probability"], "an answer without probabilities") for p in given]
        return [normalize([scores[names.index(name)] for name in self.names], self.multi_label)]

    def _predicate(self, label: str) -> dict[str, Any]:
        description = self.prompts.descriptions.get(label)
        template = templates()["decision_multi_described" if description else "decision_multi"]
        instructions = fill(template, label=label, description=description or "")
        return {"type": "predicate", "name": label, "instructions": instructions}
