"""The method `decision` of a local model: Transformers' decision pipeline, batched."""

import asyncio
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..configuration import LLMProvider
from ..configuration.secrets import redact
from .base import ScoreBatch, ScoringError, Usage, missing
from .decision import DecisionMethod
from .defuse import quote
from .embedded import resolve_model
from .method import UnansweredError, UnsupportedError
from .providers import resolve
from .reasons import Missing, MissingKind

if TYPE_CHECKING:
    from .decision_model import DecisionModel

DECISION_PARAMS = {"max_text_tokens": 1024, "dtype": None}
BORDER = 8  # tokens by which a prompt may be longer than its parts


class LocalDecisionScorer:
    """Scores of a local decision model, or of a chat model by the logits of the options' labels.

    Args:
        provider: Declaration. Besides `model`, these count: `guidelines`, `examples` (with `prompt="few-shot"`), and in
            `params`: `max_text_tokens` (default 1024, less where the model's context is shorter; the head of a longer
            text is kept) and `dtype` (`"bfloat16"`, `"float32"`, ...).
        labels: K class names, in the order of the scores.
        multi_label: Whether several classes may be right at once: one yes/no question a class.
        class_descriptions: `{class name: description}`.
        batch_size: Texts in one forward.
        device: Torch device. Default: a GPU if there is one, else the CPU.
        progress: Show a progress bar.

    Raises:
        ValueError: For a declaration that does not fit.
    """

    method = "decision"
    keeps_budget = True  # it costs nothing

    def __init__(
        self,
        provider: LLMProvider,
        labels: list[str],
        multi_label: bool,
        class_descriptions: dict[str, str] | None = None,
        *,
        batch_size: int = 16,
        device: Any = None,
        progress: bool = False,
    ) -> None:
        self.provider, self.labels, self.multi_label = provider, list(labels), multi_label
        self.name = provider.name or provider.model
        self.batch_size, self.device, self.progress = batch_size, device, progress
        if unknown := sorted(set(provider.params) - set(DECISION_PARAMS)):
            raise ValueError(
                f"{self.name}: `params` of a local decision model has unknown {unknown}; there are "
                f"{', '.join(DECISION_PARAMS)}."
            )
        self.params: dict[str, Any] = {**DECISION_PARAMS, **provider.params}
        if not (isinstance(self.params["max_text_tokens"], int) and self.params["max_text_tokens"] > 0):
            given = self.params["max_text_tokens"]
            raise ValueError(f"{self.name}: `max_text_tokens` must be a positive integer, got {given!r}.")
        examples = provider.examples if provider.prompt != "zero-shot" else []
        if provider.prompt != "zero-shot" and not examples:
            raise ValueError(
                f"{self.name}: a {provider.prompt} prompt of a local model needs `examples`; there are none."
            )
        try:
            self._method = DecisionMethod(
                provider, resolve(provider), self.labels, multi_label, class_descriptions or {}, examples
            )
        except UnsupportedError as error:
            raise ValueError(f"{self.name}: {error}.") from None
        self._lock = threading.Lock()
        self._ready: tuple[DecisionModel, int] | None = None

    async def score(self, texts: Sequence[str]) -> ScoreBatch:
        """Score `texts` in a worker thread.

        Raises:
            ScoringError: If the model cannot be loaded, or cannot answer such questions.
        """
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._score, list(texts), stop)
        except asyncio.CancelledError:
            stop.set()  # the thread ends after the forward that it is in
            raise

    def _score(self, texts: list[str], stop: threading.Event) -> ScoreBatch:
        scores = missing(len(texts), len(self.labels))
        errors: dict[int, str] = {}
        rows = []
        for i, text in enumerate(texts):
            if isinstance(text, str) and text.strip():
                rows.append(i)
            else:
                said = "the text is empty" if isinstance(text, str) else f"not a text but {type(text).__name__}"
                errors[i] = Missing(MissingKind.NO_TEXT, said)
        if not rows:
            return ScoreBatch(scores, self.method, Usage(), errors)
        model, max_tokens = self._prepare()
        requests, tokens = [], 0
        for i in rows:
            if stop.is_set():
                raise InterruptedError(f"{self.name}: cancelled")
            requests.append(model.prompts(self.request(model.cut(quote(texts[i]), max_tokens))))
            tokens += sum(inputs["input_ids"].shape[1] for inputs, _ in requests[-1])
        with tqdm(total=len(rows), desc=self.name, unit="text", disable=not self.progress) as bar:

            def on_batch(done: int) -> None:
                bar.update(done)
                if stop.is_set():
                    raise InterruptedError(f"{self.name}: cancelled")

            answers = model.answers(requests, self.batch_size, on_batch)
        for i, answer in zip(rows, answers, strict=True):
            try:
                (found,) = self._method.read({"answers": answer}, 1)
            except UnansweredError as error:  # such as NaN
                found = error
            if isinstance(found, UnansweredError):
                errors[i] = found.missing
            else:
                scores[i] = found
        return ScoreBatch(scores, self.method, Usage(requests=len(rows), prompt_tokens=tokens), errors)

    def request(self, text: str) -> dict[str, Any]:
        """What Transformers' decision pipeline is asked about a text."""
        asked = self._method.systemone(self._method.body([text]))
        return {"state": asked["state"], "questions": asked["questions"]}

    def _prepare(self) -> "tuple[DecisionModel, int]":
        """Load the model, once; and the number of tokens of a text that it reads."""
        with self._lock:
            if self._ready is None:
                from .decision_model import DecisionModel

                try:
                    model = DecisionModel(resolve_model(self.provider.model), self.params["dtype"], self.device)
                    taken = max(inputs["input_ids"].shape[1] for inputs, _ in model.prompts(self.request("")))
                    if (room := model.context - taken - BORDER) > 0:
                        model.answers([model.prompts(self.request("a"))])  # what it cannot answer shows at once
                except (ImportError, OSError) as error:
                    raise ScoringError(
                        f"{self.name}: the local model cannot be loaded. {redact(str(error))}"
                    ) from error
                except ValueError as error:
                    raise ScoringError(
                        f"{self.name}: the model cannot answer as a decision model: {redact(str(error))}. "
                        "The method 'likelihood' works with every causal LM."
                    ) from error
                if room < 1:
                    raise ScoringError(
                        f"{self.name}: the questions take {taken} of the model's {model.context} tokens and leave no "
                        "room for a text. Give fewer or shorter `examples`, `guidelines` or class descriptions."
                    )
                self._ready = model, min(self.params["max_text_tokens"], room)
            return self._ready
