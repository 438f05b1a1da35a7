"""What the error reply of an API means. Servers and proxies say the same things in many shapes.

Only codes and names of parameters are taken out of a reply: its text may repeat the prompt or a part of the key.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

KEY, FILTERED, TOO_LONG, MODEL = "key", "filtered", "too_long", "model"  # kinds of error

_KEY = re.compile(
    r"(?i)\bapi[ _-]?key[ _](?:is |was )?(?:not valid|not found|invalid|expired|missing|incorrect)|API_KEY_INVALID|"
    r"\b(?:invalid|incorrect|missing|expired|no)[ _]api[ _-]?key|authentication|unauthorized|"
    r"no_db_connection"  # a litellm proxy without a database, of every key but its own
)
_FILTERED = re.compile(
    r"(?i)content[ _]?(?:filter|policy|management)|safety[ _](?:filter|system|setting|policy)|responsible ?ai|"
    r"prohibited_content|flagged"
)
_TOO_LONG = re.compile(
    r"(?i)context[ _](?:length|size|window)|(?:maximum|max)[ _]context|too many (?:input )?tokens|reduce the length|"
    r"(?:prompt|input|request|message|text)s?\b.{0,40}\b(?:too (?:long|large)|exceed)"
)
_NO_MODEL = re.compile(
    r"(?i)model_not_(?:found|exist)|\b(?:unknown|invalid|no such) model\b|\bpinned to\b|"
    r"\bmodels?\b.{0,80}\b(?:(?:is )?not found|(?:does )?not exist|is not available)"
)
# Parameters that servers refuse. Others ("model", "messages") are words that a message holds for other reasons.
_NAMES = (
    *("top_logprobs", "logprobs", "response_format", "max_completion_tokens", "max_tokens", "temperature", "top_p"),
    *("seed", "n", "reasoning_effort", "service_tier", "verbosity", "stop"),
)
_READ = 2000  # characters of a message that are looked at


@dataclass(frozen=True)
class ErrorReply:
    """What is known of an error.

    Args:
        code: The most telling of its codes.
        param: The request parameter that it complains about.
        kind: `KEY`, `FILTERED` (the text was refused), `TOO_LONG` (for the model's context), `MODEL` (there is no such
            model); None: something else.
    """

    code: str | None
    param: str | None
    kind: str | None


def read_error(status: int, body: Any, message: str, sent: Iterable[str]) -> ErrorReply:
    """Read an error reply.

    Args:
        status: HTTP status.
        body: The reply's JSON: a dict, a list with one (Gemini), or anything else.
        message: The message of the client, used if the body says nothing.
        sent: Names of the parameters that were sent.
    """
    body = body[0] if isinstance(body, list) and body else body
    body = body if isinstance(body, dict) else {}
    inner = body.get("error")
    body = inner if isinstance(inner, dict) else body
    codes = [code for code in map(plain_code, _codes(body)) if code not in ("", str(status))]
    texts = [body.get("message"), body.get("detail"), inner if isinstance(inner, str) else None]
    said = " ".join(_words(text) for text in texts if text) or message[:_READ]
    known = " ".join([*codes, said])
    kind = None
    if status in (400, 401, 403) and _KEY.search(known):
        kind = KEY
    elif status in (400, 403, 422, 451) and _FILTERED.search(known):
        kind = FILTERED
    elif status in (400, 413, 422) and _TOO_LONG.search(known):
        kind = TOO_LONG
    elif status in (400, 404, 422) and _NO_MODEL.search(known):
        kind = MODEL
    return ErrorReply(codes[0] if codes else None, _param(body, said, sent) if kind is None else None, kind)


def plain_code(value: Any) -> str:
    """A code as servers have them, a word or a small number; else nothing. What is longer may be a text or a key."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e9:
        return str(value)
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:/\[\]-]{1,60}", value, re.ASCII) else ""


def _words(said: Any) -> str:
    try:
        return str(said)[:_READ]
    except (ValueError, RecursionError):  # numbers or nesting beyond what Python writes
        return ""


def _codes(body: dict[str, Any]) -> Iterator[Any]:
    """Codes, the most telling first: `code` is often the HTTP status, and `type` says more then."""
    details = body.get("details")
    for detail in details if isinstance(details, list) else []:
        yield detail.get("reason") if isinstance(detail, dict) else None
    for name in ("code", "type", "status", "error_type"):
        yield body.get(name)
    inner = body.get("innererror")
    yield inner.get("code") if isinstance(inner, dict) else None


def _param(body: dict[str, Any], said: str, sent: Iterable[str]) -> str | None:
    """The parameter named by the reply's `param`, by the place that a validator gives, or by the message."""
    if param := plain_code(body.get("param")):
        return param
    details = body.get("detail")
    for detail in details if isinstance(details, list) else []:
        place = detail.get("loc") if isinstance(detail, dict) else None
        if isinstance(place, list) and len(place) > 1 and place[0] == "body":
            return plain_code(place[1]) or None
    sent = set(sent)
    for name in _NAMES:
        word = rf"['\"`]{name}['\"`]" if len(name) < 4 else rf"\b{name}\b"
        if name in sent and re.search(word, said):
            return name
    return None
