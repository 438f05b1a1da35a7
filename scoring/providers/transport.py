"""One HTTP request to an LLM: the `openai` client for OpenAI-compatible URLs, litellm for every other model."""

import asyncio
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from ...configuration.secrets import redact
from ..reasons import Missing, MissingKind
from ..score_batch import ScoringError, Usage
from ..session.limits import Slots
from .endpoints import Endpoint
from .error_replies import FILTERED, KEY, TOO_LONG, plain_code, read_error

CONNECTIONS_PER_POOL = 8
REFUSALS = frozenset({401, 402, 403, 404, 405, 501})  # of the key, the account, the model or the path
WRONG_REQUEST = frozenset({400, 413, 422})  # the same request will never work
REFUSED_S = 0.1  # pause after one: most likely no other request can work, and it is read before the next leaves
UNCONNECTED = "connection failed"
CHAT, DECISIONS, SYSTEMONE = "/chat/completions", "/decisions", "/systemone"


class RequestError(Exception):
    """A request without a usable reply. The message holds status and error code, never a text or a key.

    Args:
        reason: Short description.
        status: HTTP status, if there was one.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds that the server asked to wait.
        param: The request parameter that the server complains about.
        kind: What it is about, as in `ErrorReply`.
        billed: Whether it may have been billed all the same: it was sent, and nobody said that it came to nothing.
        reply: The reply, if there was one that cannot be used.

    `usage` is what this and the attempts before it have cost, as far as the server has told.
    """

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        param: str | None = None,
        kind: str | None = None,
        billed: bool = False,
        reply: dict[str, Any] | None = None,
    ) -> None:
        reason = redact(reason)  # a server says what it likes
        super().__init__(reason)
        self.billed, self.reply, self.usage = billed, reply, Usage()
        self.reason, self.status, self.retryable, self.retry_after, self.param, self.kind = (
            reason, status, retryable, retry_after, param, kind,
        )  # fmt: skip

    @property
    def missing(self) -> Missing:
        """The reason for the texts of the request."""
        kinds = {FILTERED: MissingKind.REFUSED, TOO_LONG: MissingKind.TOO_LONG}
        otherwise = MissingKind.REJECTED if self.status in WRONG_REQUEST else MissingKind.FAILED
        return Missing(kinds.get(self.kind or "", otherwise), self.reason)


class Transport(Protocol):
    """Sends a body to `CHAT`, `DECISIONS` or `SYSTEMONE` and returns the reply as a dict."""

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request.

        Raises:
            RequestError: If no usable reply came.
        """
        ...


class OpenAITransport:
    """Any OpenAI-compatible URL through the `openai` client. Belongs to the event loop that it was made on."""

    def __init__(self, endpoint: Endpoint, timeout_s: float, max_concurrency: int, slots: Slots) -> None:
        self._openai = openai = import_openai(endpoint.model)
        # httpcore's pool looks at all of its connections for each request, several times: a few small pools in turn
        # are much faster than a large one.
        pools = -(-max_concurrency // CONNECTIONS_PER_POOL)
        key = endpoint.key() or "none"
        clients = [
            openai.AsyncOpenAI(
                api_key=key,
                base_url=endpoint.base,
                timeout=timeout_s,
                max_retries=0,
                http_client=_http_client(openai, timeout_s, slots),
            )
            for _ in range(pools)
        ]
        if endpoint.foreign:  # what the client takes from the environment is meant for OpenAI
            for client in clients:
                client.organization = client.project = None
                client._custom_headers = {}  # of OPENAI_CUSTOM_HEADERS
        self._clients = itertools.cycle(clients)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request; the reply is taken as it is, without building the client's typed objects."""
        try:
            reply = await next(self._clients).post(path, body=body, cast_to=object)
            if isinstance(reply, str):  # the client reads JSON only where the header says so
                reply = json.loads(reply)
        except self._openai.APIError as error:
            raise from_api_error(error, body) from None
        except UnicodeEncodeError:
            raise RequestError("the request holds what is no character") from None
        except (ValueError, RecursionError):  # no JSON, or numbers or nesting beyond what Python reads
            raise RequestError("malformed reply", retryable=True, billed=True) from None
        return checked_reply(reply, path)


