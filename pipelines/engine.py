"""The engine of the pipeline and `AutoFusionClassifier`: computes fused logits window by window."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration import ProviderKind
from ..modeling_labelfusion.encoding import TextEncoder, evaluating
from ..routing.out_of_distribution import novelty_of
from ..routing.policy import Policy, gated, is_cascade
from ..routing.speed import quick_answers
from ..scoring.asker import Asker
from ..scoring.session.score_table import ScoreTable
from .inference_result import Inference
from .inputs import Row, given_scores
from .window import Window

FUSE_BATCH = 1024


@dataclass
class Engine:
    """Processes windows of texts, overlapping the encoding of one window with the LLM requests of another.

    Args:
        encoder: The model with its tokenizer.
        asker: Queries the LLMs of this run.
        policy: Which texts are sent to them.
        choose: Selects the texts to query, bool `(n,)`, from encoder logits `(n, num_labels)` and `novelty` `(n,)`.
        speed: Which texts the quick head answers, see `routing.speed`.
    """

    encoder: TextEncoder
    asker: Asker
    policy: Policy
    choose: Callable[..., NDArray[np.bool_]]
    speed: str = "full"

    def __post_init__(self) -> None:
        self.model = self.encoder.model

    def run(self, rows: Iterator[Row], size: int) -> Generator[Inference, None, None]:
        """Yield results window by window. Each window starts before the previous one is finished."""
        open_windows: list[Window] = []
        failure: Exception | None = None
        start = 0
        try:
            while failure is None:
                chunk: list[Row] = []
                try:
                    chunk.extend(islice(rows, size))
                except Exception as error:  # texts read before the error are still answered
                    failure = error
                if not chunk:
                    break
                try:
                    scores = given_scores([scores for _, scores in chunk], self.model.config, start)
                except ValueError as error:
                    failure = error
                    break
                known = ScoreTable(scores, np.zeros(len(chunk), dtype=bool), np.zeros(len(chunk)))
                open_windows.append(Window([text or "" for text, _ in chunk], known))
                start += len(chunk)
                self.begin(open_windows[-1])
                if len(open_windows) == 2:
                    yield self.finish(open_windows.pop(0))
            while open_windows:
                yield self.finish(open_windows.pop(0))
        finally:  # also if the caller stops early
            self.asker.stop()
        if failure is not None:
            raise failure

    def begin(self, window: Window) -> None:
        """Select the texts to query and start the requests. Only policies that depend on the encoder wait for it."""
        config = self.model.config
        recorded = np.array([p.kind == ProviderKind.RECORDED for p in config.providers], dtype=bool)
        brought = np.any(np.all(~np.isnan(window.known.scores), axis=2), axis=1)
        blank = np.array([not text.strip() for text in window.texts])  # never queried
        subject = np.where(brought, recorded.any(), ~blank & bool(config.num_providers))
        if self.speed != "full":
            paid = np.any(np.all(~np.isnan(window.known.scores), axis=2) & ~recorded, axis=1)
            self.answer_quickly(window, ~paid & (~subject if self.policy == "always" else True))
            subject = subject & ~window.answered if is_cascade(self.policy, config) else subject
        if is_cascade(self.policy, config):
            if subject.any():
                window.embeddings = self.embed(window)
                window.steps = self.cascade(window, recorded, subject, subject & ~brought)
                window.proceed()
            return
        chosen = np.zeros(len(window.texts), dtype=bool)
        order = np.flatnonzero(subject)
        if self.policy == "always":
            chosen = subject
        elif self.policy != "never" and order.size:
            window.embeddings = self.embed(window)
            logits = self.answers(window, None)[1][order]
            novelty = novelty_of(window.embeddings, config)[order]
            chosen[order] = self.choose(logits, novelty=novelty) & ~window.answered[order]
            values, _ = gated(logits, config, novelty)
            order = order[np.argsort(-values, kind="stable")]  # so that an exhausted budget affects the easy texts
        window.known.scores[np.ix_(subject & ~chosen, recorded)] = np.nan
        window.wanted[chosen | (self.policy == "always")] = True
        window.asked = order[(chosen & ~brought)[order]]
        if window.asked.size:
            window.asking = self.asker.submit([window.texts[i] for i in window.asked])

    def cascade(
        self, window: Window, recorded: NDArray[np.bool_], subject: NDArray[np.bool_], open_: NDArray[np.bool_]
    ) -> Iterator[None]:
        """Query the LLMs one after the other. Each gate uses the answers of the previous LLMs."""
        config = self.model.config
        brought = window.known.scores.copy()
        window.known.scores[np.ix_(subject, recorded)] = np.nan
        for p in range(config.num_providers):
            assert window.embeddings is not None
            logits = self.answers(window, window.known.scores)[0]
            values, exceeds = gated(logits, config, novelty_of(window.embeddings, config), stage=p)
            wanted = subject & exceeds
            window.wanted[wanted, p] = True
            if recorded[p]:
                window.known.scores[wanted, p] = brought[wanted, p]
                continue
            rows = np.flatnonzero(wanted & open_)
            if rows.size:
                window.asked = rows[np.argsort(-values[rows], kind="stable")]
                texts, waited_s = [window.texts[i] for i in window.asked], window.waited_s[window.asked]
                window.asking = self.asker.submit(texts, p, waited_s)
                yield

    def finish(self, window: Window) -> Inference:
        """Encode (if not done yet) while requests are running, collect the answers, then fuse."""
        if window.embeddings is None:
            window.embeddings = self.embed(window)
        while window.asking is not None:
            window.take(window.asking.result())
            window.proceed()
        logits, encoder_logits = self.answers(window, window.known.scores)
        known, errors = window.known, dict[int, str](sorted(window.known.missing.items()))
        told = (known.scores, known.called, known.cost_usd, self.model.config.multi_label, errors)
        novelty = np.where(window.answered, np.float32(np.nan), novelty_of(window.embeddings, self.model.config))
        return Inference(logits, encoder_logits, *told, novelty, window.wanted, self.asker.late_cost_usd())

    def answer_quickly(self, window: Window, rows: NDArray[np.bool_]) -> None:
        """Let the quick head answer those of the texts of a boolean mask that it is sure about."""
        places = np.flatnonzero(rows)
        if self.model.config.quick_size and places.size:
            logits = self.encoder([window.texts[i] for i in places], quick=True).numpy()
            sure = quick_answers(logits, self.speed, self.model.config)
            window.quick[places[sure]] = logits[sure]

    def embed(self, window: Window) -> torch.Tensor:
        """Encode the texts without a quick answer: float32 `(n, embedding_size)`."""
        rest = np.flatnonzero(~window.answered)
        if len(rest) == len(window.texts):
            return self.encoder(window.texts)
        embeddings = torch.zeros(len(window.texts), self.model.config.embedding_size)
        embeddings[rest] = self.encoder([window.texts[i] for i in rest])
        return embeddings

    def answers(
        self, window: Window, scores: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`fuse` for a window, with its quick answers."""
        assert window.embeddings is not None
        found = self.fuse(window.embeddings, scores)
        quick = window.answered[:, None]
        logits, encoder_logits = (np.where(quick, window.quick, logits) for logits in found)
        return logits, encoder_logits

    def fuse(
        self, embeddings: torch.Tensor, scores: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute float32 `(logits, encoder_logits)` from stored embeddings and scores."""
        parts = []
        with evaluating(self.model), torch.inference_mode():
            for start in range(0, len(embeddings), FUSE_BATCH):
                rows = slice(start, start + FUSE_BATCH)
                batch = embeddings[rows].to(self.model.device, self.model.dtype)
                given = None if scores is None else torch.from_numpy(scores[rows]).to(self.model.device)
                parts.append([logits.float().cpu().numpy() for logits in self.model.fuse(batch, given)])
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
