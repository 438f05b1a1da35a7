"""Checks of hardware capabilities, and the choice of a precision that is fast here."""

import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from .openvino_encoder import BACKENDS

if TYPE_CHECKING:
    from .modeling_labelfusion import LabelFusionForSequenceClassification

logger = logging.getLogger(__name__)


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on `device`."""
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private API, may be removed
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def check_bf16(bf16: Any) -> None:
    """Raise a `ValueError` for anything but True, False and `"auto"`."""
    if not isinstance(bf16, bool) and bf16 != "auto":
        raise ValueError(f"`bf16` is {bf16!r}; expected True, False or 'auto' (where it is faster here).")


def check_backend(backend: Any) -> None:
    """Raise a `ValueError` for a backend that is not known."""
    if backend not in BACKENDS:
        raise ValueError(f"`backend` is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}.")


def resolved_bf16(bf16: bool | str, model: "LabelFusionForSequenceClassification", backend: str = "torch") -> bool:
    """Whether to compute in bfloat16.

    `"auto"`: never on a CPU without bfloat16 instructions, where it is several times slower. Elsewhere PyTorch is
    measured once for a model, and the log says what was found; OpenVINO is not, because it never converts back and
    forth. True warns once on such a CPU.

    Args:
        bf16: The user's choice.
        model: The model.
        backend: What runs the encoder.
    """
    if bf16 is False:
        return False
    known = model.__dict__.setdefault("_bf16", {})
    if backend not in known:
        known[backend] = fast_bf16(model.device)
        if not known[backend]:
            told = "float32 is used." if bf16 == "auto" else "give `bf16=False`, or 'auto'."
            logger.warning("bfloat16 is slow on this %s, which has no instructions for it: %s", model.device.type, told)
        elif bf16 == "auto" and backend == "torch":
            gain = bf16_gain(model)
            known[backend] = gain > 1.0
            chosen = "bfloat16" if gain > 1.0 else "float32"
            logger.info("%s is used: bfloat16 is %.2f times as fast as float32 here.", chosen, gain)
    return bf16 is True or known[backend]


def bf16_gain(model: "LabelFusionForSequenceClassification", runs: int = 3) -> float:
    """How many times faster the encoder runs in bfloat16 than in float32, on 16 texts of 48 tokens: a second or so."""
    ids = torch.ones(16, 48, dtype=torch.long, device=model.device)
    best = {True: float("inf"), False: float("inf")}
    with torch.inference_mode():
        for _ in range(1 + runs):
            for half in best:
                with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half):
                    started = time.perf_counter()
                    model.encoder(input_ids=ids, attention_mask=ids).last_hidden_state.float().sum().item()
                best[half] = min(best[half], time.perf_counter() - started)
    return best[False] / best[True]
