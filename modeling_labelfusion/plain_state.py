"""Pickles of a model that hold its config as JSON and its weights as safetensors, and no module.

Transformers leaves hooks on the encoder after `output_hidden_states=True`, which `pickle` refuses. A pickled module
also ties the file to the versions of PyTorch and Transformers.
"""

import contextlib
import copy
import json
from typing import Any, Self

import torch
from torch import nn


class PlainState(nn.Module):
    """Mixin of a `PreTrainedModel`: `pickle`, `joblib`, `torch.save` and other processes get `plain_state`.

    A model whose modules were changed, by PEFT for instance, is pickled as any other module.
    """

    config: Any

    def plain_state(self) -> dict[str, Any] | None:
        """The model as plain data: strings, numbers and bytes; None if its modules are not those of its config."""
        from safetensors.torch import save

        config = {
            "config": self.config.to_json_string(use_diff=False),
            "attention": self.config._attn_implementation,
            # What the user trusts here is trusted there, even where the folder does not exist.
            "origin": self.config.name_or_path if self.config.source else "",
            "sources": [provider.source for provider in self.config.providers],
        }
        weights = self.state_dict()
        with torch.device("meta"):
            expected = type(self)(_config(type(self), config)).state_dict()
        if {name: x.shape for name, x in weights.items()} != {name: x.shape for name, x in expected.items()}:
            return None
        return config | {
            "weights": save({name: x.detach().cpu().clone().contiguous() for name, x in weights.items()}),
            "frozen": [name for name, p in self.named_parameters() if not p.requires_grad],
            "training": self.training,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(next(iter(weights.values())).device),
        }

    @classmethod
    def from_plain_state(cls, state: dict[str, Any]) -> Self:
        """Rebuild the model, on its device if this process has it, else on the CPU."""
        from safetensors.torch import load

        with torch.random.fork_rng(devices=[]):  # new weights are drawn, then replaced
            model = cls(_config(cls, state)).to(getattr(torch, state["dtype"]))
        model.load_state_dict(load(state["weights"]), assign=True)
        frozen = set(state["frozen"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        with contextlib.suppress(RuntimeError, AssertionError):  # no such device here
            model.to(state["device"])
        return model.train(state["training"])

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = self.plain_state()
        return super().__reduce_ex__(protocol) if state is None else (_rebuilt, (type(self), state))

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


def _rebuilt(cls: type[PlainState], state: dict[str, Any]) -> PlainState:
    return cls.from_plain_state(state)


def _config(cls: Any, state: dict[str, Any]) -> Any:
    config = cls.config_class.from_dict(json.loads(state["config"]), attn_implementation=state["attention"])
    config.name_or_path, config._llm_sources = state["origin"], list(state["sources"])
    return config