def _http_client(openai: Any, timeout_s: float, slots: Slots) -> Any:
    """The `openai` client's own HTTP client, holding a slot for each request while it is on the wire."""
    # httpx up to openai 2, httpx2 since: each catches its own library's errors only.
    http = sys.modules[openai.DefaultAsyncHttpxClient.__base__.__module__.partition(".")[0]]

    class HTTPClient(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, valid-type]
        async def send(self, request: Any, **kwargs: Any) -> Any:
            try:
                # The library's own timeout starts anew with every byte.
                async with slots, asyncio.timeout(timeout_s):
                    response = await super().send(request, **kwargs)
                    if response.status_code in REFUSALS:
                        slots.pause(REFUSED_S)
                    return response
            except TimeoutError:
                raise http.ReadTimeout("no complete reply in time", request=request) from None

    return HTTPClient(timeout=timeout_s)


class LitellmTransport:
    """Every model that litellm speaks."""

    def __init__(self, endpoint: Endpoint, timeout_s: float, api_base: str | None, slots: Slots) -> None:
        self._litellm, self._openai = import_litellm(endpoint.model), import_openai(endpoint.model)
        self._slots = slots
        try:
            self._litellm.get_llm_provider(endpoint.model, api_base=api_base)
        except Exception:
            raise ScoringError(
                f"litellm knows no provider of the model {endpoint.model!r}. Write it as 'provider/model', such as "
                "'anthropic/claude-haiku-4-5'; for a server of your own, give `api_base`."
            ) from None
        self._options: dict[str, Any] = {"timeout": timeout_s, "max_retries": 0, "num_retries": 0, "drop_params": True}
        if api_base:
            self._options["api_base"] = api_base
        if key := endpoint.key():
            self._options["api_key"] = key
        self._timeout_s = timeout_s

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request through `acompletion` or `adecisions`."""
        send = self._litellm.adecisions if path == DECISIONS else self._litellm.acompletion
        try:
            async with self._slots, asyncio.timeout(self._timeout_s):
                try:
                    reply = (await send(**body, **self._options)).model_dump()
                except Exception as error:
                    if _status(error) in REFUSALS:
                        self._slots.pause(REFUSED_S)
                    raise
        except self._openai.APIError as error:  # litellm's exceptions are OpenAI's
            raise from_api_error(error, body) from None
        except TimeoutError:
            raise RequestError("timeout", retryable=True, billed=True) from None
        except Exception as error:  # litellm lets provider code raise what it likes
            status = _status(error)
            raise RequestError(f"{type(error).__name__} in litellm", status, billed=status is None) from None
        return checked_reply(reply, path)


def import_openai(model: str) -> Any:
    """Import the `openai` client.

    Raises:
        ScoringError: If it is not installed.
    """
    try:
        import openai
    except ImportError:
        raise ScoringError(
            f"Asking {model} needs the openai package: pip install 'labelfusion-transformers[openai]'."
        ) from None
    return openai


def import_litellm(model: str) -> Any:
    """Import litellm without its fetching a price list or reading a `.env` file.

    Raises:
        ScoringError: If it is not installed.
    """
    wanted = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        import litellm
    except ImportError:
        raise ScoringError(
            f"Asking {model} needs litellm: pip install 'labelfusion-transformers[litellm]'. "
            "A server with an OpenAI-compatible URL needs only `api_base`."
        ) from None
    finally:
        for name in added:
            os.environ.pop(name, None)
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


def missing_key(endpoint: Endpoint) -> str | None:
    """How to give the key that a server asks for, if none is sent to it."""
    if endpoint.key():
        return None
    if endpoint.uses_litellm:
        missing = import_litellm(endpoint.model).validate_environment(endpoint.model).get("missing_keys")
        return f"set the environment variable {', '.join(missing)}" if missing else None
    example = "MY_SERVER_KEY"
    return (
        f"put it into an environment variable and name that with `api_key_env`, such as `export {example}=...` and "
        f"`api_key_env={example}`"
    )


_SAID = {KEY: "the key was refused", FILTERED: "refused by a content filter", TOO_LONG: "text too long for the model"}


def from_api_error(error: Any, sent: Iterable[str] = ()) -> RequestError:
    """Translate an `openai.APIError`. Its text may repeat the prompt or a part of the key and is therefore left out.

    Args:
        error: The error.
        sent: Names of the parameters that were sent.
    """
    status = _status(error)
    if status is None or type(error).__name__ in ("Timeout", "APIConnectionError"):
        name = "timeout" if "Timeout" in type(error).__name__ else UNCONNECTED
        return RequestError(name, retryable=True, billed=not _unsent(error))
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


def _status(error: Any) -> int | None:
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
