"""What the scorers of models that run in this process have in common."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ...configuration import LLMProvider, ProviderKind
from ...configuration.secrets import redact
from ...modeling_labelfusion.tokenizer_files import hub_out_of_reach, is_here
from ..reasons import Missing, MissingKind
from ..score_batch import Capabilities, ScoreBatch, ScoringError
from ..session.run_context import Run
from .embedded import resolve_model

CONFIGS = ("config.json", "adapter_config.json")  # one of them is in the folder of a model


class LocalScorer(ABC):
    """Scores of a model that Transformers runs in this process.

    Args:
        provider: Declaration.
        labels: K class names, in the order of the scores.
        multi_label: Whether several classes may be right at once.
        batch_size: Texts in one forward.
        device: Torch device. Default: a GPU if there is one, else the CPU.
        progress: Show a progress bar.

    Raises:
        ValueError: For a declaration that does not fit.
    """

    method: ClassVar[str]
    kind = ProviderKind.LOCAL
    capabilities = Capabilities(budget=True)  # it costs nothing
    model_phrase: ClassVar[str]  # what the model is called in errors
    defaults: ClassVar[dict[str, Any]]  # of the provider's `params`

    def __init__(
        self,
        provider: LLMProvider,
        labels: list[str],
        multi_label: bool,
        *,
        batch_size: int = 16,
        device: Any = None,
        progress: bool = False,
    ) -> None:
        self.provider, self.labels, self.multi_label = provider, list(labels), multi_label
        self.name = provider.name or provider.model
        self.batch_size, self.device, self.progress = batch_size, device, progress
        if unknown := sorted(set(provider.params) - set(self.defaults)):
            raise ValueError(
                f"{self.name}: `params` of {self.model_phrase} has unknown {unknown}; there are "
                f"{', '.join(self.defaults)}."
            )
        self.params: dict[str, Any] = {**self.defaults, **provider.params}
        if not (isinstance(self.params["max_text_tokens"], int) and self.params["max_text_tokens"] > 0):
            given = self.params["max_text_tokens"]
            raise ValueError(f"{self.name}: `max_text_tokens` must be a positive integer, got {given!r}.")
        self.examples = provider.examples if provider.prompt != "zero-shot" else []
        if provider.prompt != "zero-shot" and not self.examples:
            raise ValueError(
                f"{self.name}: a {provider.prompt} prompt of a local model needs `examples`; there are none."
            )
        self._lock = threading.Lock()

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """Score `texts` in a worker thread. When cancelled, the thread ends after the forward that it is in.

        Raises:
            ScoringError: If the model cannot be loaded, or cannot answer such questions.
        """
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._score, list(texts), stop)
        except asyncio.CancelledError:
            stop.set()
            raise

    @abstractmethod
    def _score(self, texts: list[str], stop: threading.Event) -> ScoreBatch:
        """Score `texts`, until `stop` is set."""

    def _check(self, stop: threading.Event) -> None:
        """End the thread of a call that was cancelled."""
        if stop.is_set():
            raise InterruptedError(f"{self.name}: cancelled")

    def _unloadable(self, error: Exception) -> ScoringError:
        told = self._absent(error) or redact(str(error))
        return ScoringError(f"{self.name}: the local model cannot be loaded. {told}")

    def _source(self) -> str | Path:
        """What `from_pretrained` takes: a folder or a Hub id.

        Raises:
            ScoringError: For a folder without a model.
        """
        source = resolve_model(self.provider.model)
        if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in CONFIGS):
            raise self._unloadable(FileNotFoundError(self._expected(f"the folder {str(source)!r} has no {CONFIGS[0]}")))
        return source

    def _expected(self, found: str) -> str:
        return (
            f"`llm` is {self.provider.model!r}: {found}. Expected: 'local/' and the folder of a model with its "
            "tokenizer, such as 'local/models/x' or 'local//home/me/x', or a Hub id. Correct the path, download the "
            "model, or give another LLM; see docs/local-llm.md."
        )

    def _absent(self, error: Exception) -> str:
        """What is given and what to do where there is no such model; else empty."""
        model = self.provider.model
        source = str(resolve_model(model)) if model.startswith("local/") else ""
        if not source or not isinstance(error, OSError) or is_here(source):
            return ""
        try:
            validate_repo_id(source)
        except HFValidationError:
            found = f"there is no folder {source!r}"
        else:
            hub = "the Hub could not be reached" if hub_out_of_reach(error) else "the Hub has given none"
            found = (
                f"there is no folder {source!r} in {str(Path.cwd())!r}; the cache has no model of this name, and {hub}"
            )
        return self._expected(found)


def split_texts(texts: Sequence[Any]) -> tuple[list[int], dict[int, str]]:
    """The rows with a text, and the reasons of those without."""
    rows, errors = [], dict[int, str]()
    for i, text in enumerate(texts):
        if isinstance(text, str) and text.strip():
            rows.append(i)
        else:
            said = "the text is empty" if isinstance(text, str) else f"not a text but {type(text).__name__}"
            errors[i] = Missing(MissingKind.NO_TEXT, said)
    return rows, errors
