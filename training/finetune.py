"""Fine-tuning the encoder, or its upper layers: number of epochs from held-out rows, out-of-sample outputs kept."""

import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainingArguments

from .calibration import fit_temperature
from .contrastive import fast_bf16, upper_layers
from .encoding import encode_texts, evaluating, tokenize
from .encoding import max_length as length_limit
from .losses import log_loss
from .trainer import LabelFusionTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..modeling_labelfusion import LabelFusionForSequenceClassification

logger = logging.getLogger(__name__)


@dataclass
class FinetuneOptions:
    """How the encoder is fine-tuned.

    Args:
        num_train_epochs: Most epochs; held-out rows say after which to stop. Default: 3, or 5 for up to 1,000 rows.
        learning_rate: Peak learning rate of the encoder. Default: 2e-5, or 1e-4 for encoders below 50M parameters.
        batch_size: Rows a step.
        trained_layers: Share of the encoder's layers, from the top, that is trained. Default: all of them, but half on
            a CPU: two thirds of the time for hardly less.
        max_length: Tokens kept of a text. Default: as many as tokenizer and encoder allow.
        seed: Seed of the shuffling and dropout.
        progress: Show progress bars.
        trainer_args: More arguments for `TrainingArguments`, such as `bf16` or `report_to`.
    """

    num_train_epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = 16
    trained_layers: float | None = None
    max_length: int | None = None
    seed: int = 0
    progress: bool = False
    trainer_args: dict[str, Any] | None = None


@dataclass
class Epochs:
    """What held-out rows say after every epoch.

    Args:
        logits: float32 `(epochs, n, K)`.
        weights: The model's, after the epoch whose logits have the least log loss once they are calibrated.
    """

    logits: torch.Tensor
    weights: dict[str, torch.Tensor]


class _Rows(torch.utils.data.Dataset):
    """Tokenised rows with labels; what the Trainer iterates over."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]


class _AfterEpoch(TrainerCallback):
    def __init__(self, watch: Callable[[], None] | None, stop_after: int | None) -> None:
        self.watch, self.stop_after = watch, stop_after

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.watch is not None:
            self.watch()
        control.should_training_stop |= self.stop_after is not None and round(state.epoch) >= self.stop_after


def finetune(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    labels: NDArray[Any],
    options: FinetuneOptions,
    *,
    num_epochs: int,
    stop_after: int | None = None,
    held_out: tuple[list[str], NDArray[Any]] | None = None,
) -> Epochs | None:
    """Fine-tune encoder and head, in place, on the labels alone.

    Args:
        model: Its head should hold a probe's weights: a warm start that keeps the first steps from spoiling the encoder
            (Kumar et al. 2022, arXiv:2202.10054).
        tokenizer: Its tokenizer.
        texts: n texts.
        labels: int64 `(n,)` or float32 `(n, K)`.
        options: How.
        num_epochs: Epochs of the schedule.
        stop_after: Epochs after which to stop, the schedule being that of all.
        held_out: Texts and labels that are classified after every epoch.

    Returns:
        What the held-out rows say, if there are any.
    """
    limit = options.max_length or length_limit(model, tokenizer)
    ids = [tokenizer(t, truncation=True, max_length=limit) for t in texts]
    rows = [{**dict(x), "labels": y} for x, y in zip(ids, labels, strict=True)]
    small = sum(p.numel() for p in model.encoder.parameters()) < 50e6
    watched: list[torch.Tensor] = []
    weights: dict[str, torch.Tensor] = {}
    least = float("inf")

    def watch() -> None:
        nonlocal weights, least
        assert held_out is not None
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=fast_bf16(model.device)):
            embeddings = encode_texts(model, tokenizer, held_out[0], batch_size=64, max_length=limit)
        with evaluating(model), torch.no_grad():
            logits = model.fuse(embeddings.to(model.device))[1].float().cpu()
        watched.append(logits)
        loss = float(calibrated_loss(logits, torch.from_numpy(held_out[1]), model.config.multi_label).mean())
        if loss < least:
            least, weights = loss, {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with tempfile.TemporaryDirectory() as folder, _trained_part(model, options):
        arguments = {
            "output_dir": folder,
            "num_train_epochs": num_epochs,
            "per_device_train_batch_size": options.batch_size,
            "learning_rate": options.learning_rate or (1e-4 if small else 2e-5),
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "seed": options.seed,
            "use_cpu": model.device.type == "cpu",
            "bf16": fast_bf16(model.device),
            "train_sampling_strategy": "group_by_length",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": [],
            "disable_tqdm": not options.progress,
            **(options.trainer_args or {}),
        }
        trainer = LabelFusionTrainer(
            model=model,
            args=TrainingArguments(**arguments),
            train_dataset=_Rows(rows),
            processing_class=tokenizer,
            learning_rates={r"^encoder_head\.": 1e-3},
            callbacks=[_AfterEpoch(watch if held_out is not None else None, stop_after)],
        )
        trainer.train()
    model.eval()
    return None if held_out is None else Epochs(torch.stack(watched), weights)


def calibrated_loss(logits: torch.Tensor, labels: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Log loss `(n,)` of logits `(n, K)` under the temperature that suits them best."""
    return log_loss(logits / fit_temperature(logits, labels, multi_label), labels, multi_label)


def _trained_part(
    model: "LabelFusionForSequenceClassification", options: FinetuneOptions
) -> AbstractContextManager[Any]:
    share = options.trained_layers or (0.5 if model.device.type == "cpu" else 1.0)
    return nullcontext() if share >= 1 else upper_layers(model.encoder, share)


def seconds_per_row(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    options: FinetuneOptions,
    seed: int = 0,
) -> float:
    """Measured seconds of one training step per row, on a few batches of the texts; the weights are not changed."""
    rng = np.random.default_rng(seed)
    limit = options.max_length or length_limit(model, tokenizer)
    size = min(options.batch_size, len(texts))
    seconds = []
    bf16 = fast_bf16(model.device)
    with _trained_part(model, options):
        for _ in range(3):
            batch = tokenize(tokenizer, [texts[i] for i in rng.integers(0, len(texts), size)], limit).to(model.device)
            start = time.perf_counter()
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
                total = model.encode(**batch)[0].sum()
            total.backward()
            model.zero_grad(set_to_none=True)
            seconds.append((time.perf_counter() - start) / size)
    return float(np.median(seconds))
