"""The metrics of the fusion and of each of its sources on the same rows."""

from typing import Any

from numpy.typing import NDArray

from .configuration import LabelFusionConfig
from .pipelines.answers import source_names
from .pipelines.inference import Inference
from .training.metrics import classification_metrics


def source_metrics(result: Inference, truth: NDArray[Any], config: LabelFusionConfig) -> dict[str, Any]:
    """Metrics by source.

    Args:
        result: What the sources said about n texts.
        truth: int64 `(n,)`, or 0/1 `(n, K)`.
        config: The model's config.

    Returns:
        `fusion`, `encoder` and `llm`, a dict by provider; an LLM's metrics are those of the rows that it answered,
        whose share is `answered`.
    """
    settings = (config.multi_label, config.thresholds, config.min_labels)
    llms: dict[str, Any] = {}
    for p, name in enumerate(source_names(config)):
        answered = result.answered[:, p]
        llms[name] = {"answered": float(answered.mean())}
        if answered.any():
            scores = result.llm_scores[answered, p]
            llms[name] |= classification_metrics(scores, truth[answered], config.multi_label)
    return {
        "fusion": classification_metrics(result.probabilities, truth, *settings),
        "encoder": classification_metrics(result.encoder_probabilities, truth, *settings),
        "llm": llms,
    }
