"""What stands before the routes: the server's key, limits of size and number, metrics, and errors without texts."""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .request_bodies import Limits
from .server_metrics import ServerMetrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTES = ("/predict", "/v1/decisions", "/v1/systemone", "/v1/models", "/health", "/metrics", "/openapi.json")
OPEN = ("/health",)  # without the key
UNCOUNTED = ("/health", "/metrics")

logger = logging.getLogger("labelfusion.serve")


class _TooLargeError(Exception):
    """The body is larger than the limit."""


@dataclass
class Guard:
    """An ASGI application around the routes.

    Args:
        app: The routes.
        metrics: Counts the requests.
        limits: Of the body's size.
        key: The bearer key of the server; `None`: it needs none.
        max_waiting: Requests at once; more get HTTP 503.
        access_log: Log a line for each request: route, status and time, and nothing that a client has written.
    """

    app: Callable[[Scope, Receive, Send], Awaitable[None]]
    metrics: ServerMetrics
    limits: Limits
    key: str | None = None
    max_waiting: int = 256
    access_log: bool = False

    def __post_init__(self) -> None:
        self.in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the events of starting and stopping."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        route = scope["path"] if scope["path"] in ROUTES else "other"
        started, status = time.perf_counter(), 0

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        counted = route not in UNCOUNTED
        self.in_progress += counted
        self.metrics.waiting.set(self.in_progress)
        try:
            await self._serve(scope, receive, sent)
        except Exception as error:  # the message may hold texts
            logger.error("%s: %s", route, _place(error))
            if not status:
                await refuse(scope, sent, 500, "The server could not answer.")
        finally:
            self.in_progress -= counted
            self.metrics.waiting.set(self.in_progress)
            took = time.perf_counter() - started
            self.metrics.requests.labels(route, str(status)).inc()
            if counted:
                self.metrics.seconds.labels(route).observe(took)
            if self.access_log:
                method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
                logger.info("%s %s %s %.0f ms", method, route, status, 1000 * took)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self.key is not None and scope["path"] not in OPEN and not self._knows_key(headers):
            told = "This server needs its key: `Authorization: Bearer KEY`."
            return await refuse(scope, send, 401, told, headers=[(b"www-authenticate", b"Bearer")])
        if scope["path"] not in UNCOUNTED and self.in_progress > self.max_waiting:
            told = "The server is busy; try again."
            return await refuse(scope, send, 503, told, headers=[(b"retry-after", b"1")])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self.limits.max_body_bytes:
            return await self._too_large(scope, send)
        received = 0

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limits.max_body_bytes:
                raise _TooLargeError
            return message

        async def unless_too_large(message: MutableMapping[str, Any]) -> None:
            if received <= self.limits.max_body_bytes:  # the routes take that for a body that they cannot read
                await send(message)

        with suppress(_TooLargeError):
            await self.app(scope, bounded, unless_too_large)
        if received > self.limits.max_body_bytes:
            await self._too_large(scope, send)

    def _knows_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        known = (self.key or "").encode()
        return hmac.compare_digest(given.strip(), known) and scheme.lower() == b"bearer"

    async def _too_large(self, scope: Scope, send: Send) -> None:
        told = f"The body is larger than {self.limits.max_body_bytes} bytes (`--max-body-mb`)."
        await refuse(scope, send, 413, told, headers=[(b"connection", b"close")])


async def refuse(
    scope: Scope, send: Send, status: int, message: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send an error."""
    from starlette.responses import JSONResponse

    response = JSONResponse(error_body(scope["path"], message, None, status), status)
    response.raw_headers.extend(headers or [])

    async def nothing() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    await response(scope, nothing, send)


def error_body(path: str, message: str, field: str | None, status: int) -> dict[str, Any]:
    """An error in the form of the route: OpenAI's for `/v1/...`, else that of Inference Endpoints."""
    if not path.startswith("/v1/"):
        return {"error": message, "field": field}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": field, "code": None}}


def _place(error: BaseException) -> str:
    """The type of an error and the line that raised it, without its message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"
