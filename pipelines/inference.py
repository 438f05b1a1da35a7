"""The one engine behind the pipeline and `AutoFusionClassifier`: texts in, fused logits out, window by window.

While one window of texts is encoded, the LLMs answer about another; each text is encoded once.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig, ProviderKind
from ..modeling_labelfusion.encoding import encode_texts, evaluating
from ..routing.gate import gate_values
from ..routing.novelty import novelty_of
from ..routing.policy import Policy, StreamSelector, is_cascade, resolve_policy, select, to_probabilities
from ..scoring.asker import Asker
from ..scoring.model_scorers import Scorers
from ..scoring.session.deadlines import Patience
from ..scoring.session.score_table import ScoreTable
from .blanks import Blanks
from .inputs import Row, given_scores, read_inputs
from .windows import Window

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..modeling_labelfusion import LabelFusionForSequenceClassification
    from ..scoring.budget import Budget

LIST_WINDOW = 8192  # texts of a list whose embeddings are held at once
FUSE_BATCH = 1024


@dataclass
class Inference:
    """What the model says about n texts, and what it was told.

    Args:
        logits: float32 `(n, num_labels)`: fused, calibrated.
        encoder_logits: float32 `(n, num_labels)`: of the encoder alone, calibrated.
        llm_scores: float32 `(n, num_providers, num_labels)` as used, NaN for missing.
        llm_called: bool `(n,)`: whether an LLM was asked in this run; scores that came with the text do not count.
        cost_usd: float64 `(n,)`: US dollars spent on each text. The price of a request is split evenly over its texts.
        multi_label: Whether the classes are independent.
        errors: `{row: reason}` where an answer is missing that was wanted. Holds no text.
        novelty: float32 `(n,)`: 0 for texts like those that the model was trained on, 1 for texts unlike any.
        wanted: bool `(n, num_providers)`: whether the policy wanted the provider's answer, be it asked for or brought.
        late_cost_usd: US dollars of answers that came too late, or second, up to the end of this part of the run; they
            are in no text's `cost_usd`. What comes after the end of the run is in the score store alone.
    """

    logits: NDArray[np.float32]
    encoder_logits: NDArray[np.float32]
    llm_scores: NDArray[np.float32]
    llm_called: NDArray[np.bool_]
    cost_usd: NDArray[np.float64]
    multi_label: bool = False
    errors: dict[int, str] = field(default_factory=dict)
    novelty: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    wanted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    late_cost_usd: float = 0.0

    def __post_init__(self) -> None:
        self.novelty = self.novelty if len(self.novelty) else np.zeros(len(self), dtype=np.float32)
        self.wanted = self.wanted if len(self.wanted) else np.zeros(self.llm_scores.shape[:2], dtype=bool)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32 `(n, num_labels)` of the fusion."""
        return to_probabilities(self.logits, self.multi_label)

    @property
    def encoder_probabilities(self) -> NDArray[np.float32]:
        """float32 `(n, num_labels)` of the encoder alone."""
        return to_probabilities(self.encoder_logits, self.multi_label)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """bool `(n, num_providers)`: whether the provider's scores were used."""
        missing: NDArray[np.bool_] = np.isnan(self.llm_scores)
        return np.asarray(~missing.any(axis=2))

    @classmethod
    def concatenate(cls, parts: Sequence["Inference"]) -> "Inference":
        """Put the parts of a run together (one at least)."""
        if len(parts) == 1:
            return parts[0]
        arrays = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(cls)
            if f.name not in ("multi_label", "errors", "late_cost_usd")
        }
        errors: dict[int, str] = {}
        start = 0
        for part in parts:
            errors.update({start + row: reason for row, reason in part.errors.items()})
            start += len(part)
        late = sum(part.late_cost_usd for part in parts)
        return cls(**arrays, multi_label=parts[0].multi_label, errors=errors, late_cost_usd=late)

    @property
    def total_cost_usd(self) -> float:
        """US dollars spent, `late_cost_usd` among them."""
        return float(self.cost_usd.sum()) + self.late_cost_usd


