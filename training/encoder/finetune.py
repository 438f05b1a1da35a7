"""Fine-tunes the encoder, or its upper layers, on labels alone with the Trainer."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments

from ...configuration.progress_bar import progress_bar
from ...modeling_labelfusion.encoding import max_length as length_limit
from ...modeling_labelfusion.encoding import token_rows
from ...modeling_labelfusion.hardware import fast_bf16
from ..collator import LabelFusionDataCollator
from ..fit_options import FinetuneOptions
from ..trainer import LabelFusionTrainer
from .contrastive import upper_layers
from .low_rank import low_rank_updates
from .weighted_rows import WEIGHT_KEY, WeightedRowsCollator, WeightedRowsTrainer

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ...modeling_labelfusion.encoding import TextEncoder


class _Rows(torch.utils.data.Dataset):
    """Tokenised rows with labels, for the Trainer."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]


class _AfterEpoch(TrainerCallback):
    def __init__(self, on_epoch: Callable[[], None] | None, stop_after: int | None) -> None:
        self.on_epoch, self.stop_after = on_epoch, stop_after

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.on_epoch is not None:
            self.on_epoch()
        control.should_training_stop |= self.stop_after is not None and round(state.epoch) >= self.stop_after


class _Progress(ProgressCallback):
    """This package's bar in place of the Trainer's, without intermediate metrics."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = progress_bar(state.max_steps, "Fine-tuning", "step")
        self.current_step = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        pass


def finetune(
    encoder: "TextEncoder",
    texts: list[str],
    labels: NDArray[Any],
    options: FinetuneOptions,
    *,
    num_epochs: int,
    stop_after: int | None = None,
    on_epoch: Callable[[], None] | None = None,
    weights: NDArray[np.floating] | None = None,
) -> None:
    """Fine-tune encoder and head, in place, on the labels alone.

    Args:
        encoder: The model with its tokenizer. Its head should hold the weights of a probe. This warm start prevents the
            first steps from distorting the encoder (Kumar et al. 2022, arXiv:2202.10054).
        texts: n texts.
        labels: int64 `(n,)` or float32 `(n, K)`.
        options: Training options.
        num_epochs: Epochs of the learning rate schedule.
        stop_after: Epochs after which to stop, without shortening the schedule.
        on_epoch: Called after every epoch. It may use the model, but not change it.
        weights: float `(n,)`: weights of the rows; `None`: all are 1.
    """
    model, tokenizer = encoder.model, encoder.tokenizer
    limit = length_limit(model, tokenizer, options.max_length)
    ids = token_rows(tokenizer, texts, limit)
    rows = [{**x, "labels": y} for x, y in zip(ids, labels, strict=True)]
    trainer_class, collator_class = LabelFusionTrainer, LabelFusionDataCollator
    if weights is not None:
        rows = [{**row, WEIGHT_KEY: w} for row, w in zip(rows, weights, strict=True)]
        trainer_class, collator_class = WeightedRowsTrainer, WeightedRowsCollator
    small = sum(p.numel() for p in model.encoder.parameters()) < 50e6
    with tempfile.TemporaryDirectory() as folder, _trained_part(model, options) as trained:
        arguments = {
            "output_dir": folder,
            "num_train_epochs": num_epochs,
            "per_device_train_batch_size": options.batch_size,
            "learning_rate": options.learning_rate or (1e-4 if small else 2e-5) * (10 if options.low_rank else 1),
            "warmup_steps": 0.1,
            "weight_decay": 0.01,
            "seed": options.seed,
            "use_cpu": model.device.type == "cpu",
            "bf16": fast_bf16(model.device),
            "train_sampling_strategy": "group_by_length",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": [],
            "remove_unused_columns": weights is None,
            "disable_tqdm": not options.progress,
            **(options.trainer_args or {}),
        }
        trainer = trainer_class(
            model=trained,
            args=TrainingArguments(**arguments),
            train_dataset=_Rows(rows),
            processing_class=tokenizer,
            data_collator=collator_class(tokenizer, 0, model.config.num_labels, model.config.multi_label),
            learning_rates={r"^encoder_head\.": 1e-3},
            callbacks=[_AfterEpoch(on_epoch, stop_after)],
        )
        if trainer.pop_callback(ProgressCallback) is not None:
            trainer.add_callback(_Progress())
        trainer.pop_callback(PrinterCallback)  # it prints the run's figures to stdout if there is no bar
        trainer.train()
    model.eval()


@contextmanager
def _trained_part(model: "LabelFusionForSequenceClassification", options: FinetuneOptions) -> Iterator[Any]:
    """Yield the model to train: the head and the upper layers of the encoder, or low-rank updates of all of them."""
    if options.low_rank:
        with low_rank_updates(model, options.low_rank, options.seed) as adapted:
            yield adapted
        return
    share = trained_share(model, options)
    trained = model.classifier.fusion_parameters()
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with nullcontext() if share >= 1 else upper_layers(model.encoder, share):
            yield model
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def trained_share(model: "LabelFusionForSequenceClassification", options: FinetuneOptions) -> float:
    """The share of the encoder's layers to train: `options.trained_layers`, or the default for the device."""
    if options.low_rank:
        return 1.0
    return options.trained_layers or (0.4 if model.device.type == "cpu" else 1.0)
