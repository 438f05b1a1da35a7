"""From labelled texts to a fitted model: data, `LabelFusionTrainer`, out-of-fold fusion, calibration, metrics."""

from .collator import LabelFusionDataCollator
from .metrics import classification_metrics, make_compute_metrics
from .trainer import LabelFusionTrainer

__all__ = ["LabelFusionDataCollator", "LabelFusionTrainer", "classification_metrics", "make_compute_metrics"]
