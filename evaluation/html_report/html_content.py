"""What the HTML report shows: figures, charts, examples of errors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...modeling_labelfusion.encoding import without_surrogates
from ...routing.gate import gate_values
from ..comparison import Source
from ..diagnosis.class_figures import class_figures
from ..diagnosis.confusions import confused_pairs, error_confidence, list_errors
from ..diagnosis.measurement import ENCODER, Measurement
from ..diagnosis.suspects import suspects
from ..tradeoff_curve import Expense, tradeoff_curve
from .charts import Chart, Line
from .slices import find_slices

MOST_CELLS = 20  # classes of a confusion matrix that is shown whole
MOST_PAIRS, EXAMPLES = 8, 3
MOST_ERRORS, MOST_SUSPECTS, MOST_CURVES = 20, 15, 24
MOST_LETTERS = 600  # of a text
MOST_POINTS = 60  # of a curve


def html_content(measured: Measurement, report: dict[str, Any], texts: bool = True) -> dict[str, Any]:
    """Everything that the template needs, beside the report; with `texts`, also texts of the data."""
    return {
        "classes": _classes(measured),
        "matrix": _matrix(measured, report),
        "pairs": _pairs(measured, texts),
        "curves": _curves(measured),
        "reliability": _reliability(report),
        "tradeoff": _tradeoff(measured),
        "slices": find_slices(measured),
        "errors": _errors(measured) if texts else [],
        "wrong": int(measured.wrong.sum()),
        "suspects": _suspects(measured, texts),
        "texts": texts,
    }


def shown_text(text: str) -> str:
    """A text of the data as it is shown: of bounded length, without characters that HTML forbids."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in without_surrogates(text)).strip()
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def _classes(measured: Measurement) -> list[dict[str, Any]]:
    found = class_figures(measured)
    for k, entry in enumerate(found):
        curve = _precision_recall(measured.sources[0], measured.truth, k)
        entry["average_precision"] = None if curve is None else curve[1]
    return sorted(found, key=lambda entry: (entry["f1"] or 0.0, entry["support"]))


