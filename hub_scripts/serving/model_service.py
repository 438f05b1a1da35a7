"""The model behind a server: answers requests of several threads, within the budget of the day."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...configuration.secrets import redact
from ...pipelines.formatting import format_answers
from ...pipelines.inference import Inference, infer
from ...pipelines.inputs import Row
from ...pipelines.shared_encoder import EncoderQueue, SharedEncoder
from ...routing.policy import StreamSelector
from ...routing.run_options import Routing
from ...scoring.reasons import Missing, MissingKind
from ...scoring.score_batch import ScoringError
from .day_budget import Days, RequestBudget
from .request_bodies import RequestError

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

logger = logging.getLogger("labelfusion.serve")

FORMAT = ("top_k", "return_sources")
ROUTING = ("llm_policy", "target_accuracy", "deadline_s", "max_risk", "speed")
BUDGET_REACHED, LLM_UNAVAILABLE = "budget-reached", "llm-unavailable"


@dataclass
class Answer:
    """The answer to a request.

    Args:
        results: One for each text, as of the pipeline.
        inference: What the sources said.
        notice: Why the encoder answered alone although the policy wanted an LLM, or None.
    """

    results: list[Any]
    inference: Inference
    notice: str | None


@dataclass
class ModelService:
    """A classifier that threads share.

    Args:
        clf: The classifier.
        days: Its budgets.
        defaults: Options of `Routing.parse` for requests that do not set them.
        on_round: Called with the number of texts that were encoded together.
    """

    clf: "AutoFusionClassifier"
    days: Days
    defaults: dict[str, Any] = field(default_factory=dict)
    on_round: Callable[[int], None] = lambda texts: None

    def __post_init__(self) -> None:
        self.config = self.clf.model_.config
        Routing.parse(self.config, **self.defaults)  # raises for what this model cannot do
        self._queue = EncoderQueue(self.on_round)
        self._options = self.clf.encoding_options()
        # Examples for prompts are embedded there, too: a tokenizer serves one thread at a time.
        self.clf.__dict__["_embed"] = self._embed
        self._mutex = threading.Lock()
        self._shares: dict[float, StreamSelector] = {}

    def prepare(self) -> None:
        """Load what the first request would wait for."""
        self._encoder(None)(["text"])
        try:
            self._scorers()
        except ScoringError as error:  # tried again by each request
            logger.warning("No LLM is queried: %s", redact(str(error)))

    def classify(self, rows: list[Row], options: dict[str, Any] | None = None) -> Answer:
        """Classify the texts of one request.

        Args:
            rows: `(text, LLM scores or None)`.
            options: Of `request_bodies.Parameters`.

        Raises:
            ValueError: For options that do not fit the model.
            RequestError: If an LLM is wanted by the request itself, and none can be queried.
        """
        options = options or {}
        try:
            return self._classify(rows, options)
        except ScoringError as error:
            if "llm_policy" in options or "target_accuracy" in options:
                logger.warning("No LLM can be queried: %s", redact(str(error)))
                told = "No LLM can be queried at present. Without `parameters.llm_policy` the encoder answers alone."
                raise RequestError("parameters.llm_policy", told, 503) from None
            logger.warning("The encoder answers alone: %s", redact(str(error)))
            answer = self._classify(rows, {**options, "llm_policy": "never"})
            answer.notice = LLM_UNAVAILABLE
            return answer

    def _classify(self, rows: list[Row], options: dict[str, Any]) -> Answer:
        own = {name: value for name, value in options.items() if name in ROUTING}
        if "target_accuracy" in own or own.get("llm_policy") is not None:
            defaults = {k: v for k, v in self.defaults.items() if k not in ("llm_policy", "target_accuracy")}
        else:
            defaults = self.defaults
        if "max_risk" in own:  # guaranteed for answers of the whole model
            defaults = {k: v for k, v in defaults.items() if k != "speed"}
        day, most = self.days.today(), options.get("max_cost_usd")
        with nullcontext(day) if most is None else RequestBudget(most, day) as budget:
            routing = Routing.parse(self.config, max_cost_usd=budget, **{**defaults, **own})
            encoder = self._encoder(options.get("max_length"))
            parts = list(infer(encoder, rows, routing, self._scorers, self._selector(routing, own)))
        inference = Inference.concatenate(parts)
        style = {name: options[name] for name in FORMAT if name in options}
        results = list(format_answers(inference, self.config, control=routing.control, **style))
        kinds = {Missing.of(reason).kind for reason in inference.errors.values()}
        return Answer(results, inference, BUDGET_REACHED if MissingKind.BUDGET in kinds else None)

    def _selector(self, routing: Routing, own: dict[str, Any]) -> Callable[..., NDArray[np.bool_]] | None:
        """A share that the server sets is one of all requests' texts; one that a request sets is of its own texts."""
        if "llm_policy" in own or not isinstance(routing.policy, float):
            return None
        share = routing.policy

        def choose(logits: NDArray[np.floating], novelty: NDArray[np.floating] | None = None) -> NDArray[np.bool_]:
            with self._mutex:
                selector = self._shares.setdefault(share, StreamSelector(share, self.config))
                return selector(logits, novelty)

        return choose

    def _encoder(self, max_length: int | None) -> SharedEncoder:
        options = self._options if max_length is None else {**self._options, "max_length": max_length}
        return SharedEncoder(self.clf.model_, self.clf.tokenizer_, **options, queue=self._queue)

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        return self._encoder(None)(texts)[:, : self.config.hidden_size].numpy()

    def _scorers(self) -> list[Any]:
        with self._mutex:
            return self.clf._scorers()


class EachOnce(logging.Filter):
    """Lets each warning through once a minute: with a spent budget, every request would repeat it."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        if record.levelno < logging.WARNING:
            return True
        message, now = record.getMessage(), time.monotonic()
        self._last = {told: at for told, at in self._last.items() if now - at < 60}
        return self._last.setdefault(message, now) == now
