"""Measures the content of the evaluation report: sources, their comparison, calibration, risk and cost."""

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from ..configuration.secrets import redact
from ..pipelines.formatting import source_names
from ..routing.decisions import widen
from ..routing.run_options import Routing
from .comparison import Source, compare_sources, confusion, per_class, reliability, truth_matrix
from .source_metrics import risk_metrics
from .statistics import NUM_RESAMPLES

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

    from ..configuration import LabelFusionConfig
    from ..pipelines.inference_result import Inference

FUSION, ENCODER = "Fusion", "Encoder alone"


def measure(
    clf: "AutoFusionClassifier",
    data: Any,
    data_name: str,
    model_name: str,
    *,
    routing: Routing | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Measure the content of the evaluation report, as JSON-ready data without any text of the data set.

    Args:
        clf: A fitted classifier.
        data: Labelled data, as for `fit`.
        data_name: Name of the data in the report.
        model_name: Name of the model in the report.
        routing: Policy and limits of the LLM requests; default: every text is sent. Its risk control adds `risk`: the
            guaranteed risk and the measured one.
        seed: Seed of the bootstrap.
        num_resamples: Bootstrap resamples.

    Returns:
        `sources` and `comparisons` as of `evaluation.comparison.compare_sources`, `per_class`, `confusion`
        (single-label: true class by class predicted by the fusion), `reliability` by source, and the settings and
        cost of the measurement.
    """
    config, routing = clf.model_.config, routing or Routing()
    table = clf._prepare_measured(data)
    names = [*config.label_names, *table.unseen]
    started = time.perf_counter()
    result = clf._answer(table, routing)
    seconds = time.perf_counter() - started
    assert table.labels is not None
    truth = truth_matrix(table.labels, len(names))
    sources = _sources(result, config, len(names))
    heard = result.answered.any(axis=1)
    reasons = Counter(redact(reason) for reason in result.errors.values())
    report = {
        "model": model_name,
        "data": data_name,
        "rows": len(table),
        "classes": names,
        "multi_label": config.multi_label,
        "llm_policy": routing.name,
        "confidence_level": 0.95,
        "num_resamples": num_resamples,
        "seed": seed,
        **compare_sources(sources, truth, config.multi_label, num_resamples, seed),
        "per_class": per_class(sources, truth, names),
        "reliability": {s.name: reliability(s, truth, config.multi_label) for s in sources if s.answered.any()},
        "llm_share": float(heard.mean()),
        "llm_asked": int(result.llm_called.sum()),
        "cost_usd": result.total_cost_usd,
        "seconds": round(seconds, 2),
        "missing_answers": dict(reasons.most_common(5)),
        "training": clf.report_,
        "versions": _versions(),
    }
    if routing.control is not None:
        report["risk"] = risk_metrics(result, table.labels, config, routing.control)
    if not config.multi_label:
        report["confusion"] = confusion(sources[0], truth).tolist()
    return report


def _sources(result: "Inference", config: "LabelFusionConfig", num_classes: int) -> list[Source]:
    """Fusion, encoder and LLMs as sources. Classes unknown to the model get no probability."""
    settings = (config.multi_label, config.decision_rule)
    sources = [
        Source.make(FUSION, result.probabilities, *settings),
        Source.make(ENCODER, result.encoder_probabilities, *settings),
    ]
    for p, name in enumerate(source_names(config)):
        sources.append(Source.make(name, result.llm_scores[:, p], config.multi_label))
    for source in sources:
        source.probabilities = widen(source.probabilities, num_classes)
        source.decided = widen(source.decided, num_classes)
    return sources


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("labelfusion-transformers", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
