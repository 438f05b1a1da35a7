"""Method `decision`: a decision API returns the probability of every class.

`POST /v1/decisions` (OpenAI, public beta since October 2026, and the servers that follow it): one `choice` question for
single-label; one `predicate` for each class, all in one request, for multi-label.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from .method import Method, Scores, UnansweredError, UnsupportedError, normalize
from .prompts import Example, fill, templates
from .transport import DECISIONS


class DecisionMethod(Method):
    """Probabilities from a decision API."""

    name: ClassVar[str] = "decision"
    answer: ClassVar[str] = "decision"
    path: ClassVar[str] = DECISIONS
    max_labels: ClassVar[int | None] = 128  # predicates a request that every client takes; `choice` takes 255

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.multi_label:
            self._questions = [self._predicate(label) for label in self.labels]
        else:
            described = self.prompts.descriptions
            choices = [{"value": c} | ({"description": described[c]} if c in described else {}) for c in self.labels]
            question = {"type": "choice", "instructions": templates()["decision_single"], "choices": choices}
            self._questions = [question]

    def body(self, texts: Sequence[str], neighbours: Sequence[Example] = ()) -> dict[str, Any]:
        """The request body for one text."""
        context = self.prompts.context(neighbours)
        text = texts[0].encode("utf-8", "replace").decode("utf-8")
        messages = [{"role": "user", "type": "message", "content": part} for part in (context, text)]
        return {
            "model": self.endpoint.model,
            "questions": self._questions,
            "input": messages if context else text,
            **self.provider.params,
        }

    def answer_tokens(self, num_texts: int) -> float:
        """Decision APIs bill no answer."""
        return 0.0

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """The probabilities, once every question has an answer of the right kind and every class its probability."""
        answers = reply.get("answers")
        if answers is None:
            raise UnsupportedError("the reply holds no decisions")
        if any(a.get("type") == "refusal" for a in answers):
            raise UnansweredError("refused", refused=True)
        kind = self._questions[0]["type"]
        if len(answers) != len(self._questions) or any(a.get("type") != kind for a in answers):
            raise UnansweredError("the answers do not fit the questions")
        try:
            if self.multi_label:
                if all("name" in a for a in answers):
                    named = {a["name"]: a for a in answers}
                    if set(named) != set(self.labels):
                        raise UnansweredError("unknown or missing classes in the answer")
                    answers = [named[label] for label in self.labels]
                scores = [float(a["probability"]) for a in answers]
            else:
                given = {p["value"]: float(p["probability"]) for p in answers[0]["probabilities"]}
                if set(given) != set(self.labels):
                    raise UnansweredError("unknown or missing classes in the answer")
                scores = [given[label] for label in self.labels]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UnansweredError("an answer without probabilities") from None
        return [normalize(scores, self.multi_label)]

    def _predicate(self, label: str) -> dict[str, Any]:
        description = self.prompts.descriptions.get(label)
        template = templates()["decision_multi_described" if description else "decision_multi"]
        instructions = fill(template, label=label, description=description or "")
        return {"type": "predicate", "name": label, "instructions": instructions}
