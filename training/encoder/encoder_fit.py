"""The encoder's side of the recipe: what it answers to rows that it has not seen, and the model set up to answer so.

A linear probe on frozen embeddings, cross-validated; then, where time allows, contrastive training where rows are few,
or fine-tuning from that warm start, each kept only if it is better on rows that it has not seen; words and labelled
neighbours beside it.
"""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..fit_options import ContrastiveOptions
from ..folds import assign_folds
from ..losses import log_loss
from .contrastive_fit import FEW_ROWS, FEWEST_JUDGED, fit_contrastive
from .encoder_sources import FEWEST_ROWS, Neighbours, Words, bags_of_words, combine, fit_neighbours, fit_words
from .finetune import trained_share
from .finetune_fit import fit_finetuned
from .frozen_layers import remembered_below
from .probe import fit_probe, set_head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_options import FitOptions

SMALL = 3000  # rows up to which the encoder is cross-fitted; above, one held-out part is enough


def fit_encoder(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    scored: NDArray[np.bool_],
    folds: NDArray[np.int64],
    embeddings: torch.Tensor,
    options: "FitOptions",
    report: dict[str, Any],
) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Fit encoder and heads of `model`, in place.

    Args:
        model: A model with a pretrained encoder.
        tokenizer: Its tokenizer.
        texts: n labelled texts.
        labels: int64 `(n,)` or float32 `(n, K)`.
        scored: bool `(n,)`: rows with LLM scores, whose out-of-sample outputs the fusion needs.
        folds: int64 `(n,)` from `assign_folds`.
        embeddings: float32 `(n, pooled_size)` of `encode_texts`.
        options: How.
        report: Receives `encoder_training`, `encoder_log_loss` and what else was measured.

    Returns:
        Out-of-sample logits float32 `(n, K)`, and bool `(n,)`: which rows have them.
    """
    num_labels, multi_label = model.config.num_labels, model.config.multi_label
    targets = torch.from_numpy(labels)
    probe = fit_probe(embeddings, targets, folds, num_labels, multi_label)
    set_head(model, probe.weight, probe.bias)
    encoder_logits = probe.out_of_fold_logits
    report |= {"encoder_training": "probe", "encoder_log_loss": {"probe": round(probe.loss, 5)}}
    covered = np.ones(len(texts), dtype=bool)
    parts = _held_out_parts(labels, scored, texts, options.seed)
    started = time.perf_counter()
    tuned = None
    forced = options.encoder_training == "contrastive"
    if forced or (options.encoder_training == "auto" and len(texts) in FEW_ROWS):
        tuned = fit_contrastive(
            model,
            tokenizer,
            texts,
            labels,
            embeddings,
            parts,
            ContrastiveOptions(max_length=options.finetune.max_length, seed=options.seed),
            report,
            max_minutes=options.max_train_minutes,
            forced=forced,
            progress=options.progress,
        )
    if tuned is None and options.encoder_training in ("auto", "full"):
        with remembered_below(model, trained_share(model, options.finetune)):
            tuned = fit_finetuned(model, tokenizer, texts, labels, embeddings, parts, probe, options, report, started)
    if tuned is not None:
        encoder_logits, covered = tuned
    if options.extra_sources and len(texts) >= FEWEST_ROWS:
        others: list[Words | Neighbours] = []
        if report["encoder_training"] == "probe":
            others.append(
                fit_neighbours(embeddings[:, : model.config.hidden_size], targets, folds, num_labels, multi_label)
            )
        bags, lexical_size = bags_of_words(model, tokenizer, texts, options.finetune.max_length)
        others.append(fit_words(bags, targets, folds, lexical_size, num_labels, multi_label))
        report["encoder_log_loss"] |= {type(x).__name__.lower(): round(x.loss, 5) for x in others}
        encoder_logits, weights = combine(model, encoder_logits, others, targets, torch.from_numpy(covered))
        together = log_loss(encoder_logits[covered], targets[covered], multi_label).mean()
        report["encoder_log_loss"]["together"] = round(float(together), 5)
        report["encoder_weights"] = weights
    return encoder_logits, covered


def _held_out_parts(
    labels: NDArray[Any], scored: NDArray[np.bool_], texts: list[str], seed: int
) -> list[NDArray[np.bool_]]:
    """The parts of the rows that are held out in turn, from the scored ones if there are any.

    They also judge the encoder, its calibration and its thresholds: where they are few, others are held out with them.
    """
    eligible = scored if scored.any() else np.ones(len(labels), dtype=bool)
    if eligible.sum() < FEWEST_JUDGED:
        count = len(labels) // FEWEST_JUDGED
        eligible = eligible | (assign_folds(labels, count, texts, seed + 2) == 0 if count > 1 else True)
    share = eligible.mean()
    if len(labels) <= SMALL and share > 0.35:
        count = 3
    elif share > 0.35:
        count = 4  # of which the first alone is used
    else:
        return [eligible]
    folds = assign_folds(labels, count, texts, seed + 1)
    parts = [eligible & (folds == f) for f in range(count)]
    parts = [p for p in parts if p.any()]
    return parts if len(labels) <= SMALL else parts[:1]
