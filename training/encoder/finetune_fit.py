"""Fine-tuning within the recipe: as many epochs as held-out rows and time allow, from the probe as a warm start."""

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.encoding import encode_texts, evaluating
from ...modeling_labelfusion.hardware import fast_bf16
from ..calibration.calibration_maps import fit_temperature
from ..losses import clearly_better, log_loss
from .contrastive_fit import FEWEST_JUDGED
from .finetune import finetune, seconds_per_row, trained_share
from .probe import PENALTIES, Probe, fit_head, set_head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_options import FitOptions

logger = logging.getLogger(__name__)

SMALL_PART = 0.15  # share of the rows


def fit_finetuned(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    embeddings: torch.Tensor,
    parts: list[NDArray[np.bool_]],
    probe: Probe,
    options: "FitOptions",
    report: dict[str, Any],
    started: float,
) -> tuple[torch.Tensor, NDArray[np.bool_]] | None:
    """Fine-tune the encoder, in place, if that is better and there is time for it.

    Args:
        model: The model. It is left as it was where `None` is returned.
        tokenizer: Its tokenizer.
        texts: n texts.
        labels: int64 `(n,)` or float32 `(n, K)`.
        embeddings: float32 `(n, pooled_size)` of the encoder as it is.
        parts: Rows that are held out in turn, bool `(n,)` each.
        probe: The frozen encoder's, to start from and to be better than.
        options: How. With `encoder_training="full"` neither time nor result matters.
        report: Receives estimate, losses and the choice.
        started: `time.perf_counter()` from which `max_train_minutes` counts.

    Returns:
        Out-of-sample logits float32 `(n, K)`, and bool `(n,)`: which rows have them. `None`: not worth it, or no time.
    """
    epochs = options.finetune.num_train_epochs or (5 if len(texts) <= 1000 else 3)
    # Training anew with a small held-out part would hardly help: the encoder that was measured is kept.
    again = len(parts) > 1 or parts[0].mean() > SMALL_PART
    if options.encoder_training == "auto":
        first, later = seconds_per_row(model, tokenizer, texts, options.finetune)
        budget = options.max_train_minutes * 60 - (time.perf_counter() - started)

        def seconds() -> float:
            trained = sum(len(texts) - int(part.sum()) for part in parts) + again * len(texts)
            return later * epochs * trained + (first - later) * len(texts)

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
    num_labels, multi_label = model.config.num_labels, model.config.multi_label
    targets = torch.from_numpy(labels)
    per_epoch = torch.zeros(epochs, len(texts), num_labels)
    covered = np.zeros(len(texts), dtype=bool)
    strong = tuple(x for x in PENALTIES if x >= probe.penalty)

    def calibrated_loss(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        temperature = fit_temperature(logits[rows], targets[rows], multi_label)
        return log_loss(logits[rows] / temperature, targets[rows], multi_label)

    least, measured = float("inf"), start  # of the last part: weights after its best epoch
    for part in parts:
        held_out, rows = torch.from_numpy(part), torch.from_numpy(~part)
        unseen = [t for t, use in zip(texts, part, strict=True) if use]
        epoch, least = 0, float("inf")

        def watch(held_out: torch.Tensor = held_out, unseen: list[str] = unseen) -> None:
            nonlocal epoch, least, measured
            settings: dict[str, Any] = {"max_length": options.finetune.max_length, "bf16": fast_bf16(model.device)}
            found = encode_texts(model, tokenizer, unseen, batch_size=64, **settings)
            with evaluating(model), torch.no_grad():
                per_epoch[epoch, held_out] = model.fuse(found.to(model.device))[1].float().cpu()
            loss = float(calibrated_loss(per_epoch[epoch], held_out).mean())
            if not again and loss < least:
                least, measured = loss, {name: tensor.clone() for name, tensor in model.state_dict().items()}
            epoch += 1

        # A warm start that has seen the held-out rows would flatter: the head is fitted anew without them.
        set_head(model, *fit_head(embeddings[rows], targets[rows], num_labels, multi_label, strong))
        seen = [t for t, use in zip(texts, part, strict=True) if not use]
        finetune(model, tokenizer, seen, labels[~part], options.finetune, num_epochs=epochs, on_epoch=watch)
        covered |= part
        model.load_state_dict(start)
    rows = torch.from_numpy(covered)
    losses = [calibrated_loss(logits, rows) for logits in per_epoch]
    best = int(np.argmin([float(loss.mean()) for loss in losses]))
    reference = calibrated_loss(probe.out_of_fold_logits, rows)
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
    share = round(trained_share(model, options.finetune), 2)
    report |= {"encoder_training": "full", "num_train_epochs": best + 1, "trained_layers": share}
    return per_epoch[best], covered
