"""Converts the configuration dict of the original LabelFusion package, for migration."""

from typing import Any

# Model strings for the provider names of the original package.
MODELS = {"openai": "openai/gpt-5-nano", "gemini": "gemini/gemini-2.5-flash", "deepseek": "deepseek/deepseek-chat"}


def from_original(config: dict[str, Any]) -> dict[str, Any]:
    """Translate the configuration dict of the original LabelFusion package.

    Raises:
        ValueError: For keys without an equivalent in this package.
    """
    known = {"llm_provider", "llm_model", "label_columns", "multi_label", "encoder", "model_name", "labels"}
    unknown = sorted(set(config) - known)
    if unknown:
        raise ValueError(
            f"The configuration dict has unknown keys {unknown}; known are {sorted(known)}. Other settings are keyword "
            "arguments of AutoFusionClassifier."
        )
    out: dict[str, Any] = {k: config[k] for k in ("label_columns", "multi_label", "labels") if k in config}
    if encoder := config.get("encoder") or config.get("model_name"):
        out["encoder"] = encoder
    provider, model = config.get("llm_provider"), config.get("llm_model")
    if provider:
        if model is None and provider not in MODELS:
            raise ValueError(
                f"`llm_provider` is {provider!r}; expected one of {', '.join(MODELS)}, or give `llm_model`."
            )
        out["llm"] = f"{provider}/{model}" if model else MODELS[provider]
    return out
