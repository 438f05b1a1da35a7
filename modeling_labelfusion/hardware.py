"""Checks of hardware capabilities."""

import torch


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on `device`."""
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private API, may be removed
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
