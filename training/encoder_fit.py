"""The encoder's side of the recipe: what it answers to rows that it has not seen, and the model set up to answer so.

A linear probe on frozen embeddings, cross-validated; then, where time allows, contrastive training where rows are few,
or fine-tuning from that warm start, each kept only if it is better on rows that it has not seen; words and labelled
neighbours beside it.
"""

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .contrastive import ContrastiveOptions
from .contrastive_fit import FEW_ROWS, FEWEST_JUDGED, fit_contrastive
from .encoder_sources import FEWEST_ROWS, Neighbours, Words, bags_of_words, combine, fit_neighbours, fit_words
from .finetune import calibrated_loss, finetune, seconds_per_row
from .folds import assign_folds
from .losses import clearly_better, log_loss
from .probe import PENALTIES, Probe, fit_head, fit_probe, set_head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..modeling_labelfusion import LabelFusionForSequenceClassification
    from .fit import FitOptions

logger = logging.getLogger(__name__)

SMALL = 3000  # rows up to which the encoder is cross-fitted; above, one held-out part is enough
SMALL_PART = 0.15  # share of the rows


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
        tuned = _finetune(model, tokenizer, texts, labels, embeddings, parts, probe, options, started, report)
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


def _finetune(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    embeddings: torch.Tensor,
    parts: list[NDArray[np.bool_]],
    probe: Probe,
    options: "FitOptions",
    started: float,
    report: dict[str, Any],
) -> tuple[torch.Tensor, NDArray[np.bool_]] | None:
    """Fine-tune if it is worth its time; returns out-of-sample logits `(n, K)` and which rows have them."""
    epochs = options.finetune.num_train_epochs or (5 if len(texts) <= 1000 else 3)
    # Training anew with a small held-out part would hardly help: the encoder that was measured is kept.
    again = len(parts) > 1 or parts[0].mean() > SMALL_PART
    if options.encoder_training == "auto":
        per_row = seconds_per_row(model, tokenizer, texts, options.finetune)
        budget = options.max_train_minutes * 60 - (time.perf_counter() - started)

        def seconds() -> float:
            trained = sum(len(texts) - int(part.sum()) for part in parts) + again * len(texts)
            return per_row * epochs * trained

        while seconds() > budget:
            if epochs > 2:
                epochs -= 1
            elif sum(int(part.sum()) for part in parts[:-1]) >= FEWEST_JUDGED:
                parts.pop()
            elif again and len(parts) == 1:
                again = False
            else:
                break
        report["finetune_estimate_minutes"] = round(seconds() / 60, 1)
        if seconds() > budget:
            logger.warning(
                "The encoder stays frozen: fine-tuning would take about %.1f minutes, more than is left of "
                "`max_train_minutes`=%g. Raise it, or use a GPU or a smaller encoder.",
                seconds() / 60,
                options.max_train_minutes,
            )
            return None
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    num_labels = model.config.num_labels
    per_epoch = torch.zeros(epochs, len(texts), num_labels)
    covered = np.zeros(len(texts), dtype=bool)
    for part in parts:
        train = ~part
        # A warm start that has seen the held-out rows would flatter: the head is fitted anew without them.
        strong = tuple(x for x in PENALTIES if x >= probe.penalty)
        rows = torch.from_numpy(train)
        head = fit_head(embeddings[rows], torch.from_numpy(labels)[rows], num_labels, model.config.multi_label, strong)
        set_head(model, *head)
        finished = finetune(
            model,
            tokenizer,
            [t for t, use in zip(texts, train, strict=True) if use],
            labels[train],
            options.finetune,
            num_epochs=epochs,
            held_out=([t for t, use in zip(texts, part, strict=True) if use], labels[part]),
        )
        assert finished is not None
        measured = finished.weights
        per_epoch[:, torch.from_numpy(part)] = finished.logits
        covered |= part
        model.load_state_dict(start)
    targets, rows = torch.from_numpy(labels), torch.from_numpy(covered)

    multi_label = model.config.multi_label
    losses = [calibrated_loss(x[rows], targets[rows], multi_label) for x in per_epoch]
    best = int(np.argmin([float(x.mean()) for x in losses]))
    reference = calibrated_loss(probe.out_of_fold_logits[rows], targets[rows], multi_label)
    report["encoder_log_loss"] |= {
        "full": round(float(losses[best].mean()), 5),
        "probe_on_same_rows": round(float(reference.mean()), 5),
    }
    # A whole standard error: the epoch was chosen on the same rows.
    if options.encoder_training == "auto" and not clearly_better(losses[best], reference, errors=1.0):
        return None
    if again:  # the schedule that was measured, stopped after the epoch that was best
        finetune(model, tokenizer, texts, labels, options.finetune, num_epochs=epochs, stop_after=best + 1)
    else:
        model.load_state_dict(measured)
    report |= {"encoder_training": "full", "num_train_epochs": best + 1}
    return per_epoch[best], covered


def _held_out_parts(
    labels: NDArray[Any], scored: NDArray[np.bool_], texts: list[str], seed: int
) -> list[NDArray[np.bool_]]:
    """The parts of the rows that are held out in turn, from the scored ones if there are any."""
    eligible = scored if scored.any() else np.ones(len(labels), dtype=bool)
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
