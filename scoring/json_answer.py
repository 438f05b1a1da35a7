"""Method `json`: the model writes a confidence for each class, held to a JSON schema where the server knows them.

Verbalised confidence: Tian et al. 2023, "Just Ask for Calibration", arXiv:2305.14975.
"""

import json
from typing import Any, ClassVar

from .method import Method, Scores, UnansweredError, content, first_choice, normalize
from .transport import RequestError

_FORMATS = ("json_schema", "json_object", "none")  # what servers know, best first


class JSONMethod(Method):
    """Confidences as JSON; the only method that can ask for several texts in one request."""

    name: ClassVar[str] = "json"
    answer: ClassVar[str] = "json"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.structured = self.endpoint.structured

    def parameters(self, num_texts: int) -> dict[str, Any]:
        """Greedy, in the best format that the server is known to take."""
        return {"temperature": 0, **self._format(num_texts)}

    def _format(self, num_texts: int) -> dict[str, Any]:
        if self.structured == "none":
            return {}
        response_format: dict[str, Any] = {"type": self.structured}
        if self.structured == "json_schema":
            response_format["json_schema"] = {"name": "scores", "strict": True, "schema": self._schema(num_texts)}
        return {"response_format": response_format}

    def degrade(self, error: RequestError, body: dict[str, Any]) -> dict[str, Any] | None:
        """Fall back to plain JSON, then to nothing but the prompt, if the server refuses the format."""
        sent = body.get("response_format", {}).get("type")
        if error.status not in (400, 422) or sent not in _FORMATS or "response_format" in self.provider.params:
            return None
        if error.param and not error.param.startswith("response_format"):
            return None
        if sent == self.structured:  # else a request that was under way at the same time has done it already
            self.structured = _FORMATS[_FORMATS.index(sent) + 1]
        return {**{k: v for k, v in body.items() if k != "response_format"}, **self._format(0)}

    def answer_tokens(self, num_texts: int) -> float:
        """Each class name and its number."""
        return num_texts * sum(5 + len(label) / 4 for label in self.labels)

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """Scores of each text; a text whose part is missing or wrong has none, the others keep theirs.

        A number that was not asked for leaves it open which text is meant by any of them: no text has scores then.
        """
        data = _parse(content(first_choice(reply)))
        if self.provider.texts_per_request == 1:
            return [self._scores(data)]
        numbers = [str(number) for number in range(1, num_texts + 1)]
        if not data.keys() <= set(numbers):
            raise UnansweredError("the texts are numbered otherwise than asked")
        answers: list[Scores | UnansweredError] = []
        for number in numbers:
            try:
                answers.append(self._scores(data.get(number)))
            except UnansweredError as error:
                answers.append(error)
        return answers

    def _scores(self, data: Any) -> Scores:
        if not isinstance(data, dict):
            raise UnansweredError("no confidences for the text")
        if set(data) != set(self.names):
            raise UnansweredError("unknown or missing classes in the answer")
        values = [data[name] for name in self.names]
        if any(isinstance(v, bool) or not isinstance(v, int | float) or abs(v) > 1e6 for v in values):
            raise UnansweredError("a confidence that is not a number")  # or one of hundreds of digits
        return normalize([v / 100 for v in values], self.multi_label)

    def _schema(self, num_texts: int) -> dict[str, Any]:
        scores = _object({name: {"type": "number"} for name in self.names})
        if self.provider.texts_per_request == 1:
            return scores
        return _object({str(number): scores for number in range(1, num_texts + 1)})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _parse(text: str) -> dict[str, Any]:
    """The JSON object in `text`; models without a schema like to wrap it in a code block."""
    start, end = text.find("{"), text.rfind("}")
    try:
        data = json.loads(text[start : end + 1], object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        raise UnansweredError("the answer is not JSON") from None
    if not isinstance(data, dict):
        raise UnansweredError("the answer is not a JSON object, or has a key twice")
    return data


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """The object, unless a key comes twice: which of its values counts is anybody's guess."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else None
