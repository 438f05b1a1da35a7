"""The evaluation report: JSON, Markdown and plots."""

import json
import logging
from pathlib import Path
from typing import Any

from ..markdown import markdown_table, plain
from ..tradeoff import TRADEOFF_FILES
from .report_content import FUSION

logger = logging.getLogger(__name__)

FILES = ("report.md", "report.json", "confusion_matrix.png", "reliability.png", "per_class.png", *TRADEOFF_FILES)


def write_report(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `report.json`, `report.md` and, if matplotlib is installed, the plots; return the files.

    Without matplotlib, a warning says how to get the plots; the other files are still written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # remove the files of an earlier report
        (folder / name).unlink(missing_ok=True)
    plots: list[Path] = []
    path = folder / "report.json"
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    try:
        from ..plots import save_plots
    except ImportError as error:
        logger.warning("No plots: %s. `pip install labelfusion-transformers[plot]` brings matplotlib.", error)
    else:
        plots = save_plots(report, folder)
    markdown = folder / "report.md"
    markdown.write_text(to_markdown(report, [p.name for p in plots]), encoding="utf-8")
    return [markdown, path, *plots]


def to_markdown(report: dict[str, Any], plots: list[str] | None = None) -> str:
    """The report as Markdown; `plots` are the file names of the plots in the same folder."""
    shown = set(plots or [])
    metric = "Exact match" if report["multi_label"] else "Accuracy"
    kind = f"{len(report['classes'])} classes" + (", several a text" if report["multi_label"] else "")
    parts = [
        f"# Evaluation of {plain(report['model'])}",
        f"{report['rows']} rows of {plain(report['data'])}, {kind}. {_spent(report)}",
        seen_before(report),
        *(f"**{plain(warning)}**" for warning in report["warnings"]),
        "## Results",
        sources_table(report),
        f"{metric} and macro F1 over all {report['rows']} rows, where a row without an answer is wrong; "
        "log loss (nats), Brier score and expected calibration error (ECE, 15 bins of equal mass) over the answered "
        f"rows. In brackets: 95 % intervals, {report['num_resamples']} bootstrap resamples, seed {report['seed']}.",
        *(_comparison(report) if report["comparisons"] else ["The model has no LLM: the fusion is the encoder."]),
        "## Calibration",
        _picture("reliability.png", "Reliability of each source", shown),
        risk_sentence(report),
        "A source is calibrated where its accuracy equals its confidence. " + _calibration(report),
        "## Classes",
        _class_table(report),
        _picture("per_class.png", "F1 of each class", shown),
        "## Errors of the fusion",
        _confused(report),
        _picture("confusion_matrix.png", "Errors of the fusion by class", shown),
        "## What to do",
        _advice(report),
        "## How it was made",
        _training(report),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()) + ".",
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def sources_table(report: dict[str, Any]) -> str:
    """A Markdown table of the metrics: one row per source, the fusion first."""
    metric = "Exact match" if report["multi_label"] else "Accuracy"
    partial = any(0 < s["answered"] < 1 for s in report["sources"].values())
    header = ["Source", metric, "Macro F1", "Log loss", "Brier", "ECE", "Answered"]
    rows = []
    for name, entry in report["sources"].items():
        if not entry["answered"]:
            rows.append([plain(name), *["–"] * (len(header) - 2 + partial), "0.0%"])
            continue
        row = [plain(name), _percent(entry["accuracy"]), _percent(entry["macro_f1"])]
        row += [_value(entry["log_loss"]["value"]), _value(entry["brier"]["value"]), _value(entry["ece"])]
        rows.append([*row, f"{entry['answered']:.1%}"])
        if partial:
            rows[-1].insert(2, _percent(entry["accuracy_answered"]))
    if partial:
        header.insert(2, f"{metric} on answered rows")
    return markdown_table(header, rows)


def _comparison(report: dict[str, Any]) -> list[str]:
    return [
        "## Is the fusion better?",
        comparisons_table(report),
        "Differences are the fusion's figure minus the other's, in points, on the rows that both answered. p: exact "
        "McNemar test of the rows that only one of the two has right (Holm: adjusted for the number of comparisons); "
        "for macro F1, paired bootstrap.",
    ]


def comparisons_table(report: dict[str, Any]) -> str:
    """A Markdown table that compares the fusion with each source."""
    metric = "exact match" if report["multi_label"] else "accuracy"
    rows = []
    for c in report["comparisons"]:
        p = f"{_p(c['accuracy']['p'])} ({_p(c['p_holm'])})"
        only = f"{c['only_first']} / {c['only_source']}"
        f1 = f"{_points(c['macro_f1'])}, p {_p(c['macro_f1']['p'])}"
        rows.append([plain(c["source"]), str(c["rows"]), _points(c["accuracy"]), only, p, f1])
    header = ["Fusion against", "Rows", f"Difference in {metric}", "Right: only fusion / only it", "p (Holm)"]
    return markdown_table([*header, "Difference in macro F1"], rows)


def risk_sentence(report: dict[str, Any]) -> str:
    """The guaranteed risk and the measured result; empty without a guarantee."""
    risk = report.get("risk")
    if not risk:
        return ""
    right = "" if risk["accuracy_answered"] is None else f", {risk['accuracy_answered']:.1%} of them right"
    return (
        f"Guaranteed: wrong answers to {risk['max_risk']:.1%} of the texts at most, and at most this share of the true "
        f"classes missing from the label sets. Measured: {risk['answered']:.1%} of the texts were answered{right}; "
        f"{risk['wrong_answers']:.1%} of all texts got a wrong answer, the label sets (mean size "
        f"{risk['set_size']:.2f}) left out {risk['missed']:.1%}."
    )


def seen_before(report: dict[str, Any]) -> str:
    """A warning if the evaluation data have the same name as the training data; else empty."""
    if report["training"].get("data") != report["data"]:
        return ""
    return "**These data have the name of the training data: if they are the same, the figures are too good.**"


def _spent(report: dict[str, Any]) -> str:
    rate = report["rows"] / max(report["seconds"], 1e-3)
    text = f"It took {report['seconds']:.1f} s ({rate:.0f} texts a second)."
    if len(report["sources"]) > 2:
        text += f" {report['llm_share']:.1%} of the texts had an LLM's scores"
        if report["llm_asked"]:
            text += f"; {report['llm_asked']} of them were queried in this run, for ${report['cost_usd']:.4f}"
        text += f" (LLM policy: {report['llm_policy']})."
    for reason, count in report["missing_answers"].items():
        text += f" No answer for {count}: {plain(reason)}."
    return text


def _calibration(report: dict[str, Any]) -> str:
    known = {name: s["ece"] for name, s in report["sources"].items() if s["ece"] is not None}
    return "ECE: " + ", ".join(f"{plain(name)} {ece:.3f}" for name, ece in known.items()) + "."


def _class_table(report: dict[str, Any]) -> str:
    others = [name for name in report["sources"] if name != FUSION]
    header = ["Class", "Rows", "Precision", "Recall", "F1", *[f"F1 of {plain(n)}" for n in others]]
    rows = []
    for entry in report["per_class"]:
        fusion = entry["sources"][FUSION]
        row = [
            plain(entry["class"]),
            str(entry["support"]),
            *(_share(fusion[m]) for m in ("precision", "recall", "f1")),
        ]
        rows.append(row + [_share(entry["sources"][n]["f1"]) for n in others])
    return markdown_table(header, rows)


def _confused(report: dict[str, Any]) -> str:
    if not report["confused"]:
        return "The fusion takes no class for another on these rows."
    told = "The most frequent confusions:"
    if report["multi_label"]:
        told = "Classes that were missed in rows where another was wrongly given:"
    rows = [
        [plain(pair["truth"]), plain(pair["predicted"]), str(pair["rows"]), f"{pair['share']:.0%}"]
        for pair in report["confused"]
    ]
    return f"{told}\n\n" + markdown_table(["Truth", "Predicted", "Rows", "Of the true class"], rows, 2)


def _advice(report: dict[str, Any]) -> str:
    if not report["advice"]:
        return "Nothing stands out: no class is weak for a reason that these rows show."
    return "\n".join(f"* {plain(piece['fact'])} **{plain(piece['advice'])}**" for piece in report["advice"])


def _training(report: dict[str, Any]) -> str:
    training = report["training"]
    if not training:
        return "The model carries no record of its training."
    text = f"Trained on {training.get('rows')} rows, {training.get('scored_rows', 0)} of them with LLM scores; "
    text += f"encoder: {training.get('encoder_training')}."
    if "chosen" in training.get("fusion", {}):
        text += f" The fusion chosen, by cross-validated log loss: {training['fusion']['chosen']}."
    return text


def _picture(name: str, caption: str, shown: set[str]) -> str:
    return f"![{caption}]({name})" if name in shown else ""


def _percent(entry: dict[str, Any]) -> str:
    if entry["low"] is None:
        return f"{entry['value']:.1%}"
    return f"{entry['value']:.1%} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def _points(entry: dict[str, Any]) -> str:
    return f"{100 * entry['value']:+.1f} [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
