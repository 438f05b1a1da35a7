"""The steps of the recipe that encode the texts, fit the encoder and its linear head, and compute out-of-fold logits.

A cross-validated linear probe is fitted on frozen embeddings. If the budget allows, contrastive training (for few rows)
or fine-tuning from this warm start are then tried, and each is kept only if it is better on held-out rows.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.encoding import inner_layers
from ...modeling_labelfusion.heads import HEADS
from ..fit_options import ContrastiveOptions
from ..folds import assign_folds, drop_last
from .contrastive_fit import FEW_ROWS, FEWEST_JUDGED, fit_contrastive
from .frozen_layers import remembered_below
from .probe import fit_probe, set_head
from .train_budget import OutOfTimeError, TrainBudget

if TYPE_CHECKING:
    from ...modeling_labelfusion.encoding import TextEncoder
    from ..fit_state import FitState

logger = logging.getLogger(__name__)

SMALL = 3000  # up to this number of rows the encoder is cross-fitted; above, one held-out part is enough


def encode(state: "FitState") -> "FitState":
    """Compute the embeddings of all texts, unless they are given."""
    if len(state.embeddings):
        return state
    return replace(state, embeddings=encode_training_texts(state.encoder, state.texts, state.options.extra_sources))


def encode_training_texts(encoder: "TextEncoder", texts: list[str], extra_sources: bool) -> torch.Tensor:
    """Set `pooling_layers`, remove extra heads, and encode the training texts to float32 `(n, pooled_size)`.

    Args:
        encoder: The model, changed in place, with its tokenizer.
        texts: n texts.
        extra_sources: Whether inner layers are pooled too.
    """
    model = encoder.model
    model.set_heads(**dict.fromkeys(HEADS, 0))
    model.set_pooling_layers(inner_layers(model, encoder.tokenizer, texts) if extra_sources else [])
    return encoder(texts)


def train_encoder(state: "FitState") -> "FitState":
    """Fit the linear probe, then train the encoder if `encoder_training` allows it and it helps on held-out rows."""
    options, wanted = state.options, state.options.encoder_training
    probe = fit_probe(state.embeddings, state.targets, state.folds, state.task)
    set_head(state.model, probe.weight, probe.bias)
    state = state.told(encoder_training="probe", encoder_log_loss={"probe": round(probe.loss, 5)})
    covered = np.ones(len(state.texts), dtype=bool)
    state = replace(state, encoder_logits=probe.out_of_fold_logits, covered=covered, frozen=True)
    if wanted == "probe":
        return state
    parts, budget = _held_out_parts(state), TrainBudget.start(state.encoder, state.texts, options)
    start = {}
    if budget.deadline is not None:
        start = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    try:
        with budget.stopping(state.encoder):
            if wanted == "contrastive" or (wanted == "auto" and len(state.texts) in FEW_ROWS):
                contrastive = ContrastiveOptions(max_length=options.finetune.max_length, seed=options.seed)
                state = fit_contrastive(state, parts, contrastive, budget)
            if state.frozen and wanted in ("auto", "full", "lora"):
                from .finetune import trained_share  # the Trainer loads `datasets` and PEFT
                from .finetune_fit import fit_finetuned

                with remembered_below(state.model, trained_share(state.model, options.finetune)):
                    state = fit_finetuned(state, parts, probe, budget)
    except OutOfTimeError:
        state.model.load_state_dict(start)
        state.model.eval()
        state = state.told(stopped=f"max_train_minutes={options.max_train_minutes:g}")
        logger.warning(
            "Training of the encoder was stopped after `max_train_minutes`=%g: the frozen encoder is used. Raise it, "
            "or lower `max_train_tokens`=%d, which limits the training in the same way on every machine: "
            "docs/troubleshooting.md#training.",
            options.max_train_minutes,
            options.max_train_tokens,
        )
    return state.told(train_tokens=round(budget.spent))


def _held_out_parts(state: "FitState") -> list[NDArray[np.bool_]]:
    """Parts of the rows that are held out in turn, taken from the rows with LLM scores if there are any.

    They are also used to evaluate the encoder, its calibration and its thresholds. If scored rows are few, other rows
    are held out too.
    """
    labels, texts, scored, seed = state.labels, state.texts, state.scored, state.options.seed
    eligible = scored if scored.any() else np.ones(len(labels), dtype=bool)
    if eligible.sum() < FEWEST_JUDGED:
        count = len(labels) // FEWEST_JUDGED
        eligible = eligible | (assign_folds(labels, count, texts, seed + 2) == 0 if count > 1 else True)
    share = eligible.mean()
    if len(labels) <= SMALL and share > 0.35:
        count = 3
    elif share > 0.35:
        count = 4  # only the first one is used
    else:
        return [eligible]
    folds = assign_folds(labels, count, texts, seed + 1)
    parts = [eligible & (folds == f) for f in range(count)]
    parts = [p for p in parts if p.any()]
    while len(labels) > SMALL and len(parts) > 1:
        parts = drop_last(parts, state.gold)
    return parts