def _matrix(measured: Measurement, report: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of the confusion matrix: the number of each cell, and its shade, 0 to 9, by its share of the true class."""
    counts = np.array(report.get("confusion", []))
    if not 0 < len(counts) <= MOST_CELLS:
        return None
    shade = np.ceil(9 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(int)
    rows = [list(zip(c, s, strict=True)) for c, s in zip(counts.tolist(), shade.tolist(), strict=True)]
    return {"rows": list(zip(measured.classes, rows, strict=True))}


def _pairs(measured: Measurement, texts: bool) -> list[dict[str, Any]]:
    """The most frequent confusions, with the most confident examples."""
    fusion, truth = measured.sources[0], measured.truth
    counts, support = confused_pairs(truth, fusion.decided), truth.sum(axis=0)
    confidence, found = error_confidence(measured), []
    for i in np.argsort(-counts, axis=None, kind="stable")[:MOST_PAIRS]:
        t, p = divmod(int(i), len(counts))
        if not counts[t, p]:
            break
        rows = np.flatnonzero(truth[:, t] & ~fusion.decided[:, t] & fusion.decided[:, p] & ~truth[:, p])
        rows = rows[np.argsort(-confidence[rows], kind="stable")][: EXAMPLES if texts else 0]
        examples = [
            {
                "text": shown_text(measured.table.texts[i]),
                "row": measured.row(i),
                "probability": float(fusion.probabilities[i, p]),
            }
            for i in rows
        ]
        pair = {"truth": measured.classes[t], "predicted": measured.classes[p], "rows": int(counts[t, p])}
        found.append(pair | {"share": float(counts[t, p] / support[t]), "examples": examples})
    return found


def _precision_recall(
    source: Source, truth: NDArray[np.bool_], k: int
) -> tuple[list[tuple[float, float]], float] | None:
    """Points `(recall, precision)` of a class, and the average precision; None without a row, or without an answer."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    rows = source.answered
    if not truth[rows, k].any():
        return None
    probs = source.probabilities[rows, k]
    precision, recall, _ = precision_recall_curve(truth[rows, k], probs)
    kept = np.unique(np.linspace(0, len(recall) - 1, min(MOST_POINTS, len(recall))).round().astype(int))
    points = [(float(recall[i]), float(precision[i])) for i in kept]
    return points, float(average_precision_score(truth[rows, k], probs))


def _curves(measured: Measurement) -> list[dict[str, Any]]:
    """A chart for each class, the most frequent ones, with the decision that the model takes."""
    support = measured.truth.sum(axis=0)
    found = []
    for k in np.argsort(-support, kind="stable")[:MOST_CURVES]:
        lines, best = [], None
        for style, source in enumerate(measured.sources):
            curve = _precision_recall(source, measured.truth, int(k))
            if curve is not None:
                lines.append(Line(source.name, curve[0], style))
                best = curve[1] if style == 0 else best
        if not lines or best is None:
            continue
        decided, truth = measured.sources[0].decided[:, k], measured.truth[:, k]
        if decided.any():
            hits = float((decided & truth).sum())
            lines.append(Line("as decided", [(hits / truth.sum(), hits / decided.sum())], 0, marks=True, joined=False))
        name = measured.classes[k]
        title = f"Precision against recall of {name}; average precision of the fusion {best:.2f}"
        chart = Chart(title, "recall", "precision", lines, y_range=(0, 1.02), width=300, height=240)
        found.append({"name": name, "support": int(support[k]), "average_precision": best, "chart": chart})
    return found


def _reliability(report: dict[str, Any]) -> Chart | None:
    lines = [
        Line(name, [(b["confidence"], b["accuracy"]) for b in bins], style, marks=True)
        for style, (name, bins) in enumerate(report["reliability"].items())
        if bins
    ]
    several = report["multi_label"]
    x = "mean probability" if several else "mean probability of the predicted class"
    y = "share that has the class" if several else "share that is right"
    title = "Reliability: how often answers of a probability are right. On the diagonal, a source is calibrated"
    return Chart(title, x, y, lines, (0, 1.02), (0, 1.02), diagonal=True) if lines else None


def _tradeoff(measured: Measurement) -> dict[str, Any] | None:
    """Accuracy against the share of texts with LLM answers, from answers that are there: nothing is queried for it."""
    result, config = measured.result, measured.config
    heard = result.answered.any(axis=1)
    if not config.num_providers or heard.mean() < 0.99:
        return None
    probs = result.encoder_probabilities
    values, _ = gate_values(probs, config.calibration, config.multi_label, novelty=result.novelty)
    encoder = next(s for s in measured.sources if s.name == ENCODER)
    cost = result.cost_usd if result.llm_called.any() else None
    right = (encoder.right(measured.truth), ~measured.wrong)
    found = tradeoff_curve(values, *right, Expense(np.zeros(1), cost_usd=cost), num_resamples=500)
    curve, random = found["curve"], found["random"]
    band = [(p["share"], p["low"], p["high"]) for p in curve]
    lines = [
        Line("texts chosen by the gate, 95 % interval", [(p["share"], p["accuracy"]) for p in curve], 0, band=band),
        Line("texts chosen at random", [(p["share"], p["accuracy"]) for p in random], 1),
    ]
    low, high = min(p["low"] for p in curve), max(p["high"] for p in curve)
    high = min(1.0, np.ceil(high * 20) / 20)
    low = min(np.floor(low * 20) / 20, high - 0.1)
    metric = "exact match" if config.multi_label else "accuracy"
    title = f"{metric.capitalize()} against the share of texts that an LLM is asked about"
    chart = Chart(title, "share of texts with an LLM's answer", metric, lines, y_range=(float(low), float(high)))
    points = [p for p in curve if round(p["share"] * 100) in (0, 10, 20, 30, 50, 100)]
    return {"chart": chart, "points": points, "metric": metric}


def _errors(measured: Measurement) -> list[dict[str, Any]]:
    found = list_errors(measured, MOST_ERRORS)
    for entry in found:
        entry["text"] = shown_text(entry["text"])
        for name in ("truth", "predicted"):
            entry[name] = _listed(entry[name])
        entry["sources"] = {
            name: None if said is None else {**said, "predicted": _listed(said["predicted"])}
            for name, said in entry["sources"].items()
        }
    return found


def _suspects(measured: Measurement, texts: bool) -> dict[str, Any]:
    found, names = suspects(measured), measured.classes
    shown = [
        {
            **entry,
            "row": measured.row(entry["row"]),
            "text": shown_text(measured.table.texts[entry["row"]]) if texts else "",
            **{name: ", ".join(names[k] for k in entry[name]) or "none" for name in ("given", "suggested")},
        }
        for entry in found[:MOST_SUSPECTS]
    ]
    return {"count": len(found), "shown": shown}


def _listed(classes: Any) -> str:
    return (", ".join(classes) or "none") if isinstance(classes, list) else str(classes)
