"""The method `decision` of a local model: Transformers' decision pipeline, batched."""

import threading
from typing import TYPE_CHECKING, Any

from ...configuration import LLMProvider, Task
from ...configuration.progress_bar import progress_bar
from ...configuration.secrets import redact
from ..methods.decision import DecisionMethod
from ..methods.request_method import UnansweredError, UnsupportedError
from ..prompting.defuse import quote
from ..providers.endpoints import resolve
from ..score_batch import ScoreBatch, ScoringError, Usage, missing
from .local_scorer import LocalScorer, split_texts

if TYPE_CHECKING:
    from .decision_model import DecisionModel

DECISION_PARAMS = {"max_text_tokens": 1024, "dtype": None}
BORDER = 8  # tokens by which a prompt may be longer than its parts


class LocalDecisionScorer(LocalScorer):
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
    model_phrase = "a local decision model"
    defaults = DECISION_PARAMS

    def __init__(
        self,
        provider: LLMProvider,
        labels: list[str],
        multi_label: bool,
        class_descriptions: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(provider, labels, multi_label, **options)
        try:
            task = Task(self.labels, multi_label, class_descriptions or {})
            self._method = DecisionMethod(provider, resolve(provider), task, self.examples)
        except UnsupportedError as error:
            raise ValueError(f"{self.name}: {error}.") from None
        self._ready: tuple[DecisionModel, int] | None = None

    def _score(self, texts: list[str], stop: threading.Event) -> ScoreBatch:
        scores = missing(len(texts), len(self.labels))
        rows, errors = split_texts(texts)
        if not rows:
            return ScoreBatch(scores, self.method, Usage(), errors)
        model, max_tokens = self._prepare()
        requests, tokens = [], 0
        for i in rows:
            self._check(stop)
            requests.append(model.prompts(self.request(model.cut(quote(texts[i]), max_tokens))))
            tokens += sum(inputs["input_ids"].shape[1] for inputs, _ in requests[-1])
        with progress_bar(len(rows), self.name, disable=not self.progress) as bar:

            def on_batch(done: int) -> None:
                bar.update(done)
                self._check(stop)

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
        """The request about a text for Transformers' decision pipeline."""
        asked = self._method.systemone(self._method.body([text]))
        return {"state": asked["state"], "questions": asked["questions"]}

    def _prepare(self) -> "tuple[DecisionModel, int]":
        """Load the model, once; and the number of tokens of a text that it reads."""
        with self._lock:
            if self._ready is None:
                from .decision_model import DecisionModel

                try:
                    model = DecisionModel(self._source(), self.params["dtype"], self.device)
                    taken = max(inputs["input_ids"].shape[1] for inputs, _ in model.prompts(self.request("")))
                    if (room := model.context - taken - BORDER) > 0:
                        model.answers([model.prompts(self.request("a"))])  # what it cannot answer shows at once
                except (ImportError, OSError) as error:
                    raise self._unloadable(error) from error
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
