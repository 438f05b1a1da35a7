"""Measures the content of the evaluation report: sources, their comparison, calibration, risk and cost."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from ...configuration.secrets import redact
from ...routing.run_options import Routing
from ..comparison import compare_sources, confusion, per_class, reliability
from ..diagnosis.advice import advise
from ..diagnosis.class_figures import run_costs, score_warnings
from ..diagnosis.confusions import pair_list
from ..diagnosis.measurement import ENCODER, FUSION, Measurement
from ..source_metrics import risk_metrics
from ..statistics import NUM_RESAMPLES

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

__all__ = ["ENCODER", "FUSION", "describe", "measure"]


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
        (single-label: true class by class predicted by the fusion), `confused` (its most frequent confusions),
        `reliability` by source, `warnings`, `advice` (see `evaluation.diagnosis.advice`), and the settings and
        `costs` of the measurement.
    """
    run = Measurement.of(clf, data, routing or Routing())
    return describe(run, data_name, model_name, seed=seed, num_resamples=num_resamples)


def describe(
    run: Measurement, data_name: str, model_name: str, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> dict[str, Any]:
    """The content of the report of a run; see `measure`."""
    config, result, truth, sources = run.config, run.result, run.truth, run.sources
    reasons = Counter(redact(reason) for reason in result.errors.values())
    report = {
        "model": model_name,
        "data": data_name,
        "rows": len(run),
        "classes": run.classes,
        "multi_label": config.multi_label,
        "llm_policy": run.routing.name,
        "confidence_level": 0.95,
        "num_resamples": num_resamples,
        "seed": seed,
        **compare_sources(sources, truth, config.multi_label, num_resamples, seed),
        "per_class": per_class(sources, truth, run.classes),
        "confused": pair_list(run),
        "reliability": {s.name: reliability(s, truth, config.multi_label) for s in sources if s.answered.any()},
        "llm_share": float(result.answered.any(axis=1).mean()),
        "llm_asked": int(result.llm_called.sum()),
        "cost_usd": result.total_cost_usd,
        "costs": run_costs(run),
        "seconds": round(run.seconds, 2),
        "missing_answers": dict(reasons.most_common(5)),
        "warnings": score_warnings(run),
        "advice": advise(run),
        "training": run.training,
        "versions": _versions(),
    }
    if run.routing.control is not None:
        report["risk"] = risk_metrics(result, run.labels, config, run.routing.control)
    if not config.multi_label:
        report["confusion"] = confusion(sources[0], truth).tolist()
    return report


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("labelfusion-transformers", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
