"""Fine-tuning in the recipe, from the probe as a warm start, for the epochs that held-out rows and budget allow."""

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.encoding import encode_texts, evaluating
from ...modeling_labelfusion.hardware import fast_bf16
from ..calibration.calibration_maps import fit_temperature
from ..folds import drop_last
from ..losses import clearly_better, log_loss
from .contrastive import changing_weights
from .contrastive_fit import FEWEST_JUDGED
from .finetune import finetune, trained_share
from .low_rank import merged_weights
from .probe import PENALTIES, Probe, fit_head, set_head
from .train_budget import TrainBudget

if TYPE_CHECKING:
    from ..fit_state import FitState

logger = logging.getLogger(__name__)

SMALL_PART = 0.15  # share of the rows


def fit_finetuned(state: "FitState", parts: list[NDArray[np.bool_]], probe: Probe, budget: TrainBudget) -> "FitState":
    """Fine-tune the encoder, in place, if this is better and within the budget.

    With `encoder_training="full"` and `"lora"`, it is always fine-tuned and kept.

    Args:
        state: State with the probe of the frozen encoder.
        parts: Rows that are held out in turn, bool `(n,)` each.
        probe: The probe, which is the warm start and the reference to beat.
        budget: The work that `"auto"` allows; what is done is taken off it.

    Returns:
        The state with the out-of-fold logits of the trained encoder. If training did not help or was too much
        work, state and model are unchanged except for the report.
    """
    options, model = state.options, state.model
    schedule = _Schedule.of(state, parts, budget.lengths)
    if options.encoder_training == "auto":
        schedule.shorten(budget.tokens, state.gold)
        state = state.told(finetune_tokens=schedule.tokens)
        if schedule.tokens > budget.tokens:
            logger.warning(
                "The encoder stays frozen: fine-tuning would take %d tokens, more than is left of "
                '`max_train_tokens`=%d. Raise it, or give `encoder_training="full"`, which has no limit.',
                schedule.tokens,
                options.max_train_tokens,
            )
            return state
    logits, covered, measured = _train_without_each_part(state, schedule, probe, budget)
    rows = torch.from_numpy(covered)
    losses = [_calibrated_loss(state, of_epoch, rows) for of_epoch in logits]
    best = int(np.argmin([float(loss.mean()) for loss in losses]))
    reference = _calibrated_loss(state, probe.out_of_fold_logits, rows)
    tuned, frozen = (round(float(loss.mean()), 5) for loss in (losses[best], reference))
    way = "lora" if options.finetune.low_rank else "full"
    state = state.told(encoder_log_loss={way: tuned, "probe_on_same_rows": frozen})
    # One full standard error, because the epoch was chosen on the same rows.
    if options.encoder_training == "auto" and not clearly_better(losses[best], reference, errors=1.0):
        return state
    if schedule.again:  # same schedule as measured, stopped after the best epoch
        budget.spend((best + 1) * int(schedule.lengths.sum()))
        rows_and_options = (state.texts, state.labels, options.finetune)
        finetune(
            state.encoder, *rows_and_options, num_epochs=schedule.epochs, stop_after=best + 1, weights=state.weights
        )
    else:
        model.load_state_dict(measured)
    share = round(trained_share(model, options.finetune), 2)
    state = state.told(encoder_training=way, num_train_epochs=best + 1, trained_layers=share)
    return replace(state, encoder_logits=logits[best], covered=covered, frozen=False)


@dataclass
class _Schedule:
    """The amount of training.

    Args:
        lengths: int64 `(n,)`: tokens of each text.
        parts: Rows that are held out in turn.
        epochs: Maximum number of epochs.
        again: Whether a final training uses all rows; otherwise the evaluated encoder is kept.
    """

    lengths: NDArray[np.int64]
    parts: list[NDArray[np.bool_]]
    epochs: int
    again: bool

    @classmethod
    def of(cls, state: "FitState", parts: list[NDArray[np.bool_]], lengths: NDArray[np.int64]) -> "_Schedule":
        """The full schedule."""
        epochs = state.options.finetune.num_train_epochs or (5 if len(state.texts) <= 1000 else 3)
        # With a small held-out part, training again on all rows would hardly help.
        return cls(lengths, list(parts), epochs, len(parts) > 1 or parts[0].mean() > SMALL_PART)

    @property
    def tokens(self) -> int:
        """Tokens that go through the trained layers."""
        return self.epochs * (self.measuring + self.again * int(self.lengths.sum()))

    @property
    def measuring(self) -> int:
        """Tokens of an epoch without each part in turn."""
        return sum(int(self.lengths[~part].sum()) for part in self.parts)

    def shorten(self, budget: float, gold: NDArray[np.bool_]) -> None:
        """Drop epochs, parts and the final training until it fits into the budget or nothing is left to drop."""
        while self.tokens > budget:
            if self.epochs > 2:
                self.epochs -= 1
            elif sum(int(part.sum()) for part in self.parts[:-1]) >= FEWEST_JUDGED:
                self.parts = drop_last(self.parts, gold)
            elif self.again and len(self.parts) == 1:
                self.again = False
            else:
                break


