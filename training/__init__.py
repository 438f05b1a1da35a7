"""Fits a model on labelled texts: data, `LabelFusionTrainer`, out-of-fold fusion, calibration, metrics.

Imports are lazy, because the pipeline needs the encoding and the thresholds, but not the Trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..evaluation.metrics import classification_metrics, make_compute_metrics
    from .collator import LabelFusionDataCollator
    from .trainer import LabelFusionTrainer

_EXPORTS = {
    "LabelFusionDataCollator": ".collator",
    "LabelFusionTrainer": ".trainer",
    "classification_metrics": "..evaluation.metrics",
    "make_compute_metrics": "..evaluation.metrics",
}
__all__ = ["LabelFusionDataCollator", "LabelFusionTrainer", "classification_metrics", "make_compute_metrics"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
