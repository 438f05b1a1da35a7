"""What the methods have in common. Each method is one short file: a request body, and how its reply is read."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...configuration import LLMProvider, Task
from ..prompting.prompts import Example, PromptWriter
from ..providers.endpoints import CHAT, Endpoint
from ..providers.pricing import may_think
from ..providers.request_error import RequestError
from ..score_batch import UnansweredError
from .reply_text import joined_parts, without_thoughts
from .server_traits import Learnt

Scores = NDArray[np.float32]
CUT_OFF = "cut off by the token limit"
LEAST_LIMIT = 16  # tokens
FUTILE = 2  # answers that were no better without our limit, after which a model keeps it


class UnsupportedError(Exception):
    """The model or its server does not offer this method."""


class Method(ABC):
    """Requests the scores of some texts in one request, or a few.

    Args:
        provider: The declaration.
        endpoint: Where its requests go.
        task: The classes.
        examples: The same examples in every prompt.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # counts changes in how replies are read; a part of the store's key
    answer: ClassVar[str]  # the answer format of the prompt
    path: ClassVar[str] = CHAT
    max_labels: ClassVar[int | None] = None
    bounded: ClassVar[bool] = False  # whether the length of the answer is limited to three times what it needs

    def __init__(
        self,
        provider: LLMProvider,
        endpoint: Endpoint,
        task: Task,
        examples: Sequence[Example] = (),
    ) -> None:
        if self.max_labels is not None and task.num_labels > self.max_labels:
            raise UnsupportedError(
                f"the method {self.name!r} serves {self.max_labels} classes at most, not {task.num_labels}"
            )
        if provider.texts_per_request > 1 and self.answer != "json":
            raise UnsupportedError(f"the method {self.name!r} asks for one text a request; `json` can ask for several")
        self.provider, self.endpoint = provider, endpoint
        self.labels, self.multi_label = list(task.labels), task.multi_label
        self.prompts = PromptWriter(provider, task, self.answer, examples)
        self.names = self.prompts.names  # the classes as the prompt spells them, and the answer
        self.learnt = Learnt()
        own = {"max_tokens", "max_completion_tokens", "max_output_tokens"} & set(provider.params)
        self._bounds = self.bounded and not own and not may_think(provider, endpoint)

    def body(self, texts: Sequence[str], neighbours: Sequence[Example] = ()) -> dict[str, Any]:
        """The request body for `texts`."""
        prompt = self.prompts.write(texts, neighbours)
        return {
            "model": self.endpoint.model,
            "messages": prompt.messages,
            **self.parameters(len(texts)),
            **self.bound(len(texts)),
            **self.provider.params,
        }

    def bound(self, num_texts: int) -> dict[str, int]:
        """The limit of the answer's length. None where the user gives one, or the model may think before it answers."""
        if not self._bounds or not self.learnt.limited:
            return {}
        return {self.endpoint.token_limit: max(LEAST_LIMIT, math.ceil(3 * self.longest_answer(num_texts)))}

    def longest_answer(self, num_texts: int) -> float:
        """Tokens that one answer needs; more than `answer_tokens` foresees, less than what several answers need."""
        return self.answer_tokens(num_texts)

    def was_cut(self, reply: dict[str, Any], num_texts: int) -> bool:
        """Whether the reply is unreadable because of the limit, as far as is known: a request without it may help."""
        bounds = self._bounds and self.learnt.limited and self.learnt.futile < FUTILE
        return bounds and any(map(ended_early, reply["choices"])) and not self._can_read(reply, num_texts)

    def unbound(self, reply: dict[str, Any], num_texts: int) -> None:
        """Learn from the `reply` to the same request without the limit."""
        if self._can_read(reply, num_texts):
            self.learnt.limited = False
        else:
            self.learnt.futile += 1

    def _can_read(self, reply: dict[str, Any], num_texts: int) -> bool:
        try:
            return not all(isinstance(a, UnansweredError) and a.unread for a in self.read(reply, num_texts))
        except UnansweredError as error:
            return not error.unread
        except Exception:  # reported where it is read for its scores
            return False

    def parameters(self, num_texts: int) -> dict[str, Any]:
        """Request parameters; the provider's `params` override them."""
        return {}

    def canonical(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body` for the store's key: without what depends on what the server has turned out to know."""
        left_out = ["response_format", *([self.endpoint.token_limit] if self._bounds else [])]
        return {name: value for name, value in body.items() if name not in left_out}

    def degrade(self, error: RequestError, body: dict[str, Any]) -> dict[str, Any] | None:
        """The body to send instead of one with a feature that the server has just refused; None if there is none."""
        return None

    def accepted(self, body: dict[str, Any]) -> None:  # noqa: B027
        """The server has taken `body`, which `degrade` has made."""

    def route(self, body: dict[str, Any]) -> str:
        """The path that `body` is sent to."""
        return self.path

    def elsewhere(self, body: dict[str, Any], absent: Collection[str]) -> dict[str, Any] | None:
        """The same question for another path than the `absent` ones, which the server lacks, if there is one."""
        return None

    @abstractmethod
    def answer_tokens(self, num_texts: int) -> float:
        """Length of the answer, for estimates."""

    @abstractmethod
    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """Scores of each text of the request, float32 `(K,)`; an `UnansweredError` for a text without.

        Raises:
            UnansweredError: If no text has an answer.
            UnsupportedError: If the reply shows that this method is not offered.
        """

    def more(self, replies: Sequence[dict[str, Any]]) -> bool:
        """Whether the request must be sent again to collect further answers to the same texts."""
        return False


def first_choice(reply: dict[str, Any]) -> Any:
    """The first of the reply's choices.

    Raises:
        UnansweredError: If there is none.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UnansweredError("malformed")
    return choices[0]


def check_refusal(choice: Any) -> dict[str, Any]:
    """The choice's message.

    Raises:
        UnansweredError: If the model declined, or was stopped, or there is no message.
    """
    message = (choice.get("message") or {}) if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise UnansweredError("malformed")
    fields = message.get("provider_specific_fields")  # there in litellm
    parts = message.get("content")
    if isinstance(parts, list) and any(isinstance(part, dict) and part.get("refusal") for part in parts):
        raise UnansweredError("refused", refused=True)
    if message.get("refusal") or (isinstance(fields, dict) and fields.get("refusal")):
        raise UnansweredError("refused", refused=True)
    if choice.get("finish_reason") == "content_filter":
        raise UnansweredError("stopped by the content filter", refused=True)
    return message


def ended_early(choice: Any) -> bool:
    """Whether a limit of tokens, ours or the server's, has ended the answer."""
    return isinstance(choice, dict) and choice.get("finish_reason") == "length"


def true_reason(choice: Any, error: UnansweredError) -> UnansweredError:
    """Why a choice cannot be read: because it was cut off, if it was."""
    return UnansweredError(CUT_OFF) if ended_early(choice) and error.unread else error


def answer_text(choice: Any) -> str:
    """What the model wrote, without its thoughts; empty if that is nothing.

    Raises:
        UnansweredError: If it declined.
    """
    text = joined_parts(check_refusal(choice).get("content"))
    return without_thoughts(text) if isinstance(text, str) else ""


def content(choice: Any) -> str:
    """What the model wrote, without its thoughts.

    Raises:
        UnansweredError: If it declined, or wrote nothing.
    """
    text = answer_text(choice)
    if not text.strip():
        raise true_reason(choice, UnansweredError("empty answer"))
    return text


def number(value: Any, otherwise: str) -> float:
    """A number of a reply. Neither a word nor a truth value is one.

    Raises:
        UnansweredError: With the reason `otherwise` if it is none, or NaN, or too large.
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            return float(value)
    except OverflowError:  # an integer of hundreds of digits
        pass
    raise UnansweredError(otherwise)


def normalize(scores: Sequence[float], multi_label: bool) -> Scores:
    """Scores as float32 `(K,)` probabilities; single-label scores are made to sum to 1.

    Raises:
        UnansweredError: For a value outside [0, 1], or nothing above 0 in single-label.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < -1e-6 or values.max() > 1 + 1e-6:
        raise UnansweredError("a score lies outside [0, 1]")
    values = np.clip(values, 0.0, 1.0)
    if not multi_label:
        if values.sum() <= 0:
            raise UnansweredError("all scores are 0")
        values = values / values.sum()
    return values.astype(np.float32)