def run(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    llm_scores: Any = None,
    empty_texts: str = "error",
    **options: Any,
) -> Inference:
    """Classify a list of texts.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        texts: n texts.
        llm_scores: Scores that are there already: `(n, num_providers, num_labels)`, or n entries of `(num_providers,
            num_labels)`, None or NaN for missing. A text that brings any is not asked about.
        empty_texts: `"error"`, or `"skip"`: a text that is missing, empty or blank gets NaN.
        **options: Those of `infer`. A share of the texts is exact.

    Raises:
        ValueError: For texts, scores, a policy or a limit that cannot be right.
        ScoringError: If an LLM cannot be asked at all (no key, unknown model).
    """
    parts = infer(model, tokenizer, read_inputs(texts, llm_scores, empty_texts), **options)
    return Inference.concatenate(list(parts) or [_nothing(model.config)])


def infer(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Iterable[Row],
    *,
    scorers: Scorers | None = None,
    llm_policy: Policy = "always",
    max_cost_usd: "float | Budget | None" = None,
    target_accuracy: float | None = None,
    deadline_s: float | None = None,
    hedge_s: float | str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    bf16: bool = False,
    progress: bool = False,
) -> Generator[Inference, None, None]:
    """Classify rows, lazily, one `Inference` for each window of them.

    A list is cut into large windows, for a share of its texts into one. Of anything else, at most three windows of
    `max(4 * batch_size, 128)` rows are held. If `rows` raises, what was read before is answered first.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        rows: `(text, llm_scores or None)` each, the scores as in `run`. Without a text (None, empty or blank), nothing
            is asked, and the logits are NaN.
        scorers: One for each declared provider, or a function that makes them, called only if something is asked.
            `None`: those that the config declares.
        llm_policy: Which texts the LLMs speak on, see `policy.select`. With `"auto"` several LLMs
            are asked one after the other, in the order of the config, each through a gate of its own. The scores that
            a text brings are used in any case, except those of a provider declared `"recorded"`: they are its answers,
            and count only where the policy would have asked for them.
        max_cost_usd: US dollars that may be spent on the LLMs, or a `Budget` that can be watched. Where the policy
            looks at the encoder, the texts that asking is worth most for come first.
        target_accuracy: Instead of a policy: as few questions as reached this accuracy on held-out rows, see
            `policy.for_accuracy`.
        deadline_s: Seconds after which a text goes without its answer, which is then marked in `errors`.
        hedge_s: Seconds after which a slow question is asked once more, or `"p95"`; see `Patience`.
        batch_size: Texts in one forward of the encoder.
        max_length: Tokens kept of a text. Default, and at most: as many as tokenizer and encoder allow.
        bf16: Run the encoder in bfloat16, see `encode_texts`.
        progress: Show progress bars.

    Raises:
        ValueError: For texts, scores, a policy or a limit that cannot be right.
        ScoringError: If an LLM cannot be asked at all (no key, unknown model).
    """
    config = model.config
    policy = resolve_policy(llm_policy, target_accuracy, config)
    size = max(4 * batch_size, 128)
    patience = Patience(deadline_s, hedge_s)
    asker = Asker(config, scorers, max_cost_usd, chunk_size=size, progress=progress, patience=patience)
    blanks, is_list = Blanks(_nothing(config)), isinstance(rows, list)
    rows = blanks.leave_out(rows)
    how: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "bf16": bf16, "progress": progress}
    encode = partial(encode_texts, model, tokenizer, **how)
    if not is_list:
        engine = _Engine(model, encode, asker, policy, StreamSelector(policy, config))
        return blanks.put_back(engine.run(rows, size))
    rows = list(rows)
    given_scores([scores for _, scores in rows], config)  # find what is wrong before anything is paid for
    if policy in ("always", "never") or isinstance(policy, float) or max_cost_usd is not None:
        size = max(len(rows) if isinstance(policy, float) else LIST_WINDOW, size)
    choose = partial(select, policy=policy, config=config)
    return blanks.put_back(_Engine(model, encode, asker, policy, choose).run(iter(rows), size))


