"""The HTTP client below the `openai` client."""

import asyncio
import contextlib
import importlib.util
import weakref
from typing import Any

from .limits import Slots


def make_http_client(openai: Any, timeout_s: float, slots: Slots) -> Any:
    """The `openai` client's own HTTP client, holding a slot for each request while it is on the wire.

    It sends through aiohttp where `httpx_aiohttp` is installed, for half of the processor time.

    Args:
        openai: The package.
        timeout_s: Seconds from the first byte sent to the last byte received; httpx's own timeout starts anew with
            every byte.
        slots: Shared by all clients of a provider.
    """
    import httpx

    class HTTPClient(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, valid-type]
        async def send(self, request: httpx.Request, **kwargs: Any) -> httpx.Response:
            try:
                async with slots, asyncio.timeout(timeout_s):
                    return await super().send(request, **kwargs)
            except TimeoutError:
                raise httpx.ReadTimeout("no complete reply in time", request=request) from None

    if importlib.util.find_spec("httpx_aiohttp") is None:
        return HTTPClient(timeout=timeout_s)
    sessions = _Sessions()
    client = HTTPClient(timeout=timeout_s, transport=sessions.transport())
    # Nobody is there to await a farewell when a client's event loop has ended: its connections are dropped.
    weakref.finalize(client, sessions.close)
    return client


class _Sessions:
    """The aiohttp session of one client, made on its event loop at the first request."""

    def __init__(self) -> None:
        self.session: Any = None

    def transport(self) -> Any:
        from httpx_aiohttp import AiohttpTransport

        return AiohttpTransport(client=self.open)

    def open(self) -> Any:
        import aiohttp
        import httpx

        connector = aiohttp.TCPConnector(limit=0, ssl=httpx.create_ssl_context())
        self.session = aiohttp.ClientSession(connector=connector, trust_env=True)
        return self.session

    def close(self) -> None:
        if self.session is not None and (connector := self.session.connector) is not None:
            self.session.detach()
            farewell = connector.close()
            with contextlib.suppress(Exception):
                farewell.send(None)  # drops the connections; what it would wait for after that needs a running loop
            farewell.close()
