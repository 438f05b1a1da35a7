"""Converts errors of the Hub into one-sentence messages that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Convert errors of the Hub into one-sentence messages that say what to do."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    from ...configuration.secrets import redact

    no_token = "There is no Hub token: run `hf auth login`, or put one that may write into the variable HF_TOKEN."
    address = _endpoint()
    try:
        try:
            yield
        except RuntimeError as error:  # the client wraps errors of large files in it
            cause = error.__cause__
            if cause is None or type(cause).__module__.partition(".")[0] not in ("huggingface_hub", "httpx", "httpx2"):
                raise
            raise cause from None
    except HFValidationError as error:
        raise ValueError(f"The Hub allows no such name, {repo_id!r}: {redact(str(error))}") from None
    except OfflineModeIsEnabled:
        raise ConnectionError("The Hub was not contacted: HF_HUB_OFFLINE is set. Unset it to push.") from None
    except LocalTokenNotFoundError:
        raise PermissionError(no_token) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = redact((error.server_message or "").strip()) or f"status {status}"
        if status == 401 and "authorization" not in error.response.request.headers:
            raise PermissionError(no_token) from None
        if status == 401:
            raise PermissionError(f"{address} did not accept the token: make a new one and log in again.") from None
        if status in (403, 404):
            raise PermissionError(
                f"The token may not write to {repo_id!r}: use one with write access, or a repository of your own "
                f"({said})."
            ) from None
        if status >= 500 or status == 429:
            raise ConnectionError(f"{address} has a problem of its own ({said}): try again later.") from None
        raise ValueError(f"{address} refused the push: {said}") from None
    except Exception as error:
        try:
            from huggingface_hub.utils import httpx  # the one that it uses: httpx2 from huggingface-hub 2 on
        except ImportError:  # its first releases with httpx do not export it
            httpx = import_module("httpx")

        if not isinstance(error, httpx.TransportError):
            raise
        raise ConnectionError(f"{address} cannot be reached ({type(error).__name__}): is there a network?") from None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
