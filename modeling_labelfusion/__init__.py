"""`LabelFusionForSequenceClassification`, its `FusionMLP` and its output class."""

from transformers import AutoModel, AutoModelForSequenceClassification

from ..configuration import LabelFusionConfig
from .fusion import FusionMLP, ScorePool
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .pretrained import LabelFusionOutput, LabelFusionPreTrainedModel

AutoModel.register(LabelFusionConfig, LabelFusionForSequenceClassification, exist_ok=True)
AutoModelForSequenceClassification.register(LabelFusionConfig, LabelFusionForSequenceClassification, exist_ok=True)

__all__ = [
    "FusionMLP",
    "LabelFusionForSequenceClassification",
    "LabelFusionOutput",
    "LabelFusionPreTrainedModel",
    "ScorePool",
]
