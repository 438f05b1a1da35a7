"""A Trainer with a learning rate for each part of the model."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from ..configuration.exporter import exporter
from ..evaluation.metrics import make_compute_metrics
from .collator import LabelFusionDataCollator

DEFAULT_LEARNING_RATES = {r"^(encoder_head|score_pool|fusion_mlp)\.": 1e-3}
# What DDP, torch.compile and PEFT put around modules.
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.|base_model\.model\.)*")
_HEAD = re.compile(r"^classifier\.(modules_to_save\.[^.]+\.)?")


def _matches(pattern: str, name: str) -> bool:
    """Whether a parameter's name in the plain model, with or without `classifier.`, matches."""
    bare = _WRAPPERS.sub("", name)
    return any(re.search(pattern, x) for x in (_HEAD.sub("", bare), _HEAD.sub("classifier.", bare)))


class _Unsaved(str):
    """A secret that is dropped when its owner is pickled, as the Trainer does with its arguments."""

    def __reduce__(self) -> Any:
        return str, ("",)


class LabelFusionTrainer(Trainer):
    """[`Trainer`] for LabelFusion models.

    It provides default `data_collator` (with `llm_scores`) and `compute_metrics`, and trains the small new parts with a
    higher learning rate than the pretrained encoder, which has `args.learning_rate`. It takes a `PeftModel`, too.

    Args:
        *args: For `Trainer`.
        learning_rates: `{regular expression: learning rate}` for parameters with matching names, as they are in the
            plain model, with or without `classifier.` in front. The first match counts; other parameters have
            `args.learning_rate`. Default: `DEFAULT_LEARNING_RATES`.
        **kwargs: For `Trainer`.

    Raises:
        ValueError: If an expression matches no trainable parameter.
    """

    def __init__(self, *args: Any, learning_rates: dict[str, float] | None = None, **kwargs: Any) -> None:
        brings_collator = len(args) < 3 and kwargs.get("data_collator") is None
        if kwargs.get("compute_metrics") is None:
            kwargs["compute_metrics"] = self._metrics
        super().__init__(*args, **kwargs)
        tokenizer: Any = self.processing_class
        if brings_collator and tokenizer is not None:
            config = self._config()  # with `model_init`, the model exists only now
            self.data_collator = LabelFusionDataCollator(
                tokenizer, config.num_providers, config.num_labels, config.multi_label
            )
        if self.args.hub_token:
            self.args.hub_token = _Unsaved(self.args.hub_token)
        self.learning_rates = dict(DEFAULT_LEARNING_RATES if learning_rates is None else learning_rates)
        if learning_rates is not None:
            assert self.model is not None
            trained = [n for n, p in self.model.named_parameters() if p.requires_grad]
            for pattern in self.learning_rates:
                if not any(_matches(pattern, name) for name in trained):
                    raise ValueError(
                        f"`learning_rates`: {pattern!r} matches no trained parameter. Names look like "
                        f"{', '.join(trained[:1] + trained[-3:])}."
                    )

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As in Transformers, but the default metrics also get the encoder's logits."""
        if ignore_keys is None and self.compute_metrics == self._metrics and not self.preprocess_logits_for_metrics:
            ignore_keys = [key for key in self._config().keys_to_ignore_at_inference if key != "encoder_logits"]
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _metrics(self, prediction: Any) -> dict[str, float]:
        return make_compute_metrics(self._config().multi_label)(prediction)

    def _config(self) -> Any:
        assert self.model is not None
        return self.model.config

    def create_model_card(self, *args: Any, model_name: str | None = None, **kwargs: Any) -> None:
        """Prepare the output folder for a push: write a model card, and check that no file contains secrets.

        Raises:
            ValueError: If a file contains something like a credential.
        """
        if self.is_world_process_zero() and (known := exporter()) is not None:
            known.prepare_repository(self, **dict(zip(("language", "license", "tags"), args, strict=False)), **kwargs)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Create the repository on the Hub.

        Raises:
            PermissionError: If there is no token, or it has no write access.
            ConnectionError: If the Hub cannot be reached.
        """
        with self._hub_errors():
            super().init_hf_repo(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers. Also raises the errors of `init_hf_repo` and `create_model_card`."""
        with self._hub_errors():
            return super().push_to_hub(*args, **kwargs)

    def _hub_errors(self) -> AbstractContextManager[None]:
        known = exporter()
        return nullcontext() if known is None else known.hub_errors(self._repository())

    def _repository(self) -> str:
        return self.args.hub_model_id or Path(str(self.args.output_dir)).name

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            self.create_model_card()
        super()._push_from_checkpoint(checkpoint_folder)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer of `args` with one group per learning rate, with and without weight decay."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            if "params" in kwargs or "model" in kwargs or "optimizer_dict" in kwargs:
                raise ValueError(
                    f"`optim={self.args.optim}` makes its own parameter groups; pass `optimizers=` to use it here."
                )
            self.optimizer = optimizer_class(self._groups(model), **kwargs)
        return self.optimizer

    def _groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                matches = (lr for pattern, lr in self.learning_rates.items() if _matches(pattern, name))
                rate = next(matches, self.args.learning_rate)
                groups.setdefault((rate, name in decayed), []).append(parameter)
        return [
            {"params": parameters, "lr": rate, "weight_decay": self.args.weight_decay if decay else 0.0}
            for (rate, decay), parameters in groups.items()
        ]
