"""The metrics of the fusion and of each of its sources on the same rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..pipelines.formatting import hold_back, source_names
from ..pipelines.inference import Inference
from ..routing.decisions import widen
from ..routing.risk import RiskControl
from .metrics import classification_metrics, is_right


def source_metrics(result: Inference, truth: NDArray[Any], config: LabelFusionConfig) -> dict[str, Any]:
    """Metrics by source.

    Args:
        result: The predictions of the sources for n texts.
        truth: int64 `(n,)`, or 0/1 `(n, K)`.
        config: The model's config.

    Returns:
        `fusion`, `encoder` and `llm`, a dict by provider. An LLM's metrics cover only the rows that it answered,
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


def risk_metrics(
    result: Inference, truth: NDArray[Any], config: LabelFusionConfig, control: RiskControl
) -> dict[str, Any]:
    """Compare a guaranteed risk with the measured error.

    Returns:
        `max_risk`; `answered`: share of texts without abstention; `wrong_answers`: share of all texts with a wrong
        answer; `accuracy_answered`: share of correct answers among those given; `missed`: share of texts whose true
        class is not in the label set (multi-label: mean share of a text's classes); `set_size`: mean size of the set.
    """
    answered, sets = hold_back(result, config, control)
    right = is_right(result.probabilities, truth, config.decision_rule)
    num_labels = truth.shape[1] if truth.ndim == 2 else max(config.num_labels, int(truth.max(initial=0)) + 1)
    classes = truth > 0 if truth.ndim == 2 else np.eye(num_labels, dtype=bool)[truth]
    missed = (classes & ~widen(sets, num_labels)).sum(axis=1) / classes.sum(axis=1).clip(1)
    return {
        "max_risk": control.max_risk,
        "answered": float(answered.mean()),
        "wrong_answers": float((answered & ~right).mean()),
        "accuracy_answered": float(right[answered].mean()) if answered.any() else None,
        "missed": float(missed.mean()),
        "set_size": float(sets.sum(axis=1).mean()),
    }
