"""LabelFusion: text classification that fuses a fine-tuned Transformer with the scores of LLMs.

Importing this package registers the config, the model and the pipeline with Transformers, at the moment when the
Transformers module concerned is loaded; nothing heavy is imported before.
"""

from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

if TYPE_CHECKING:
    from .auto import AutoFusionClassifier
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
    "AutoFusionClassifier": ".auto",
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

# Each room registers its classes when it is imported; these hooks import it as soon as Transformers could ask for them.
_REGISTRATION = {
    "transformers.models.auto.configuration_auto": "labelfusion.configuration",
    "transformers.models.auto.modeling_auto": "labelfusion.modeling_labelfusion",
    "transformers.pipelines": "labelfusion.pipelines",
}


def _register(room: str, _: Any) -> None:
    import_module(room)


@when_imported("labelfusion.configuration")
def _let_it_write_code(configuration: Any) -> None:
    """The config of a self-contained model is saved with its code, which is made in a room that it does not know."""

    def write_code(folder: Any) -> None:
        import_module("labelfusion.hub_scripts.formats.flat_code").write_code(folder)

    configuration.LabelFusionConfig.write_code = staticmethod(write_code)


@when_imported("labelfusion.training.trainer")
def _let_it_push(trainer: Any) -> None:
    """Likewise for the card of a model that the Trainer pushes, and for what may go wrong with the Hub."""

    def prepare_repository(*args: Any, **kwargs: Any) -> None:
        import_module("labelfusion.hub_scripts.publish.trainer_repository").prepare_repository(*args, **kwargs)

    def hub_errors(repo_id: str) -> Any:
        return import_module("labelfusion.hub_scripts.publish.hub_errors").hub_errors(repo_id)

    trainer.LabelFusionTrainer.prepare_repository = staticmethod(prepare_repository)
    trainer.LabelFusionTrainer.hub_errors = staticmethod(hub_errors)


for _module, _room in _REGISTRATION.items():
    when_imported(_module)(partial(_register, _room))


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
