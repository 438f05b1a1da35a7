"""The Hugging Face pipeline `labelfusion-classification`, and the engine that runs it on large data."""

from transformers import AutoModelForSequenceClassification, TextClassificationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..routing.policy import select
from .encoder_only_warning import warning_check
from .inference import Inference, run
from .pipeline_labelfusion import TASK, LabelFusionPipeline

if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=LabelFusionPipeline, pt_model=AutoModelForSequenceClassification, type="text"
    )
    check = warning_check(TextClassificationPipeline.check_model_type)
    TextClassificationPipeline.check_model_type = check  # type: ignore[method-assign]

__all__ = ["Inference", "LabelFusionPipeline", "run", "select"]
