"""Runs of models that answer as the test wishes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from labelfusion.configuration import DecisionRule
from labelfusion.evaluation.diagnosis.measurement import Measurement, named_sources
from labelfusion.pipelines.inference_result import Inference
from labelfusion.routing.run_options import Routing
from labelfusion.training.data import LabelledTexts


def measured_run(
    probs: np.ndarray, labels: np.ndarray, scores: np.ndarray | None = None, **options: Any
) -> Measurement:
    """A run of a model that answers `probs`, `(n, K)`; `scores` are those of its one LLM."""
    n, k = probs.shape
    multi_label = labels.ndim == 2
    names = options.pop("names", [f"c{i}" for i in range(k)])
    class_rows, descriptions = options.pop("class_rows", None), options.pop("descriptions", {})
    providers = [] if scores is None else [SimpleNamespace(name="llm")]
    config: Any = SimpleNamespace(
        label_names=names,
        num_labels=k,
        num_providers=len(providers),
        providers=providers,
        multi_label=multi_label,
        thresholds=None,
        min_labels=0,
        decision_rule=DecisionRule(),
        class_descriptions=descriptions,
        calibration={"temperature": 1.0, "encoder_temperature": 1.0},
        novelty_size=options.pop("novelty_size", 0),
        name_or_path="",
    )
    p = np.clip(probs, 1e-6, 1 - 1e-6)
    logits = (np.log(p) - (np.log1p(-p) if multi_label else 0)).astype(np.float32)
    given = np.full((n, len(providers), k), np.nan, dtype=np.float32)
    if scores is not None:
        given[:, 0] = scores
    encoder = options.pop("encoder_logits", logits)
    result = Inference(logits, encoder, given, np.zeros(n, dtype=bool), np.zeros(n), multi_label)
    result.novelty = options.pop("novelty", result.novelty)
    table = LabelledTexts(options.pop("texts", [f"text {i}" for i in range(n)]), labels, None, names)
    truth = labels > 0 if multi_label else np.eye(k, dtype=bool)[labels]
    sources = named_sources(result, config, k)
    training = {} if class_rows is None else {"class_rows": class_rows}
    return Measurement(config, table, names, truth, result, sources, Routing(), 0.0, training)


def one_hot(said: np.ndarray, k: int, sure: float = 0.9) -> np.ndarray:
    return np.eye(k)[said] * (sure - (1 - sure) / (k - 1)) + (1 - sure) / (k - 1)
