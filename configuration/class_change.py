"""What remains of a config when it gets other classes: nothing that was written or fitted for those it had."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_labelfusion import LabelFusionConfig

CLASS_OPTIONS = ("num_labels", "id2label", "label2id")
# Of heads that are fitted, not trained by gradient: new ones of this kind would add nothing.
_FITTED_HEADS = ("lexical_size", "kernel_size", "label_set_size", "quick_size")


def adapt_to_classes(config: "LabelFusionConfig", names: list[str], renamed_only: bool) -> None:
    """Drop, in place, what a config says about classes that it no longer has.

    Args:
        config: The config.
        names: Its new class names.
        renamed_only: Whether there are as many as before. The weights then fit, and what is fitted by position stays.
    """
    known = set(names)
    config.class_descriptions = {name: text for name, text in config.class_descriptions.items() if name in known}
    config.llm_providers = [_adapted(provider, known, renamed_only) for provider in config.llm_providers]
    if renamed_only:
        return
    config.thresholds, config.min_labels, config.fusion_report = None, 0, None
    config.calibration = {"temperature": 1.0, "encoder_temperature": 1.0}
    for name in _FITTED_HEADS:
        setattr(config, name, 0)


def _adapted(provider: dict[str, Any], known: set[str], renamed_only: bool) -> dict[str, Any]:
    kept = {k: v for k, v in provider.items() if k != "guidelines" and (renamed_only or k != "prior")}
    if provider.get("verbalizers"):
        kept["verbalizers"] = {name: words for name, words in provider["verbalizers"].items() if name in known}
    if provider.get("examples"):
        kept["examples"] = [example for example in provider["examples"] if _classes(example) <= known]
    return kept


def _classes(example: dict[str, Any]) -> set[str]:
    labels = example.get("labels", example.get("label"))
    return set(map(str, labels)) if isinstance(labels, list | tuple) else {str(labels)}
