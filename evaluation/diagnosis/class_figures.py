"""Figures of each class, what the run cost, and its warnings."""

from typing import Any

from ...pipelines.formatting import source_names
from ..comparison import per_class
from .class_order import other_order
from .measurement import FUSION, Measurement


def class_figures(measured: Measurement) -> list[dict[str, Any]]:
    """For each class `class`, `support`, `predicted` (rows), `precision`, `recall`, `f1`, `training_rows`.

    A value is None if it is undefined (precision without a prediction) or unknown (training rows).
    """
    rows = measured.class_rows
    out = []
    for k, entry in enumerate(per_class(measured.sources[:1], measured.truth, measured.classes)):
        fusion = entry["sources"][FUSION]
        figures = {name: fusion[name] for name in ("predicted", "precision", "recall", "f1")}
        known = None if rows is None else int(rows[k])
        out.append({"class": entry["class"], "support": entry["support"], **figures, "training_rows": known})
    return out


def order_warnings(measured: Measurement) -> list[str]:
    """Warnings of LLMs whose scores fit the labels in another order of the classes only."""
    if measured.config.multi_label:
        return []
    found = []
    for p, name in enumerate(source_names(measured.config)):
        order = other_order(measured.result.llm_scores[:, p], measured.labels)
        if order is not None:
            found.append(order.sentence(name, measured.config.label_names))
    return found


def run_costs(measured: Measurement) -> dict[str, Any]:
    """What the run cost in US dollars: `spent_usd`, `usd_per_1000` texts, texts `asked` and `answered`, and in `fit`.

    Scores that were given with the texts, or came from the store, cost nothing now.
    """
    result = measured.result
    return {
        "spent_usd": result.total_cost_usd,
        "usd_per_1000": 1000 * result.total_cost_usd / max(len(measured), 1),
        "asked": int(result.llm_called.sum()),
        "answered": int(result.answered.any(axis=1).sum()),
        "fit_usd": measured.training.get("cost_usd"),
    }
