"""Fine-tuning the encoder: number of epochs from held-out rows, time bounded, out-of-sample outputs kept."""

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainingArguments

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
        num_train_epochs: Most epochs; held-out rows say after which to stop.
        learning_rate: Peak learning rate of the encoder. Default: 2e-5, or 1e-4 for encoders below 50M parameters.
        batch_size: Rows a step.
        max_length: Tokens kept of a text. Default: as many as tokenizer and encoder allow.
        seed: Seed of the shuffling and dropout.
        progress: Show progress bars.
        trainer_args: More arguments for `TrainingArguments`, such as `bf16` or `report_to`.
    """

    num_train_epochs: int = 5
    learning_rate: float | None = None
    batch_size: int = 16
    max_length: int | None = None
    seed: int = 0
    progress: bool = False
    trainer_args: dict[str, Any] | None = None


@dataclass
class Epochs:
    """Logits of held-out rows after every epoch: float32 `(epochs, n, K)`, and their mean log loss `(epochs,)`."""

    logits: torch.Tensor
    losses: list[float]


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
    num_epochs: int | None = None,
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
        num_epochs: Epochs of the schedule. Default: `options.num_train_epochs`.
        stop_after: Epochs after which to stop, the schedule being that of all.
        held_out: Texts and labels that are classified after every epoch.

    Returns:
        The held-out logits after every epoch, if there are held-out rows.
    """
    limit = options.max_length or length_limit(model, tokenizer)
    ids = [tokenizer(t, truncation=True, max_length=limit) for t in texts]
    rows = [{**dict(x), "labels": y} for x, y in zip(ids, labels, strict=True)]
    small = sum(p.numel() for p in model.encoder.parameters()) < 50e6
    watched: list[torch.Tensor] = []

    def watch() -> None:
        assert held_out is not None
        embeddings = encode_texts(model, tokenizer, held_out[0], batch_size=64, max_length=limit)
        with evaluating(model), torch.no_grad():
            watched.append(model.fuse(embeddings.to(model.device))[1].float().cpu())

    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder,
            "num_train_epochs": num_epochs or options.num_train_epochs,
            "per_device_train_batch_size": options.batch_size,
            "learning_rate": options.learning_rate or (1e-4 if small else 2e-5),
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "seed": options.seed,
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
    if held_out is None:
        return None
    logits = torch.stack(watched)
    truth = torch.from_numpy(held_out[1])
    losses = [float(log_loss(x, truth, model.config.multi_label).mean()) for x in logits]
    return Epochs(logits, losses)


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
    for _ in range(3):
        batch = tokenize(tokenizer, [texts[i] for i in rng.integers(0, len(texts), size)], limit).to(model.device)
        start = time.perf_counter()
        model.encode(**batch)[0].sum().backward()
        model.zero_grad(set_to_none=True)
        seconds.append((time.perf_counter() - start) / size)
    return float(np.median(seconds))
