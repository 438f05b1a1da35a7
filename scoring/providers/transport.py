"""One HTTP request to an LLM: the `openai` client for OpenAI-compatible URLs, litellm for every other model."""

import asyncio
import itertools
import json
import os
import sys
from typing import Any, Protocol

from ..score_batch import ScoringError
from ..session.limits import Slots
from .consent import meant_model
from .endpoints import APIS, DECISIONS, Endpoint
from .request_error import RequestError, checked_reply, from_api_error, http_status

CONNECTIONS_PER_POOL = 8
REFUSALS = frozenset({401, 402, 403, 404, 405, 501})  # of the key, the account, the model or the path
REFUSED_S = 0.1  # pause after one: most likely no other request can work, and it is read before the next leaves


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
        check_provider(endpoint, api_base)
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
                    if http_status(error) in REFUSALS:
                        self._slots.pause(REFUSED_S)
                    raise
        except self._openai.APIError as error:  # litellm's exceptions are OpenAI's
            raise from_api_error(error, body) from None
        except TimeoutError:
            raise RequestError("timeout", retryable=True, billed=True) from None
        except Exception as error:  # litellm lets provider code raise what it likes
            status = http_status(error)
            raise RequestError(f"{type(error).__name__} in litellm", status, billed=status is None) from None
        return checked_reply(reply, path)


def check_provider(endpoint: Endpoint, api_base: str | None) -> None:
    """Check that litellm, where it is needed, knows the provider; without litellm, that the name is not misspelt.

    Raises:
        ScoringError: If not; names the provider that may be meant.
    """
    if not endpoint.uses_litellm:
        return
    try:
        litellm = import_litellm(endpoint.model)
    except _MissingPackageError:
        return
    try:
        litellm.get_llm_provider(endpoint.model, api_base=api_base)
    except Exception:
        meant = meant_model(endpoint.model, map(str, getattr(litellm, "models_by_provider", ())))
        name, slash, _ = endpoint.model.partition("/")
        what = f"Unknown provider {name!r}" if slash else f"{endpoint.model!r} names no provider"
        raise ScoringError(
            f"{what}; did you mean {meant!r}? {_BUILT_IN}."
            if meant
            else f"{what}: litellm knows no provider of the model {endpoint.model!r}. {_BUILT_IN}. Write "
            "'provider/model', such as 'anthropic/claude-haiku-4-5'; for a server of your own, give `api_base`."
        ) from None


def missing_package(endpoint: Endpoint) -> str | None:
    """How to install the package that asking needs, if it is not installed."""
    try:
        import_litellm(endpoint.model) if endpoint.uses_litellm else import_openai(endpoint.model)
    except _MissingPackageError as error:
        return str(error)
    return None


class _MissingPackageError(ScoringError):
    """A package is not installed."""


_BUILT_IN = f"Built in are {', '.join(APIS)} (docs/llm-providers.md#naming-a-provider)"


def import_openai(model: str) -> Any:
    """Import the `openai` client.

    Raises:
        ScoringError: If it is not installed.
    """
    try:
        import openai
    except ImportError:
        raise _MissingPackageError(
            f"Asking {model} needs the openai package: pip install 'labelfusion-transformers[openai]'."
        ) from None
    return openai


def import_litellm(model: str) -> Any:
    """Import litellm without its fetching a price list or reading a `.env` file.

    Raises:
        ScoringError: If it is not installed; or the provider's name is a misspelt one.
    """
    wanted = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        import litellm
    except ImportError:
        install = "pip install 'labelfusion-transformers[litellm]'"
        if meant := meant_model(model, ()):
            name, slash, _ = model.partition("/")
            what = f"Unknown provider {name!r}" if slash else f"{model!r} names no provider"
            raise ScoringError(
                f"{what}; did you mean {meant!r}? {_BUILT_IN}; others need litellm: {install}."
            ) from None
        raise _MissingPackageError(
            f"Asking {model} needs litellm: {install}. {_BUILT_IN}. "
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