def _calibrated_loss(state: "FitState", logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Log loss float `(m,)` of the rows of a boolean mask, at their best temperature."""
    targets = state.targets[rows]
    temperature = fit_temperature(logits[rows], targets, state.task.multi_label)
    return log_loss(logits[rows] / temperature, targets, state.task.multi_label)


def _hopeless(state: "FitState", logits: torch.Tensor, probe: Probe, rows: torch.Tensor) -> bool:
    """Whether the probe is clearly better than every epoch of fine-tuning on the rows that were held out so far."""
    reference = _calibrated_loss(state, probe.out_of_fold_logits, rows)
    losses = [_calibrated_loss(state, of_epoch, rows) for of_epoch in logits]
    return clearly_better(reference, min(losses, key=lambda loss: float(loss.mean())), errors=1.0)


def _train_without_each_part(
    state: "FitState", schedule: _Schedule, probe: Probe, budget: TrainBudget
) -> tuple[torch.Tensor, NDArray[np.bool_], dict[str, torch.Tensor]]:
    """Fine-tune without each part in turn, and reset the model.

    Returns:
        Logits float32 `(epochs, n, K)` of the held-out rows after each epoch; bool `(n,)`: which rows have them; and,
        if there is no final training, the weights after the best epoch.
    """
    model, texts, labels, options = state.model, state.texts, state.labels, state.options.finetune
    start = changing_weights(model, trained_share(model, options))
    strong = tuple(x for x in PENALTIES if x >= probe.penalty)
    logits, covered = torch.zeros(schedule.epochs, len(texts), state.task.num_labels), np.zeros(len(texts), dtype=bool)
    for part in schedule.parts:
        rows = torch.from_numpy(~part)
        # A warm start fitted on held-out rows would bias the result, so the head is fitted again without them.
        head = fit_head(state.embeddings[rows], state.targets[rows], state.task, strong)
        set_head(model, *head)
        seen = [text for text, use in zip(texts, part, strict=True) if not use]
        watch = _Watch(state, part, logits, keep_best=not schedule.again)
        weights = None if state.weights is None else state.weights[~part]
        budget.spend(schedule.epochs * int(schedule.lengths[~part].sum()))
        finetune(
            state.encoder, seen, labels[~part], options, num_epochs=schedule.epochs, on_epoch=watch, weights=weights
        )
        covered |= part
        model.load_state_dict(start, strict=False)
        if state.options.encoder_training == "auto" and _hopeless(state, logits, probe, torch.from_numpy(covered)):
            break  # the other parts are unlikely to change the result
    return logits, covered, watch.weights


class _Watch:
    """Callback after each epoch: writes the logits of the held-out rows, and stores the best weights.

    Args:
        state: The fit.
        part: bool `(n,)`: the held-out rows.
        logits: float32 `(epochs, n, K)`, written to.
        keep_best: Whether weights are stored.
    """

    def __init__(self, state: "FitState", part: NDArray[np.bool_], logits: torch.Tensor, keep_best: bool) -> None:
        self.state, self.held_out, self.logits, self.keep_best = state, torch.from_numpy(part), logits, keep_best
        self.texts = [text for text, use in zip(state.texts, part, strict=True) if use]
        self.epoch, self.least = 0, float("inf")
        self.weights: dict[str, torch.Tensor] = {}

    def __call__(self) -> None:
        model, options = self.state.model, self.state.options.finetune
        settings = {"batch_size": 64, "max_length": options.max_length, "bf16": fast_bf16(model.device)}
        embeddings = encode_texts(model, self.state.encoder.tokenizer, self.texts, **settings)
        with evaluating(model), torch.no_grad():
            self.logits[self.epoch, self.held_out] = model.fuse(embeddings.to(model.device))[1].float().cpu()
        if self.keep_best:
            loss = float(_calibrated_loss(self.state, self.logits[self.epoch], self.held_out).mean())
            if loss < self.least:
                self.least, self.weights = loss, merged_weights(model)
        self.epoch += 1
