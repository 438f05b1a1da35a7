"""Refuse a config that cannot be right, or cannot be read, before anything of the size that it names is made."""

from typing import Any

FORMAT = 1  # of config.json; counts up when an older version of this package could not read it
MAX_LABELS, MAX_PROVIDERS, MAX_LAYERS = 100_000, 100, 1000


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


def check_sizes(num_labels: Any, providers: Any, encoder_config: Any) -> None:
    """Refuse sizes that no model has: building one would take all memory, or for ever.

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
