"""The bodies of requests, and the texts in them, checked against the limits of the server."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_QUESTIONS = 128  # as the client of decision APIs asks at most

Positive = Annotated[int, Field(gt=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class RequestError(ValueError):
    """A request that cannot be answered.

    Args:
        field: The field of the body that is wrong, such as `inputs[3]`.
        message: What is wrong with it, and what is expected.
        status: HTTP status.
    """

    def __init__(self, field: str | None, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.field, self.status = field, status


@dataclass(frozen=True)
class Limits:
    """What one request may hold.

    Args:
        max_texts: Texts.
        max_characters: Characters of a text.
        max_body_bytes: Bytes of the body.
    """

    max_texts: int = 1000
    max_characters: int = 20_000
    max_body_bytes: int = 1_000_000

    def check(self, text: str, field: str) -> str:
        """`text` if it is not too long and not blank.

        Raises:
            RequestError: Otherwise.
        """
        if len(text) > self.max_characters:
            at_most = f"this server takes {self.max_characters} (`--max-characters`)"
            raise RequestError(field, f"`{field}` has {len(text)} characters; {at_most}.")
        if not text.strip():
            raise RequestError(field, f"`{field}` has no text: it is empty or blank.")
        return text


class Parameters(BaseModel):
    """Options of the pipeline that a request may set."""

    model_config = ConfigDict(extra="forbid", strict=True)

    top_k: Positive | None = None
    return_sources: bool = False
    llm_policy: Any = None  # checked by `routing`, as the other options without a type
    max_cost_usd: Annotated[Number, Field(ge=0)] | None = None
    llm_scores: list[Any] | None = None
    max_length: Positive | None = None
    batch_size: Positive | None = None  # of no effect: the server fills its batches from all requests
    deadline_s: Annotated[Number, Field(gt=0)] | None = None
    target_accuracy: Number | None = None
    max_risk: Number | None = None
    speed: str | None = None


class PredictBody(BaseModel):
    """The body of `/predict`: that of a Hugging Face Inference Endpoint."""

    inputs: Any = None
    parameters: Parameters | None = None

    def rows(self, limits: Limits) -> list[tuple[str, Any]]:
        """The texts, with the LLM scores that came with them or None.

        Raises:
            RequestError: For anything but texts within the limits.
        """
        single = isinstance(self.inputs, str | dict)
        items = [self.inputs] if single else self.inputs
        if not isinstance(items, list) or not items:
            raise RequestError("inputs", "`inputs` must be a text or a list of texts.")
        if len(items) > limits.max_texts:
            at_most = f"this server takes {limits.max_texts} in one request (`--max-texts`)"
            raise RequestError("inputs", f"`inputs` has {len(items)} texts; {at_most}.")
        rows = []
        for i, item in enumerate(items):
            field = "inputs" if single else f"inputs[{i}]"
            text = item.get("text") if isinstance(item, dict) else item
            if not isinstance(text, str):
                raise RequestError(field, f"`{field}` must be a text or {{'text': ..., 'llm_scores': ...}}.")
            if isinstance(item, dict) and item.get("text_pair") is not None:
                raise RequestError(field, f"`{field}` has a `text_pair`: this server takes single texts only.")
            limits.check(text, field)
            rows.append((text, item.get("llm_scores") if isinstance(item, dict) else None))
        given = self.parameters.llm_scores if self.parameters else None
        if given is None:
            return rows
        given = [given] if single else given
        if len(given) != len(rows):
            field = "parameters.llm_scores"
            raise RequestError(field, f"`{field}` has {len(given)} entries for {len(rows)} texts.")
        return [(text, scores) for (text, _), scores in zip(rows, given, strict=True)]


class Choice(BaseModel):
    """An option of a `choice` question."""

    value: str


class Question(BaseModel):
    """A question of `POST /v1/decisions`."""

    type: Literal["choice", "predicate"]
    name: str | None = None
    choices: list[Choice] | None = None


class Message(BaseModel):
    """A message of an `input`."""

    content: str


class DecisionsBody(BaseModel):
    """The body of `POST /v1/decisions`."""

    input: str | Annotated[list[Message], Field(min_length=1)]
    questions: Annotated[list[Question], Field(min_length=1, max_length=MAX_QUESTIONS)]


class SystemOneQuestion(BaseModel):
    """A question of `POST /v1/systemone`."""

    type: Literal["choice", "noul"]
    criteria: dict[str, Any] | None = None


class SystemOneBody(BaseModel):
    """The body of `POST /v1/systemone`."""

    state: str
    questions: Annotated[dict[str, SystemOneQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]
