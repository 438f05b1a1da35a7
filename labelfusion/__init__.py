"""LabelFusion: text classification that fuses a fine-tuned Transformer with the scores of LLMs.

Importing this package registers the config, the model and the pipeline with Transformers. The registration is lazy: it
runs when the corresponding Transformers module is loaded, and imports nothing heavy before that.
"""

from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

if TYPE_CHECKING:
    from .classifier import AutoFusionClassifier
    from .configuration import LabelFusionConfig, LLMProvider
    from .modeling_labelfusion import FusionMLP, LabelFusionForSequenceClassification
    from .modeling_labelfusion.onnx_labelfusion import LabelFusionOnnxModel
    from .pipelines import LabelFusionPipeline
    from .training import LabelFusionTrainer

try:
    __version__ = version("labelfusion-transformers")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"

_EXPORTS = {
    "AutoFusionClassifier": ".classifier",
    "LabelFusionConfig": ".configuration",
    "LLMProvider": ".configuration",
    "FusionMLP": ".modeling_labelfusion",
    "LabelFusionForSequenceClassification": ".modeling_labelfusion",
    "LabelFusionOnnxModel": ".modeling_labelfusion.onnx_labelfusion",
    "LabelFusionPipeline": ".pipelines",
    "LabelFusionTrainer": ".training",
}
__all__ = [  # noqa: RUF022
    "AutoFusionClassifier",
    "LabelFusionConfig",
    "LabelFusionForSequenceClassification",
    "LabelFusionOnnxModel",
    "LabelFusionPipeline",
    "FusionMLP",
    "LLMProvider",
    "LabelFusionTrainer",
]

# Each package registers its classes on import. These hooks import it once Transformers can look the classes up.
_REGISTRATION = {
    "transformers.models.auto.configuration_auto": "labelfusion.configuration",
    "transformers.models.auto.modeling_auto": "labelfusion.modeling_labelfusion",
    "transformers.pipelines": "labelfusion.pipelines",
}


def _register(room: str, _: Any) -> None:
    import_module(room)


@when_imported("labelfusion.configuration.exporter")
def _register_exporter(module: Any) -> None:
    module.register_exporter(lambda: import_module("labelfusion.hub_scripts.publish.exporter"))


for _module, _room in _REGISTRATION.items():
    when_imported(_module)(partial(_register, _room))


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
