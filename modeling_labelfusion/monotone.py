"""Monotone calibration maps stored in the config, for the LLM scores and the fused logits."""

from typing import Any

import torch

# Two increasing lists of equal length: knot positions and values.
Knots = list[list[float]]


def monotone_map(x: torch.Tensor, knots: Knots) -> torch.Tensor:
    """Strictly increasing piecewise linear interpolation, with slope 1 beyond the outermost knots.

    Args:
        x: float, any shape.
        knots: Knot positions and values.

    Returns:
        float, of the shape of `x`.
    """
    places, values = knots
    y = values[0] + (x - places[0]).clamp(max=0.0) + (x - places[-1]).clamp(min=0.0)
    for left, right, low, high in zip(places, places[1:], values, values[1:], strict=False):
        y = y + (x - left).clamp(0.0, right - left) * ((high - low) / (right - left))
    return y


def map_scores(llm_scores: torch.Tensor, maps: list[Knots | None], multi_label: bool, floor: float) -> torch.Tensor:
    """Calibrate each LLM's scores with its map of their logits, which is shared by all classes.

    The order of a text's classes does not change. Single-label scores are mapped class by class (one against the rest,
    Zadrozny and Elkan 2002) and normalised to sum to 1.

    Args:
        llm_scores: float `(batch, num_providers, num_labels)`, NaN where a provider has no answer.
        maps: One entry per provider; `None` leaves its scores unchanged.
        multi_label: Whether the classes are independent.
        floor: Scores are kept this far away from 0 and 1.

    Returns:
        float `(batch, num_providers, num_labels)`, NaN where they were.
    """
    present = ~torch.isnan(llm_scores).any(dim=-1, keepdim=True)
    safe = torch.where(present, llm_scores, 0.5)
    logits = torch.logit(safe.to(torch.promote_types(safe.dtype, torch.float32)).clamp(floor, 1.0 - floor))
    columns = []
    for p, knots in enumerate(maps):
        if knots is None:
            columns.append(safe[:, p])
            continue
        mapped = monotone_map(logits[:, p], knots).sigmoid()
        if not multi_label:
            mapped = mapped / mapped.sum(dim=-1, keepdim=True)
        columns.append(mapped.to(safe.dtype))
    return torch.where(present, torch.stack(columns, dim=1), float("nan"))


def map_logits(logits: torch.Tensor, knots: Knots, multi_label: bool) -> torch.Tensor:
    """Calibrate logits.

    Multi-label: the logit of each class is mapped. Single-label: the log odds of the best class against the rest are
    mapped (top-label calibration, Gupta and Ramdas 2022, arXiv:2107.08353). The other classes keep their proportions,
    and the best class stays the best.

    Args:
        logits: float `(batch, num_labels)`.
        knots: The map.
        multi_label: Whether the classes are independent.

    Returns:
        float `(batch, num_labels)`.
    """
    if multi_label:
        return monotone_map(logits, knots)
    odds, index, lead = top_odds(logits)
    shift = torch.maximum(monotone_map(odds, knots) - odds, -0.99 * lead)
    return logits + torch.zeros_like(logits).scatter(-1, index, shift)


def top_odds(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the log odds `(batch, 1)` of the best class against the rest, its index, and its lead over the second."""
    index = logits.argmax(dim=-1, keepdim=True)
    best, others = logits.gather(-1, index), logits.scatter(-1, index, float("-inf"))
    return best - others.logsumexp(dim=-1, keepdim=True), index, best - others.amax(dim=-1, keepdim=True)


def calibrated(logits: torch.Tensor, calibration: dict[str, Any], multi_label: bool) -> torch.Tensor:
    """Apply the temperature and map of `config.calibration` to fused logits, float `(batch, num_labels)`."""
    logits = logits / calibration["temperature"]
    knots = calibration.get("answer_map")
    return logits if knots is None else map_logits(logits, knots, multi_label)
