"""The routes of the server, as a FastAPI application."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from threading import Lock
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from .decision_routes import (
    check_decisions,
    check_systemone,
    decisions_reply,
    decisions_text,
    systemone_reply,
)
from .guard import error_body
from .model_service import Answer, ModelService
from .request_bodies import DecisionsBody, Limits, Parameters, PredictBody, RequestError, SystemOneBody
from .server_metrics import ServerMetrics


class Server:
    """What the routes share.

    Args:
        load: Makes the service: takes seconds, runs in a thread.
        name: The model's name.
        metrics: Counts texts and queries.
        limits: Of a request.
        threads: Requests that are worked on at once.
        failed: Called with the error if loading fails.
    """

    def __init__(
        self,
        load: Callable[[], ModelService],
        name: str,
        metrics: ServerMetrics,
        limits: Limits,
        threads: int,
        failed: Callable[[Exception], None],
    ) -> None:
        self.load, self.name, self.metrics, self.limits, self.failed = load, name, metrics, limits, failed
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="labelfusion-request")
        self.service: ModelService | None = None
        self._working = 0
        self._mutex = Lock()

    def ready(self) -> ModelService:
        """The service.

        Raises:
            RequestError: While it is not there.
        """
        if self.service is None:
            raise RequestError(None, "The model is being loaded; try again.", 503)
        return self.service

    async def classify(self, rows: list[Any], options: dict[str, Any] | None = None) -> Answer:
        """Answer a request in a thread, so that the server goes on meanwhile."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, partial(self._work, self.ready(), rows, options))

    def _work(self, service: ModelService, rows: list[Any], options: dict[str, Any] | None) -> Answer:
        with self._mutex:
            self._working += 1
        try:
            answer = service.classify(rows, options)
            self.metrics.add(answer.inference)
            return answer
        finally:
            with self._mutex:
                self._working -= 1

    def stop(self) -> int:
        """Begin no more requests. Returns: how many are still worked on."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        return self._working

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Load while the server already listens, so that `/health` can tell."""
        loading = asyncio.create_task(self._load())
        yield
        loading.cancel()

    async def _load(self) -> None:
        try:
            self.service = await asyncio.to_thread(self.load)
        except Exception as error:
            self.failed(error)


def build_app(server: Server) -> FastAPI:
    """The routes."""
    app = FastAPI(title="LabelFusion", docs_url=None, redoc_url=None, lifespan=server.lifespan)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ValueError, _value_error)

    @app.get("/health")
    async def health() -> JSONResponse:
        ready = server.service is not None
        return JSONResponse({"status": "ready" if ready else "loading"}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": server.name, "object": "model", "owned_by": "labelfusion"}]}

    @app.post("/predict")
    async def predict(body: PredictBody) -> JSONResponse:
        given = body.parameters.model_dump(exclude_unset=True) if body.parameters else {}
        answer = await server.classify(body.rows(server.limits), given)
        return JSONResponse(answer.results, headers=_told(answer))

    @app.post("/v1/decisions")
    async def decisions(body: DecisionsBody) -> JSONResponse:
        config = server.ready().config
        check_decisions(body, config.label_names, config.multi_label)
        text, field = decisions_text(body)
        answer = await server.classify([(server.limits.check(text, field), None)])
        return _decided(server, answer, decisions_reply(body, _scores(answer, config.label_names)))

    @app.post("/v1/systemone")
    async def systemone(body: SystemOneBody) -> JSONResponse:
        config = server.ready().config
        check_systemone(body, config.label_names, config.multi_label)
        answer = await server.classify([(server.limits.check(body.state, "state"), None)])
        return _decided(server, answer, systemone_reply(body, _scores(answer, config.label_names)))

    return app


def _scores(answer: Answer, classes: list[str]) -> dict[str, float]:
    return dict(zip(classes, answer.inference.probabilities[0].tolist(), strict=True))


def _decided(server: Server, answer: Answer, answers: Any) -> JSONResponse:
    found = answer.inference
    told = {"llm_called": bool(found.llm_called[0]), "cost_usd": found.total_cost_usd, "notice": answer.notice}
    return JSONResponse({"model": server.name, "answers": answers, "labelfusion": told}, headers=_told(answer))


def _told(answer: Answer) -> dict[str, str]:
    """Headers that say what was asked and spent: the body of `/predict` has no place for it without the sources."""
    found = answer.inference
    told = {
        "x-labelfusion-asked": str(int(found.llm_called.sum())),
        "x-labelfusion-missing": str(len(found.errors)),
        "x-labelfusion-cost-usd": f"{found.total_cost_usd:.9g}",
    }
    return told | ({"x-labelfusion-notice": answer.notice} if answer.notice else {})


def _invalid(request: Request, error: Any) -> JSONResponse:
    """A body of another shape. What was given is not repeated: it may be a text."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _error(request, 400, "The body is no valid JSON.", None)
    field = ""
    for part in first["loc"][1:]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
    if not field:
        return _error(request, 400, "The body must be a JSON object, with `content-type: application/json`.", None)
    if first["type"] == "extra_forbidden":
        known = ", ".join(Parameters.model_fields)
        return _error(request, 400, f"`{field[:200]}` is unknown; known are {known}.", field[:200])
    return _error(request, 400, f"`{field[:200]}`: {first['msg']}.", field[:200])


def _http_error(request: Request, error: Any) -> JSONResponse:
    """An unknown path, a method that it has not, or a body that no JSON reader takes."""
    told = {400: "The body is no valid JSON.", 404: "There is no such path.", 405: "This path takes another method."}
    response = _error(request, error.status_code, told.get(error.status_code, "It cannot be answered."), None)
    response.headers.update(error.headers or {})
    return response


def _value_error(request: Request, error: Any) -> JSONResponse:
    """Options that do not fit the model; `RequestError` names its field itself."""
    if isinstance(error, RequestError):
        return _error(request, error.status, str(error), error.field)
    named = re.search(r"`([a-z_]+)`", str(error))
    return _error(request, 400, str(error), f"parameters.{named[1]}" if named else None)


def _error(request: Request, status: int, message: str, field: str | None) -> JSONResponse:
    return JSONResponse(error_body(request.url.path, message, field, status), status)
