"""Caches the output of the frozen lower layers, so that they run once per text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...modeling_labelfusion.encoding import evaluating
from .contrastive import layer_stack

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification

MOST_BYTES = 2_000_000_000  # of cached outputs; further texts always run through all layers


@contextmanager
def remembered_below(model: "LabelFusionForSequenceClassification", share: float) -> Iterator[None]:
    """While the upper `share` of the encoder's layers is trained, run the lower ones once per text.

    The output of the last lower layer, without dropout, is cached by the tokens of the text. There is no caching if no
    stack of layers is found, all layers are trained, an embedding is pooled from the lower layers, or a trial fails.
    """
    stack = layer_stack(model.encoder)
    below = 0 if stack is None else len(stack) - max(1, round(share * len(stack)))
    if stack is None or below < 1 or min(model.config.pooling_layers, default=below) < below:
        yield
        return
    memory = _Memory(model.encoder, list(stack[:below]), list(stack[below:]))
    expected = _trial(model)
    hook = model.encoder.register_forward_pre_hook(memory.before, with_kwargs=True)
    for i, layer in enumerate(memory.lower):
        layer.forward = memory.layer(layer.forward, last=i == below - 1)  # type: ignore[method-assign]
    try:
        _trial(model)
        # XLNet's layers have the token axis first, and in other encoders a state may depend on more than the tokens.
        memory.used &= torch.allclose(_trial(model, [1, 0])[[1, 0]], expected, rtol=1e-2, atol=1e-2)
        yield
    finally:
        hook.remove()
        for layer in memory.lower:
            del layer.forward


def _trial(model: "LabelFusionForSequenceClassification", order: list[int] | None = None) -> torch.Tensor:
    """Embeddings of two texts of two tokens."""
    ids = torch.tensor([[3, 4], [2, 5]], device=model.device)[order or [0, 1]]
    with evaluating(model), torch.no_grad():
        return model.encode(input_ids=ids, attention_mask=torch.ones_like(ids))[0]


class _Memory:
    """Outputs of the last of the lower layers, float `(tokens, hidden)` for each distinct text."""

    def __init__(self, encoder: nn.Module, lower: list[nn.Module], upper: list[nn.Module]) -> None:
        self.lower = lower
        trained = {id(module) for layer in upper for module in layer.modules()}
        self.frozen = [m for m in encoder.modules() if m is not encoder and id(m) not in trained]
        self.found: dict[bytes, torch.Tensor] = {}
        self.bytes = 0
        self.keys: list[bytes] = []
        self.mask = torch.empty(0)
        self.used, self.known = True, False
        self.in_tuple = False  # whether layers return a tuple, which depends on the version of Transformers

    def before(self, encoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Look up the batch in the cache."""
        for module in self.frozen:
            module.training = False
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        self.mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        rows = zip(ids.cpu(), self.mask.cpu(), strict=True)
        self.keys = [row[used].numpy().tobytes() for row, used in rows]
        self.known = self.used and all(key in self.found for key in self.keys)

    def layer(self, forward: Any, last: bool) -> Any:
        """Wrap the `forward` of a lower layer."""

        def run(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not self.known:
                output = forward(hidden_states, *args, **kwargs)
                self.in_tuple = isinstance(output, tuple)
                self.used &= not (self.in_tuple and len(output) > 1)  # further outputs would be lost
                if last:
                    self._keep(output[0] if self.in_tuple else output)
                return output
            if last:
                hidden_states = torch.zeros_like(hidden_states)
                states = torch.cat([self.found[key] for key in self.keys])
                hidden_states[self.mask] = states.to(hidden_states)
            return (hidden_states,) if self.in_tuple else hidden_states

        return run

    def _keep(self, output: torch.Tensor) -> None:
        if not self.used or output.shape[:2] != self.mask.shape:
            return
        if torch.is_autocast_enabled(output.device.type):
            output = output.to(torch.get_autocast_dtype(output.device.type))  # the dtype of the next layer
        for key, states, used in zip(self.keys, output.detach(), self.mask, strict=True):
            if key not in self.found and self.bytes < MOST_BYTES:
                self.found[key] = states[used].clone()
                self.bytes += self.found[key].nbytes
