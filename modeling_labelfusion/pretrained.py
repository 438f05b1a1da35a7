"""Shared base of all LabelFusion models: output class, loading and weight initialisation."""

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..configuration import LabelFusionConfig
from ..configuration.class_change import CLASS_OPTIONS
from .baselines import BaselineFusion
from .fusion import OLD_NAMES, ScorePool
from .heads import FITTED_HEADS


@dataclass
class LabelFusionOutput(ModelOutput):
    """Output of [`LabelFusionForSequenceClassification`].

    Args:
        loss: float `()`, returned with `labels`.
        logits: float `(batch, num_labels)`: fused and calibrated.
        encoder_logits: float `(batch, num_labels)`: of the encoder alone, calibrated.
        hidden_states: The encoder's, with `output_hidden_states=True`.
        attentions: The encoder's, with `output_attentions=True`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    encoder_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class LabelFusionPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading, shared with Transformers."""

    config_class = LabelFusionConfig
    config: LabelFusionConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in Transformers, but only from safetensors, because reading a pickle runs code.

        `use_safetensors=False` allows other formats.

        Raises:
            OSError: If there are no such weights, or they are damaged.
            ValueError: If weights do not fit the config or are missing, because Transformers would use random ones.
        """
        kwargs.setdefault("use_safetensors", True)
        kwargs["key_mapping"] = OLD_NAMES | (kwargs.get("key_mapping") or {})
        with_info = kwargs.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise OSError(
                f"The weights of {str(pretrained_model_name_or_path)!r} are damaged ({error}): copy or download them "
                "again."
            ) from None
        except (json.JSONDecodeError, KeyError) as error:
            if isinstance(error, KeyError) and error.args != ("weight_map",):
                raise
            raise OSError(
                f"model.safetensors.index.json of {str(pretrained_model_name_or_path)!r} is damaged: copy or download "
                "it again."
            ) from None
        except RuntimeError as error:
            changed = _changes_config(str(pretrained_model_name_or_path), kwargs)
            other_sizes = "ignore_mismatched_sizes" in str(error) and not changed
            if not other_sizes and "negative dimension" not in str(error):
                raise  # for other classes, the message says what to do
            raise ValueError(
                f"The weights of {str(pretrained_model_name_or_path)!r} have other shapes than its config.json says: "
                "one of the two files is damaged, or of another model."
            ) from None
        model, info = loaded
        check_complete(model, info, str(pretrained_model_name_or_path))
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """As in Transformers, but modules compiled with `torch.compile` keep their original weight names."""
        state = kwargs.get("state_dict") or self.state_dict()
        if any("_orig_mod." in name for name in state):
            kwargs["state_dict"] = {name.replace("_orig_mod.", ""): weight for name, weight in state.items()}
        return super().save_pretrained(save_directory, **kwargs)

    if TYPE_CHECKING:  # a decorator in Transformers hides the type

        def to(self, *args: Any, **kwargs: Any) -> Self: ...  # type: ignore[override]  # noqa: D102

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ScorePool):
            init.zeros_(module.encoder_shift)
            init.zeros_(module.bias)
            init.zeros_(module.missing_shift)
            shares = torch.full((module.num_providers, 1, 1), 0.5 / max(module.num_providers, 1))
            if self.config.fusion in ("encoder", "llm"):  # one source; the first LLM until the best one is known
                shares.zero_()
            if self.config.fusion == "llm":
                shares[:1] = 1.0
                init.constant_(module.encoder_shift[:1], -1.0)
            init.copy_(module.weight, torch.eye(module.num_labels) * shares)
        elif isinstance(module, BaselineFusion):
            init.ones_(module.weight)
        elif isinstance(module, FITTED_HEADS):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, nn.Linear):
            if getattr(module, "starts_at_zero", False):
                init.zeros_(module.weight)
            else:
                std = getattr(self.config.encoder_config, "initializer_range", 0.02)
                init.normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


def _changes_config(source: str, kwargs: dict[str, Any]) -> bool:
    """Whether arguments of `from_pretrained` ask for another config, or other classes, than what is saved."""
    if not kwargs.keys().isdisjoint(CLASS_OPTIONS):
        return True
    given = kwargs.get("config")
    if not isinstance(given, LabelFusionConfig):
        return False
    where = {name: kwargs[name] for name in ("cache_dir", "revision", "subfolder", "token") if name in kwargs}
    # Transformers' auto classes read the config and pass it on.
    saved = LabelFusionConfig.from_pretrained(source, **where)
    return _shapes(saved.to_dict()) != _shapes(given.to_dict())


def _shapes(config: dict[str, Any]) -> dict[str, Any]:
    """The whole numbers of a config, which give the shapes of weights, and its classes."""
    found = {name: value for name, value in config.items() if isinstance(value, int) or name == "id2label"}
    return found | {"encoder_config": _shapes(config["encoder_config"])} if "encoder_config" in config else found


def check_complete(model: nn.Module, info: Any, source: str) -> None:
    """Raise if weights were missing in the files, where Transformers only logs a warning and uses random ones.

    Args:
        model: The model.
        info: Transformers' loading info.
        source: Its origin, for the error message.

    Raises:
        ValueError: If weights are missing, except those of a pooler, which is not used here.
    """
    wanted = {name for name, _ in model.named_parameters()}
    missing = sorted(name for name in wanted & set(info["missing_keys"]) if not name.startswith("pooler."))
    if missing:
        other = f" They hold others, such as {min(info['unexpected_keys'])!r}." if info["unexpected_keys"] else ""
        raise ValueError(
            f"The weights of {source!r} lack {len(missing)} of the model's {len(wanted)}, such as {missing[0]!r}."
            f"{other} The file is incomplete, or was saved under other names (from within another module, say): save "
            "the Transformers model itself with its `save_pretrained`."
        )
