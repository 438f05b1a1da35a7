"""Contrastive training in the recipe, within the budget and evaluated on held-out rows."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ...configuration.progress_bar import progress_bar
from ...modeling_labelfusion.encoding import encode_texts
from ..fit_options import ContrastiveOptions
from ..folds import drop_last
from ..losses import clearly_better, log_loss
from .contrastive import changing_weights, contrast
from .frozen_layers import remembered_below
from .probe import PENALTIES, cross_validate, fit_head, set_head
from .train_budget import ENCODING, TrainBudget

if TYPE_CHECKING:
    from ..fit_state import FitState

logger = logging.getLogger(__name__)

FEW_ROWS = range(30, 1001)  # where `"auto"` tries it
FEWEST_STEPS = 20
FEWEST_JUDGED = 60  # minimum of held-out rows when parts are dropped: on 10 rows, a poor fit seemed good

Parts: TypeAlias = list[NDArray[np.bool_]]  # rows that are held out in turn, bool `(n,)` each
# Trains on rows, bool `(n,)`, and returns the embeddings of all texts, float32 `(n, embedding_size)`.
Train: TypeAlias = Callable[[NDArray[np.bool_]], torch.Tensor]


def fit_contrastive(state: "FitState", parts: Parts, options: ContrastiveOptions, budget: TrainBudget) -> "FitState":
    """Train the encoder contrastively, in place, and fit a probe on its new embeddings as head, if this is better.

    For each part, an encoder is trained without it, and a probe on its embeddings predicts the part, because embeddings
    of training texts are over-optimistic. With `encoder_training="contrastive"`, at least `FEWEST_STEPS` steps are
    trained, and the result is always kept.

    Args:
        state: State with the probe of the frozen encoder.
        parts: Rows that are held out in turn; fewer parts are used if the budget is short.
        options: Training options.
        budget: The work that is allowed; what is done is taken off it.

    Returns:
        The state with the out-of-fold logits of the trained encoder. If training did not help or was too much
        work, state and model are unchanged except for the report.
    """
    model, forced = state.model, state.options.encoder_training == "contrastive"
    start = changing_weights(model, options.trained_layers)
    plan = _plan(parts, options, budget, state.gold)
    state = state.told(contrastive_tokens=round(plan.tokens))
    if not plan.affordable and not forced:
        return state
    if plan.tokens > budget.tokens:
        logger.warning(
            "Contrastive training takes about %d tokens, more than `max_train_tokens`=%d, because it needs %d steps at "
            "least: docs/troubleshooting.md#training.",
            plan.tokens,
            state.options.max_train_tokens,
            plan.steps,
        )
    total = plan.steps * (len(plan.parts) + 1)
    with progress_bar(total, "Contrastive training", "step", disable=not state.options.progress) as bar:

        def train(rows: NDArray[np.bool_]) -> torch.Tensor:
            used = [text for text, use in zip(state.texts, rows, strict=True) if use]
            labels, weights = state.labels[rows], None if state.gold.all() else _shares(used)
            budget.spend(plan.tokens / (len(plan.parts) + 1))
            with remembered_below(model, options.trained_layers):
                told = (state.encoder, used, labels, options)
                contrast(*told, steps=plan.steps, weights=weights, on_step=lambda _: bar.update())
            how = {"batch_size": options.batch_size, "max_length": options.max_length}
            return encode_texts(model, state.encoder.tokenizer, state.texts, **how)

        found = _cross_train(state, plan.parts, train, start)
        state = state.told(
            encoder_log_loss={
                "contrastive": round(float(found.loss.mean()), 5),
                "probe_on_same_parts": round(float(found.reference.mean()), 5),
            }
        )
        if not forced and not clearly_better(found.loss, found.reference):
            return state
        embeddings = train(np.ones(len(state.texts), dtype=bool))
        penalties = PENALTIES[: found.penalty + 1]
        set_head(model, *fit_head(embeddings, state.targets, state.task, penalties))
    state = state.told(encoder_training="contrastive", contrastive_steps=plan.steps)
    return replace(state, encoder_logits=found.logits, covered=found.covered, frozen=False)


def _shares(texts: list[str]) -> NDArray[np.float32]:
    """float32 `(n,)`: weights of rows that add up to 1 for each text. LLMs that are split give a text several rows."""
    _, text_of, counts = np.unique(np.asarray(texts, dtype=object), return_inverse=True, return_counts=True)
    return (1 / counts[text_of]).astype(np.float32)


@dataclass
class _Plan:
    """The training that fits into the budget: parts, steps per part and for all rows, and the tokens needed."""

    parts: Parts
    steps: int
    tokens: float
    affordable: bool


def _plan(parts: Parts, options: ContrastiveOptions, budget: TrainBudget, gold: NDArray[np.bool_]) -> _Plan:
    per_step = options.batch_size * float(budget.lengths.mean())
    encoding = ENCODING * float(budget.lengths.sum())
    most = options.steps(len(budget.lengths))
    least = min(FEWEST_STEPS, most)
    while True:
        affordable = int((budget.tokens / (len(parts) + 1) - encoding) / per_step)
        if affordable >= least or sum(int(part.sum()) for part in parts[:-1]) < FEWEST_JUDGED:
            break
        parts = drop_last(parts, gold)
    steps = max(least, min(most, affordable))
    return _Plan(parts, steps, (len(parts) + 1) * (steps * per_step + encoding), affordable >= least)


@dataclass
class _CrossTrained:
    """Out-of-fold logits `(n, K)` of the rows `covered`, the index of their penalty, and losses of the same rows.

    `reference` are the losses of the frozen encoder's probe on the same parts, fitted on the same rows.
    """

    logits: torch.Tensor
    covered: NDArray[np.bool_]
    penalty: int
    loss: torch.Tensor
    reference: torch.Tensor


def _cross_train(state: "FitState", parts: Parts, train: Train, start: dict[str, torch.Tensor]) -> _CrossTrained:
    """Train without each part in turn, and reset the model to `start`."""
    targets, multi_label = state.targets, state.task.multi_label
    folds = np.full(len(state.texts), -1, dtype=np.int64)
    for i, part in enumerate(parts):
        folds[part] = i
    by_part: dict[int, torch.Tensor] = {}
    for i, part in enumerate(parts):
        by_part[i] = train(~part)
        state.model.load_state_dict(start, strict=False)
        done = np.where(folds <= i, folds, -1)
        covered = done >= 0
        trained = cross_validate(by_part, targets, done, state.task)
        frozen = cross_validate(state.embeddings, targets, done, state.task)
        loss, reference = (log_loss(x.logits[covered], targets[covered], multi_label) for x in (trained, frozen))
        found = _CrossTrained(trained.logits, covered, trained.best, loss, reference)
        if state.options.encoder_training == "auto" and clearly_better(reference, loss, errors=1.0):
            break  # the other parts are unlikely to change the result
    return found
