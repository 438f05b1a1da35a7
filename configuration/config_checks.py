"""Refuse an invalid config before anything of the size that it names is allocated."""

from itertools import chain, pairwise
from typing import Any

FORMAT = 1  # of config.json; counts up when an older version of this package could not read it
MAX_LABELS, MAX_PROVIDERS, MAX_LAYERS, MAX_ROWS = 100_000, 100, 1000, 2_000_000
MAX_KNOTS, MAX_LOGIT = 64, 100.0  # of a monotone map


def check_format(value: Any) -> None:
    """Refuse a config of a newer version of this package.

    Raises:
        ValueError: Saying what to install.
    """
    if not isinstance(value, int) or not 1 <= value <= FORMAT:
        raise ValueError(
            f"`format_version` is {value!r}, but this version of LabelFusion reads up to {FORMAT}: the model was saved "
            "by a newer one. pip install --upgrade labelfusion-transformers"
        )


def check_keys(cls: type, given: dict[str, Any]) -> None:
    """Refuse keys that would replace a method or a read-only property of the config.

    Raises:
        ValueError: Naming them.
    """
    strange = []
    for key in given:
        there = getattr(cls, key, None)
        if callable(there) or (isinstance(there, property) and there.fset is None):
            strange.append(key)
    if strange:
        raise ValueError(f"LabelFusionConfig has no argument {', '.join(map(repr, sorted(strange)))}: remove it.")


def check_sizes(num_labels: Any, providers: Any, encoder_config: Any, heads: dict[str, Any]) -> None:
    """Refuse sizes that no model has: building one would exhaust memory or time.

    Raises:
        ValueError: Naming the size.
    """
    layers = getattr(encoder_config, "num_hidden_layers", None)
    counts = {
        "num_labels": (num_labels, MAX_LABELS),
        "number of llm_providers": (len(providers) if isinstance(providers, list | tuple) else None, MAX_PROVIDERS),
        "encoder_config.num_hidden_layers": (layers, MAX_LAYERS),
    }
    for name, (value, most) in counts.items():
        if isinstance(value, int) and value > most:
            raise ValueError(f"`{name}` is {value}; it can be {most} at most.")
    for name, value in heads.items():
        if not isinstance(value, int) or not 0 <= value <= MAX_ROWS:
            raise ValueError(f"`{name}` is {value!r}; it must be a whole number from 0 to {MAX_ROWS}.")


def check_layers(layers: list[Any], num_hidden_layers: int | None) -> None:
    """Refuse `pooling_layers` that the encoder does not have.

    Raises:
        ValueError: Naming them.
    """
    last = num_hidden_layers if isinstance(num_hidden_layers, int) else MAX_LAYERS
    if any(not isinstance(x, int) or isinstance(x, bool) or not 0 <= x < last for x in layers) or (
        len(set(layers)) < len(layers)
    ):
        raise ValueError(
            f"`pooling_layers` must be different inner layers, whole numbers from 0 to {last - 1}, got "
            f"{_shown(layers)}."
        )


def check_calibration(calibration: Any, num_providers: int) -> None:
    """Refuse invalid temperatures and monotone maps.

    Raises:
        ValueError: Naming the entry.
    """
    for name in ("temperature", "encoder_temperature"):
        value = calibration[name]
        if not (_is_finite(value) and value > 0):
            raise ValueError(f"`calibration[{name!r}]` must be a positive number, got {value!r}.")
    if calibration.get("answer_map") is not None:
        _check_knots("answer_map", calibration["answer_map"])
    speeds = calibration.get("speed") or {}
    if not isinstance(speeds, dict) or any(not (t is None or _is_finite(t)) for t in speeds.values()):
        raise ValueError(f"`calibration['speed']` must hold a number or null for each speed, got {_shown(speeds)}.")
    maps = calibration.get("score_maps")
    if maps is None:
        return
    if not isinstance(maps, list) or len(maps) != num_providers:
        raise ValueError(
            f"`calibration['score_maps']` must be a list with a map or null for each of the {num_providers} "
            f"`llm_providers`, got {_shown(maps)}."
        )
    for p, knots in enumerate(maps):
        if knots is not None:
            _check_knots(f"score_maps'][{p}", knots)


def _check_knots(name: str, knots: Any) -> None:
    lists = isinstance(knots, list) and len(knots) == 2 and all(isinstance(x, list) for x in knots)
    if lists and 1 <= len(knots[0]) == len(knots[1]) <= MAX_KNOTS:
        right = all(_is_finite(v) and abs(v) <= MAX_LOGIT for v in chain(*knots))
        if right and all(b - a >= 1e-5 for values in knots for a, b in pairwise(values)):
            return
    raise ValueError(
        f"`calibration['{name}']` must be two lists of equal length, of at most {MAX_KNOTS} increasing numbers between "
        f"-{MAX_LOGIT} and {MAX_LOGIT}, got {_shown(knots)}."
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
