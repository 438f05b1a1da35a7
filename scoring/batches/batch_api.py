"""The batch API of a provider: OpenAI's format, by the `openai` client or by litellm."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...configuration.secrets import redact
from ..providers.endpoints import CHAT, Endpoint
from ..providers.transport import import_litellm, import_openai
from ..score_batch import ScoringError

MOST_LINES, MOST_BYTES = 50_000, 200_000_000  # of a file of requests
LABEL = "labelfusion"  # of the metadata: tells our batches from others
ATTEMPTS_TO_CREATE = 5
ENDED = ("completed", "expired", "cancelled")  # what was answered until then is there, and paid
FAILED = "failed"  # refused as a whole: nothing was answered, or paid
LITELLM_BATCHES = ("azure", "mistral", "xai", "vertex_ai")  # for which litellm can list batches, too

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteBatch:
    """A batch as its provider describes it.

    Args:
        id: Its id there.
        status: `validating`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling`, `cancelled`, `failed`.
        label: What `create` was given; None for a batch of somebody else.
        files: Ids of the files with answers and errors.
        done: Requests that are answered.
        total: Requests.
        error: Why it failed.
    """

    id: str
    status: str
    label: str | None = None
    files: tuple[str, ...] = ()
    done: int = 0
    total: int = 0
    error: str = ""

    @classmethod
    def read(cls, found: Any) -> "RemoteBatch":
        """From an object of the client."""
        data = found.model_dump() if hasattr(found, "model_dump") else dict(found)
        counts = data.get("request_counts") or {}
        files = tuple(str(data[name]) for name in ("output_file_id", "error_file_id") if data.get(name))
        errors = ((data.get("errors") or {}).get("data")) or []
        said = "; ".join(f"{e.get('code')}: {e.get('message')}" for e in errors[:3] if isinstance(e, dict))
        label = (data.get("metadata") or {}).get(LABEL)
        done, total = (int(counts.get(name) or 0) for name in ("completed", "total"))
        return cls(str(data["id"]), str(data["status"]), label, files, done, total, redact(said))


class BatchAPI(Protocol):
    """What is needed of a provider."""

    def batches(self) -> Iterator[RemoteBatch]:
        """All batches of the account."""
        ...

    def upload(self, path: Path) -> str:
        """Upload a file of requests. Returns: its id."""
        ...

    def create(self, file_id: str, label: str) -> RemoteBatch:
        """Start a batch: from then on it is paid for."""
        ...

    def retrieve(self, batch_id: str) -> RemoteBatch:
        """How a batch is getting on."""
        ...

    def lines(self, file_id: str) -> Iterator[str]:
        """The lines of a file of answers or errors."""
        ...

    def explain(self, error: Exception) -> str | None:
        """The reason of an error of the client; None for an error of another kind."""
        ...

    def is_unsure(self, error: Exception) -> bool:
        """Whether what was sent may have been done all the same."""
        ...


class OpenAIBatches:
    """Batches through the `openai` client.

    Args:
        endpoint: Whose batches.
        timeout_s: Of a request.

    Raises:
        ScoringError: If the package or the key is missing.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float = 600.0) -> None:
        self._openai = import_openai(endpoint.model)
        key = endpoint.key() or "none"
        self._client = self._openai.OpenAI(api_key=key, base_url=endpoint.base, timeout=timeout_s, max_retries=4)

    def batches(self) -> Iterator[RemoteBatch]:
        """See `BatchAPI`."""
        return map(RemoteBatch.read, self._client.batches.list(limit=100))

    def upload(self, path: Path) -> str:
        """See `BatchAPI`."""
        with path.open("rb") as file:
            return str(self._client.files.create(file=file, purpose="batch").id)

    def create(self, file_id: str, label: str) -> RemoteBatch:
        """See `BatchAPI`. One attempt: a second one after a time-out might be a second batch."""
        once = self._client.with_options(max_retries=0)
        given: dict[str, Any] = {"completion_window": "24h", "endpoint": f"/v1{CHAT}", "input_file_id": file_id}
        return RemoteBatch.read(once.batches.create(**given, metadata={LABEL: label}))

    def retrieve(self, batch_id: str) -> RemoteBatch:
        """See `BatchAPI`."""
        return RemoteBatch.read(self._client.batches.retrieve(batch_id))

    def lines(self, file_id: str) -> Iterator[str]:
        """See `BatchAPI`."""
        with self._client.files.with_streaming_response.content(file_id) as response:
            yield from response.iter_lines()

    def explain(self, error: Exception) -> str | None:
        """See `BatchAPI`."""
        if not isinstance(error, self._openai.APIError):
            return None
        status = getattr(error, "status_code", None)
        return redact(f"HTTP {status} {getattr(error, 'code', None) or ''}".strip() if status else str(error))

    def is_unsure(self, error: Exception) -> bool:
        """See `BatchAPI`."""
        away = isinstance(error, self._openai.APIConnectionError)
        return away or getattr(error, "status_code", 0) in (408, 409, 429) or getattr(error, "status_code", 0) >= 500


class LitellmBatches(OpenAIBatches):
    """Batches through litellm, for the providers that it can list the batches of.

    Args:
        endpoint: Whose batches.
        timeout_s: Of a request.

    Raises:
        ScoringError: If litellm cannot do it, or is missing.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float = 600.0) -> None:
        self._openai, self._litellm = import_openai(endpoint.model), import_litellm(endpoint.model)
        provider = endpoint.model.partition("/")[0]
        if provider not in LITELLM_BATCHES:
            raise ScoringError(
                f"{endpoint.model} cannot be asked by batch: litellm lists no batches of {provider!r}, so that a stop "
                f"while submitting might be paid twice. It can be done for openai, {', '.join(LITELLM_BATCHES)}, and "
                "servers with OpenAI's /files and /batches (`api_base`)."
            )
        self._options: dict[str, Any] = {"custom_llm_provider": provider, "timeout": timeout_s}
        if key := endpoint.key():
            self._options["api_key"] = key

    def batches(self) -> Iterator[RemoteBatch]:
        """See `BatchAPI`."""
        after: str | None = None
        while True:
            found = self._litellm.list_batches(after=after, limit=100, **self._options)
            data = found["data"] if isinstance(found, dict) else found.data
            yield from map(RemoteBatch.read, data)
            more = found.get("has_more") if isinstance(found, dict) else getattr(found, "has_more", False)
            if not more or not data:
                return
            after = RemoteBatch.read(data[-1]).id

    def upload(self, path: Path) -> str:
        """See `BatchAPI`."""
        with path.open("rb") as file:
            return str(self._litellm.create_file(file=file, purpose="batch", **self._options).id)

    def create(self, file_id: str, label: str) -> RemoteBatch:
        """See `BatchAPI`."""
        given: dict[str, Any] = {"completion_window": "24h", "endpoint": f"/v1{CHAT}", "input_file_id": file_id}
        return RemoteBatch.read(
            self._litellm.create_batch(**given, metadata={LABEL: label}, max_retries=0, **self._options)
        )

    def retrieve(self, batch_id: str) -> RemoteBatch:
        """See `BatchAPI`."""
        return RemoteBatch.read(self._litellm.retrieve_batch(batch_id, **self._options))

    def lines(self, file_id: str) -> Iterator[str]:
        """See `BatchAPI`."""
        content = self._litellm.file_content(file_id, **self._options)
        yield from (content.text if hasattr(content, "text") else str(content)).splitlines()


def batch_api(endpoint: Endpoint) -> BatchAPI:
    """The batch API of an endpoint.

    Raises:
        ScoringError: If it has none that can be used.
    """
    return LitellmBatches(endpoint) if endpoint.uses_litellm else OpenAIBatches(endpoint)


def find_or_create(api: BatchAPI, label: str, path: Path) -> RemoteBatch:
    """The batch with this label, made if there is none: so that a process that is killed here never pays twice.

    Raises:
        ScoringError: If it cannot be made.
    """
    pause = 1.0
    for attempt in range(1, ATTEMPTS_TO_CREATE + 1):
        try:
            if (found := find_batch(api, label)) is not None:
                return found
            return api.create(api.upload(path), label)
        except Exception as error:
            reason = api.explain(error)
            if reason is None:
                raise
            if attempt == ATTEMPTS_TO_CREATE or not api.is_unsure(error):
                raise ScoringError(f"The batch cannot be submitted ({reason}).") from None
            logger.warning("The batch is not submitted yet (%s): looking whether it was, then once more.", reason)
            time.sleep(pause)
            pause *= 2
    raise AssertionError


def find_batch(api: BatchAPI, label: str) -> RemoteBatch | None:
    """The batch with this label that is being answered, or has been; None if there is none."""
    found = [batch for batch in api.batches() if batch.label == label and batch.status != FAILED]
    return found[0] if found else None
