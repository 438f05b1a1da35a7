"""What `FusionPredictor.evaluate` returns."""

from typing import Any

from ..comparison import confusion
from ..source_metrics import risk_metrics, source_metrics
from .advice import advise
from .class_figures import class_figures, run_costs, score_warnings
from .confusions import list_errors, pair_list
from .measurement import Measurement


def evaluation(measured: Measurement, errors: bool | int = False) -> dict[str, Any]:
    """The figures of a run; `errors`: list those of the fusion too, all of them or so many."""
    config, result, control = measured.config, measured.result, measured.routing.control
    out: dict[str, Any] = {
        "rows": len(measured),
        **source_metrics(result, measured.labels, config),
        "llm_share": float(result.answered.any(axis=1).mean()),
        "cost_usd": result.total_cost_usd,
        "seconds": round(measured.seconds, 3),
        "classes": measured.classes,
        "per_class": class_figures(measured),
        "confused": pair_list(measured),
        "warnings": score_warnings(measured),
        "advice": advise(measured),
        "costs": run_costs(measured),
    }
    if not config.multi_label:
        out["confusion"] = confusion(measured.sources[0], measured.truth).tolist()
    if control is not None:
        out["risk"] = risk_metrics(result, measured.labels, config, control)
    if errors:
        out["errors"] = list_errors(measured, None if errors is True else int(errors))
    return out
