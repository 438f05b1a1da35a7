"""Fine-tunes low-rank updates of the encoder's weights with PEFT (LoRA, Hu et al. 2021, arXiv:2106.09685)."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification

_ADAPTER = "default"


def check_peft() -> None:
    """Raise an `ImportError` that says what to install, unless PEFT is there."""
    if find_spec("peft") is None:
        raise ImportError('`encoder_training="lora"` needs PEFT: pip install "labelfusion-transformers[peft]"')


@contextmanager
def low_rank_updates(model: "LabelFusionForSequenceClassification", rank: int, seed: int) -> Iterator[Any]:
    """Yield the model with LoRA on all linear layers of the encoder; afterwards, merge what was trained into it.

    This is PEFT's usual recipe for `TaskType.SEQ_CLS`, which also trains the head. The fusion is fitted later.

    Args:
        model: The model, changed in place.
        rank: Of the updates.
        seed: Of their initial values.

    Yields:
        A `peft.PeftModel`, for the Trainer.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules="all-linear"
    )
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, config, adapter_name=_ADAPTER)
    for parameter in model.classifier.fusion_parameters():
        parameter.requires_grad_(False)
    try:
        yield adapted
    finally:
        adapted.merge_and_unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])


def merged_weights(model: "LabelFusionForSequenceClassification") -> dict[str, torch.Tensor]:
    """A copy of the model's weights as they are without PEFT, where `low_rank_updates` may be in them."""
    weights = {}
    for name, weight in model.state_dict().items():
        if ".lora_" not in name and ".original_module." not in name:
            plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{_ADAPTER}.", ".")
            weights[plain] = weight.clone()
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and _ADAPTER in module.lora_A:
            weights[f"{name}.weight"] += module.get_delta_weight(_ADAPTER)
    return weights