@dataclass
class _Engine:
    model: "LabelFusionForSequenceClassification"
    encode: Callable[[list[str]], torch.Tensor]
    asker: Asker
    policy: Policy
    choose: Callable[..., NDArray[np.bool_]]  # from encoder logits and `novelty` to the texts to ask about

    def run(self, rows: Iterator[Row], size: int) -> Generator[Inference, None, None]:
        """Start each window before the one in front of it is finished."""
        open_windows: list[Window] = []
        failure: Exception | None = None
        start = 0
        try:
            while failure is None:
                chunk: list[Row] = []
                try:
                    chunk.extend(islice(rows, size))
                except Exception as error:  # what was read before it is answered all the same
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
        finally:  # also when the caller stops reading
            self.asker.stop()
        if failure is not None:
            raise failure

    def begin(self, window: Window) -> None:
        """Choose the texts to ask about, and ask. Only a policy that looks at the encoder waits for it."""
        config = self.model.config
        recorded = np.array([p.kind == ProviderKind.RECORDED for p in config.providers], dtype=bool)
        brought = np.any(np.all(~np.isnan(window.known.scores), axis=2), axis=1)
        blank = np.array([not text.strip() for text in window.texts])  # nothing to ask about
        subject = np.where(brought, recorded.any(), ~blank & bool(config.num_providers))
        if is_cascade(self.policy, config):
            if subject.any():
                window.embeddings = self.encode(window.texts)
                window.steps = self.cascade(window, recorded, subject, subject & ~brought)
                window.proceed()
            return
        chosen = np.zeros(len(window.texts), dtype=bool)
        order = np.flatnonzero(subject)
        if self.policy == "always":
            chosen = subject
        elif self.policy != "never" and order.size:
            window.embeddings = self.encode(window.texts)
            logits = self.fuse(window.embeddings, None)[1][order]
            novelty = novelty_of(window.embeddings, config)[order]
            chosen[order] = self.choose(logits, novelty=novelty)
            probs = to_probabilities(logits, config.multi_label)
            values, _ = gate_values(probs, config.calibration, config.multi_label, novelty=novelty)
            order = order[np.argsort(-values, kind="stable")]  # if money runs out, then on the easy ones
        window.known.scores[np.ix_(subject & ~chosen, recorded)] = np.nan
        window.wanted[chosen | (self.policy == "always")] = True
        window.asked = order[(chosen & ~brought)[order]]
        if window.asked.size:
            window.asking = self.asker.submit([window.texts[i] for i in window.asked])

    def cascade(
        self, window: Window, recorded: NDArray[np.bool_], subject: NDArray[np.bool_], open_: NDArray[np.bool_]
    ) -> Iterator[None]:
        """Ask one LLM after the other, each about what its gate lets through after those before it were heard."""
        config = self.model.config
        brought = window.known.scores.copy()
        window.known.scores[np.ix_(subject, recorded)] = np.nan
        for p in range(config.num_providers):
            assert window.embeddings is not None
            probs = to_probabilities(self.fuse(window.embeddings, window.known.scores)[0], config.multi_label)
            novelty = novelty_of(window.embeddings, config)
            values, threshold = gate_values(probs, config.calibration, config.multi_label, p, novelty)
            wanted = subject & (values > (0.0 if threshold is None else threshold))
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
        """Encode, if that is not done yet, while the answers come in; then fuse."""
        embeddings = self.encode(window.texts) if window.embeddings is None else window.embeddings
        while window.asking is not None:
            window.take(window.asking.result())
            window.proceed()
        logits, encoder_logits = self.fuse(embeddings, window.known.scores)
        known, errors = window.known, dict[int, str](sorted(window.known.missing.items()))
        told = (known.scores, known.called, known.cost_usd, self.model.config.multi_label, errors)
        novelty, late = novelty_of(embeddings, self.model.config), self.asker.late_cost_usd()
        return Inference(logits, encoder_logits, *told, novelty, window.wanted, late)

    def fuse(
        self, embeddings: torch.Tensor, scores: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """float32 `(logits, encoder_logits)`, from embeddings that are kept and scores."""
        parts = []
        with evaluating(self.model), torch.inference_mode():
            for start in range(0, len(embeddings), FUSE_BATCH):
                rows = slice(start, start + FUSE_BATCH)
                batch = embeddings[rows].to(self.model.device, self.model.dtype)
                given = None if scores is None else torch.from_numpy(scores[rows]).to(self.model.device)
                parts.append([logits.float().cpu().numpy() for logits in self.model.fuse(batch, given)])
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _nothing(config: LabelFusionConfig) -> Inference:
    empty = np.zeros((0, config.num_labels), dtype=np.float32)
    scores = np.zeros((0, config.num_providers, config.num_labels), dtype=np.float32)
    return Inference(empty, empty, scores, np.zeros(0, dtype=bool), np.zeros(0), config.multi_label)
