"""Figures of each class, what the run cost, and its warnings."""

from typing import Any

from ...configuration import ProviderKind
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


def score_warnings(measured: Measurement) -> list[str]:
    """Warnings of recorded scores that the data lack, and of scores that fit the classes in another order only."""
    found, result = [], measured.result
    for p, (name, provider) in enumerate(zip(source_names(measured.config), measured.config.providers, strict=True)):
        lacks = result.wanted[:, p].any() and not result.answered[:, p].any()
        if lacks and provider.kind == ProviderKind.RECORDED:
            found.append(
                f"No row has scores of {name!r}: they were recorded with the training data, and the model queries no "
                "LLM for them. Score the data first with `labelfusion score`, or give `llm_scores`."
            )
        if measured.config.multi_label:
            continue
        order = other_order(result.llm_scores[:, p], measured.labels)
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
