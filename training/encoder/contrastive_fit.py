"""Contrastive training within the recipe: as much as the time allows, and judged on rows that it has not seen."""

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...modeling_labelfusion.encoding import encode_texts
from ..fit_options import ContrastiveOptions
from ..losses import clearly_better, log_loss
from .contrastive import contrast
from .probe import PENALTIES, cross_validate, fit_head, set_head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...modeling_labelfusion import LabelFusionForSequenceClassification

logger = logging.getLogger(__name__)

FEW_ROWS = range(30, 1001)  # where `"auto"` tries it
FEWEST_STEPS = 20
FEWEST_JUDGED = 60  # rows below which no part is saved: on 10 held-out rows a poor fit passed for a good one


def fit_contrastive(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    embeddings: torch.Tensor,
    parts: list[NDArray[np.bool_]],
    options: ContrastiveOptions,
    report: dict[str, Any],
    *,
    max_minutes: float,
    forced: bool = False,
    progress: bool = False,
) -> tuple[torch.Tensor, NDArray[np.bool_]] | None:
    """Train the encoder contrastively, in place, with a probe on its new embeddings as head, if that is better.

    For each part an encoder is trained without it, and a probe on that encoder's embeddings answers the part: an
    encoder's embeddings of texts that it was trained on are flattering.

    Args:
        model: The model. It is left as it was where `None` is returned.
        tokenizer: Its tokenizer.
        texts: n texts.
        labels: int64 `(n,)` or float32 `(n, K)`.
        embeddings: float32 `(n, hidden)` of the encoder as it is.
        parts: Rows that are held out in turn, bool `(n,)` each.
        options: How.
        report: Receives estimate, losses and the choice.
        max_minutes: Bound of the whole; there are fewer steps and parts, or none.
        forced: Train at least `FEWEST_STEPS` steps, and keep the result whether or not it is better.
        progress: Show a progress bar.

    Returns:
        Out-of-sample logits float32 `(n, K)`, and bool `(n,)`: which rows have them. `None`: not worth it, or no time.
    """
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step_seconds = _seconds_per_step(model, tokenizer, texts, labels, options)
    model.load_state_dict(start)
    # Encoding a text is the forward half of a step, or less.
    encode_seconds = 0.5 * step_seconds * len(texts) / options.batch_size
    budget = 60 * max_minutes
    steps, least = options.max_steps, min(FEWEST_STEPS, options.max_steps)
    while True:
        affordable = int((budget / (len(parts) + 1) - encode_seconds) / step_seconds)
        if affordable >= least or sum(int(part.sum()) for part in parts[:-1]) < FEWEST_JUDGED:
            break
        parts = parts[:-1]
    if affordable < least and not forced:
        needed = (len(parts) + 1) * (least * step_seconds + encode_seconds) / 60
        report["contrastive_estimate_minutes"] = round(needed, 2)
        return None
    steps = max(least, min(steps, affordable))
    estimate = (len(parts) + 1) * (steps * step_seconds + encode_seconds) / 60
    report["contrastive_estimate_minutes"] = round(estimate, 2)
    if estimate > max_minutes:
        logger.warning(
            "Contrastive training takes about %.1f minutes, more than `max_train_minutes`=%g: %d steps are the least.",
            estimate,
            max_minutes,
            steps,
        )
    num_labels, multi_label = model.config.num_labels, model.config.multi_label
    targets = torch.from_numpy(labels)
    folds = np.full(len(texts), -1, dtype=np.int64)
    for i, part in enumerate(parts):
        folds[part] = i
    with tqdm(total=steps * (len(parts) + 1), desc="Contrastive training", unit="step", disable=not progress) as bar:

        def step(_: int) -> None:
            bar.update()

        def trained(rows: NDArray[np.bool_]) -> torch.Tensor:
            used = [text for text, use in zip(texts, rows, strict=True) if use]
            contrast(model, tokenizer, used, labels[rows], options, steps=steps, on_step=step)
            return encode_texts(model, tokenizer, texts, batch_size=options.batch_size, max_length=options.max_length)

        by_part = {}
        for i, part in enumerate(parts):
            by_part[i] = trained(~part)
            model.load_state_dict(start)
            done = np.where(folds <= i, folds, -1)
            covered = done >= 0
            logits, best, _ = cross_validate(by_part, targets, done, num_labels, multi_label)
            # The frozen encoder's probe on the same parts: both have then learnt from the same rows.
            frozen, _, _ = cross_validate(embeddings, targets, done, num_labels, multi_label)
            loss, reference = (log_loss(x[covered], targets[covered], multi_label) for x in (logits, frozen))
            if not forced and clearly_better(reference, loss, errors=1.0):
                break  # the other parts would hardly change it
        report["encoder_log_loss"] |= {
            "contrastive": round(float(loss.mean()), 5),
            "probe_on_same_parts": round(float(reference.mean()), 5),
        }
        if not forced and not clearly_better(loss, reference):
            return None
        weight, bias = fit_head(
            trained(np.ones(len(texts), dtype=bool)), targets, num_labels, multi_label, PENALTIES[: best + 1]
        )
    set_head(model, weight, bias)
    report |= {"encoder_training": "contrastive", "contrastive_steps": steps}
    return logits, covered


def _seconds_per_step(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    options: ContrastiveOptions,
) -> float:
    """Measured on a few steps, which change the weights."""
    ends = [time.perf_counter()]
    contrast(model, tokenizer, texts, labels, options, steps=4, on_step=lambda _: ends.append(time.perf_counter()))
    return float(np.median(np.diff(ends)))
