"""`RequestError`, and how the errors and broken replies of servers become one."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from ...configuration.secrets import redact
from ..reasons import Missing, MissingKind
from ..score_batch import Usage
from .endpoints import CHAT, SYSTEMONE
from .error_replies import FILTERED, KEY, TOO_LONG, plain_code, read_error

WRONG_REQUEST = frozenset({400, 413, 422})  # the same request will never work
UNCONNECTED = "connection failed"


@dataclass(eq=False, repr=False)
class RequestError(Exception):
    """A request without a usable reply. The message holds status and error code, never a text or a key.

    Args:
        reason: Short description.
        status: HTTP status, if there was one.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds that the server asked to wait.
        param: The request parameter that the server complains about.
        kind: What it is about, as in `ErrorReply`.
        billed: Whether it may have been billed: it was sent, and no reply says that it failed.
        reply: The reply, if there was one that cannot be used.

    `usage` is what this and the attempts before it have cost, as far as the server has told.
    """

    reason: str
    status: int | None = None
    retryable: bool = False
    retry_after: float | None = None
    param: str | None = None
    kind: str | None = None
    billed: bool = False
    reply: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.reason = redact(self.reason)  # a server says what it likes
        super().__init__(self.reason)
        self.usage = Usage()

    @property
    def missing(self) -> Missing:
        """The reason for the texts of the request."""
        kinds = {FILTERED: MissingKind.REFUSED, TOO_LONG: MissingKind.TOO_LONG}
        otherwise = MissingKind.REJECTED if self.status in WRONG_REQUEST else MissingKind.FAILED
        return Missing(kinds.get(self.kind or "", otherwise), self.reason)


_SAID = {KEY: "the key was refused", FILTERED: "refused by a content filter", TOO_LONG: "text too long for the model"}


def from_api_error(error: Any, sent: Iterable[str] = ()) -> RequestError:
    """Translate an `openai.APIError`. Its text may repeat the prompt or a part of the key and is therefore left out.

    Args:
        error: The error.
        sent: Names of the parameters that were sent.
    """
    status, unsent = http_status(error), _unsent(error)
    # litellm gives most providers' failed connections the status 500, which no server sent.
    if status is None or unsent or type(error).__name__ in ("Timeout", "APIConnectionError"):
        name = "timeout" if "Timeout" in type(error).__name__ else UNCONNECTED
        return RequestError(name, retryable=True, billed=not unsent)
    message = getattr(error, "message", "")
    reply = read_error(status, getattr(error, "body", None), message if isinstance(message, str) else "", sent)
    said = (reply.code, plain_code(getattr(error, "code", None)), plain_code(getattr(error, "type", None)))
    code = next(filter(None, said), "")
    reason = f"HTTP {status}" + (f" {code}" if code and code != str(status) else "")
    reason = f"{_SAID[reply.kind]} ({reason})" if reply.kind in _SAID else reason
    retryable = reply.kind is None and (status in (408, 409, 425, 429) or (status >= 500 and status != 501))
    if code == "insufficient_quota":
        retryable = False
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    param = reply.param or plain_code(getattr(error, "param", None)) or None
    billed = status in (408, 502, 504, 524)  # a gateway gave up waiting; the model may have answered
    return RequestError(reason, status, retryable, retry_after(headers), param, reply.kind, billed)


def _unsent(error: Any) -> bool:
    """Whether no connection came about, so that nothing was sent."""
    cause = error
    while cause is not None and type(cause).__name__ not in ("ConnectError", "ConnectTimeout", "PoolTimeout"):
        cause = getattr(cause, "__cause__", None) or getattr(cause, "__context__", None)
    return cause is not None


def http_status(error: Any) -> int | None:
    """The HTTP status of an exception, if it has one."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 100 <= status < 600 else None


def retry_after(headers: Any) -> float | None:
    """Seconds to wait according to `Retry-After` (seconds or a date) or `retry-after-ms`, if the headers say so."""

    def seconds(name: str, read: Callable[[Any], float]) -> float | None:
        try:
            value = read(headers[name])
        except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError):
            return None
        return None if math.isnan(value) else max(0.0, value)

    found = (
        seconds("retry-after-ms", lambda value: float(value) / 1000),
        seconds("retry-after", float),
        seconds("retry-after", lambda value: parsedate_to_datetime(value).timestamp() - time.time()),
    )
    return next((value for value in found if value is not None), None)


def checked_reply(reply: Any, path: str = CHAT) -> dict[str, Any]:
    """The reply, if it has the shape of one: a list of choices, or of answers to decisions (`SYSTEMONE`: by name).

    Raises:
        RequestError: If it has not; worth a retry, as for any broken transmission.
    """
    if isinstance(reply, dict):
        choices, answers = reply.get("choices"), reply.get("answers")
        if path != CHAT and answers and isinstance(answers, dict if path == SYSTEMONE else list | tuple):
            return reply
        if isinstance(choices, list) and choices and all(isinstance(choice, dict) for choice in choices):
            return reply
        if isinstance(reply.get("error"), dict):  # some gateways report an error with status 200
            code = plain_code(reply["error"].get("code"))
            raise RequestError(f"error reply {code}".strip(), retryable=True, reply=reply)
    raise RequestError("malformed reply", retryable=True, billed=True, reply=reply if isinstance(reply, dict) else None)
