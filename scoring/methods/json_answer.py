"""Method `json`: the model writes a confidence for each class, held to a JSON schema where the server knows them.

Verbalised confidence: Tian et al. 2023, "Just Ask for Calibration", arXiv:2305.14975.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from ...configuration import LLMProvider, Task
from ..prompting.prompts import Example
from ..providers.endpoints import Endpoint
from ..providers.pricing import estimate_tokens
from ..providers.request_error import RequestError
from ..score_batch import UnansweredError
from .reply_text import BrokenJSONError, json_objects, objects_within, tool_arguments
from .request_method import (
    Method,
    Scores,
    UnsupportedError,
    answer_text,
    check_refusal,
    first_choice,
    normalize,
    true_reason,
)

# What servers know, best first. Not all that know schemas know bounds of numbers in them.
_FORMATS = ("json_schema", "json_schema without bounds", "json_object", "none")
_PER_CENT = {"type": "integer", "minimum": 0, "maximum": 100}


class JSONMethod(Method):
    """Confidences as JSON; the only method with several texts in one request."""

    name: ClassVar[str] = "json"
    answer: ClassVar[str] = "json"
    bounded: ClassVar[bool] = True

    def __init__(self, provider: LLMProvider, endpoint: Endpoint, task: Task, examples: Sequence[Example] = ()) -> None:
        if task.multi_label:
            self.version = 2  # type: ignore[misc]
        super().__init__(provider, endpoint, task, examples)
        if set(self.names) <= {str(number) for number in range(1, provider.texts_per_request + 1)}:
            raise UnsupportedError(
                f"with texts_per_request={provider.texts_per_request}, the classes {self.labels} could be taken for "
                "the numbers of the texts; use texts_per_request=1, or longer class names such as '1 star'"
            )
        self._longest = 5 + sum(8 + estimate_tokens(json.dumps(name)) for name in self.names)
        self._shown = self._examples() if any("{" in text for text in self._own_words()) else []

    def parameters(self, num_texts: int) -> dict[str, Any]:
        """Greedy, in the best format that the server is known to take."""
        return {"temperature": 0, **self._format(self.learnt.structured or self.endpoint.structured, num_texts)}

    def _format(self, kind: str, num_texts: int) -> dict[str, Any]:
        if kind == "none":
            return {}
        if kind == "json_object":
            return {"response_format": {"type": kind}}
        schema = self._schema(_PER_CENT if kind == "json_schema" else {"type": "number"}, num_texts)
        described = {"name": "scores", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": described}}

    def degrade(self, error: RequestError, body: dict[str, Any]) -> dict[str, Any] | None:
        """Fall back to a plain schema, plain JSON, and the prompt alone, if the server refuses the format."""
        kind = self._kind(body)
        if error.status not in (400, 422) or error.kind or kind == "none" or "response_format" in self.provider.params:
            return None
        if error.param and not error.param.startswith("response_format"):
            return None
        sent = body["response_format"].get("json_schema")
        num_texts = len(sent["schema"]["properties"]) if sent else 1
        other = self._format(_FORMATS[_FORMATS.index(kind) + 1], num_texts)
        return {**{k: v for k, v in body.items() if k != "response_format"}, **other}

    def accepted(self, body: dict[str, Any]) -> None:
        """From now on all requests are like `body`, unless others have shown already that less is taken."""
        known = self.learnt.structured or self.endpoint.structured
        if "response_format" not in self.provider.params:
            self.learnt.structured = max(known, self._kind(body), key=_FORMATS.index)

    def _kind(self, body: dict[str, Any]) -> str:
        sent = body.get("response_format") or {}
        if sent.get("type") == "json_schema":
            return _FORMATS[json.dumps(_PER_CENT) not in json.dumps(sent)]
        return str(sent.get("type", "none"))

    def answer_tokens(self, num_texts: int) -> float:
        """Each class name and its number."""
        return num_texts * sum(5 + len(label) / 4 for label in self.labels)

    def longest_answer(self, num_texts: int) -> float:
        """Of an answer in a code block, a line a class, other scripts as escapes."""
        return 10 + num_texts * self._longest

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """Scores of each text; a text whose part is missing or wrong has none, the others keep theirs.

        A number that was not asked for leaves it open which text is meant by any of them: no text has scores then.
        """
        choice = first_choice(reply)
        numbers = [str(number) for number in range(1, num_texts + 1)]
        try:
            data = self._answer(choice, numbers)
            if self.provider.texts_per_request == 1:
                return [self._scores(data)]
        except UnansweredError as error:
            raise true_reason(choice, error) from None
        answers: list[Scores | UnansweredError] = []
        for number in numbers:
            try:
                answers.append(self._scores(data.get(number)))
            except UnansweredError as error:
                answers.append(error)
        return answers

    def _answer(self, choice: Any, numbers: list[str]) -> dict[str, Any]:
        """The one object in the choice with exactly the requested classes, or numbers of texts.

        It may stand among other words, in a code block, within another object, or be a tool's arguments.
        """
        texts = [answer_text(choice), *tool_arguments(check_refusal(choice))]
        if not any(text.strip() for text in texts):
            raise UnansweredError("empty answer")
        try:
            found = [thing for text in texts for thing in json_objects(text)]
        except BrokenJSONError:
            raise UnansweredError("the answer is not JSON") from None
        if not found:
            raise UnansweredError("the answer is not JSON")
        if None in found:
            raise UnansweredError("a class or a number twice in the answer")
        if self.provider.texts_per_request > 1:
            fitting = [thing for thing in found if thing.keys() <= set(numbers)]
        else:
            fitting = [inner for thing in found for inner in objects_within(thing) if set(inner) == set(self.names)]
        if not fitting:
            many = self.provider.texts_per_request > 1
            reason = (
                "the texts are numbered otherwise than asked" if many else "unknown or missing classes in the answer"
            )
            raise UnansweredError(reason)
        if any(thing != fitting[0] for thing in fitting):
            raise UnansweredError("several answers that differ")
        return fitting[0]

    def _scores(self, data: Any) -> Scores:
        if not isinstance(data, dict):
            raise UnansweredError("no confidences for the text")
        if set(data) != set(self.names):
            raise UnansweredError("unknown or missing classes in the answer")
        values = [data[name] for name in self.names]
        if any(isinstance(v, bool) or not isinstance(v, int | float) or abs(v) > 1e6 for v in values):
            raise UnansweredError("a confidence that is not a number")  # or one of hundreds of digits
        if data in self._shown:
            raise UnansweredError("the example of the prompt instead of an answer")
        return self.scores_of(values)

    def scores_of(self, values: Sequence[float]) -> Scores:
        """Scores from the confidences that the model wrote. Their scale is all one where they are made to sum to 1.

        Raises:
            UnansweredError: For what is no confidence, or, multi-label, may be one of another scale.
        """
        if not self.multi_label:
            return normalize([v / 100 for v in values], multi_label=False)
        if not all(0 <= v <= 100 for v in values):  # on neither scale
            raise UnansweredError("a score lies outside [0, 1]")
        return normalize(self.learnt.scale.read(values), multi_label=True)

    def _schema(self, number: dict[str, Any], num_texts: int) -> dict[str, Any]:
        scores = _object({name: number for name in self.names})
        if self.provider.texts_per_request == 1:
            return scores
        return _object({str(place): scores for place in range(1, num_texts + 1)})

    def _own_words(self) -> list[str]:
        return [*self.provider.templates[:1], self.provider.guidelines or ""]

    def _examples(self) -> list[dict[str, Any]]:
        """Answers that the user's own instructions show. (The built-in ones show none.)"""
        found: list[dict[str, Any]] = []
        for text in self._own_words():
            with suppress(BrokenJSONError):
                found += [o for thing in json_objects(text) for o in objects_within(thing) if set(o) == set(self.names)]
        return found


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
