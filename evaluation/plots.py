"""Plots of an evaluation: confusion matrix, reliability diagram, F1 of each class, cost trade-off."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# The Okabe-Ito palette, which colour-blind readers can distinguish; markers and widths differ as well.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
MOST_NAMES = 60  # largest number of classes whose names are readable on an axis
MOST_NUMBERS = 20  # largest number of classes for which the matrix cells show numbers


def save_plots(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the plots of a report as PNG files and return their paths."""
    paths = []
    for name, draw in (("confusion_matrix", _errors), ("reliability", _reliability), ("per_class", _per_class)):
        figure = draw(report)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=130, bbox_inches="tight", metadata={"Software": None})
    return paths


def _errors(report: dict[str, Any]) -> Figure:
    return _confusion(report) if "confusion" in report else _found_and_missed(report)


def _confusion(report: dict[str, Any]) -> Figure:
    counts = np.array(report["confusion"], dtype=float)
    names, k = _names(report), len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    size = float(np.clip(2.8 + 0.42 * k, 5.0, 16.0))
    figure, axes = _figure(size + 0.6, size)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02, label="share of the true class")
    if k <= MOST_NUMBERS:
        for i, j in np.argwhere(counts > 0):
            color = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, f"{int(counts[i, j])}", ha="center", va="center", color=color, fontsize=9)
    _name_axis(axes, names, "x")
    _name_axis(axes, names, "y")
    axes.set_xlabel("predicted by the fusion")
    axes.set_ylabel("true class")
    axes.set_title(f"Confusion matrix of the fusion ({report['rows']} rows)")
    return figure


def _found_and_missed(report: dict[str, Any]) -> Figure:
    """Multi-label: true positives, false negatives and false positives of each class."""
    fusion = [(entry["support"], entry["sources"]["Fusion"]) for entry in report["per_class"]]
    found = [f["found"] for _, f in fusion]
    missed = [support - f["found"] for support, f in fusion]
    invented = [f["predicted"] - f["found"] for _, f in fusion]
    names = _names(report)
    figure, axes = _figure(8.0, float(np.clip(1.6 + 0.36 * len(names), 3.0, 18.0)))
    y = np.arange(len(names))
    left = np.zeros(len(names))
    labels = (("found", found, COLORS[0]), ("missed", missed, COLORS[1]), ("wrongly given", invented, COLORS[4]))
    for label, values, color in labels:
        axes.barh(y, values, left=left, color=color, label=label)
        left += np.array(values)
    _name_axis(axes, names, "y")
    axes.set_xlim(0, 1.02 * max(1.0, left.max()))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("rows")
    axes.set_title("Classes found, missed and wrongly given by the fusion")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return figure


def _reliability(report: dict[str, Any]) -> Figure:
    figure, axes = _figure(6.4, 6.0)
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, label="calibrated")
    for i, (name, bins) in enumerate(report["reliability"].items()):
        ece = report["sources"][name]["ece"]
        axes.plot(
            [b["confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            linewidth=2.4 if i == 0 else 1.2,
            zorder=10 if i == 0 else 5,
            label=f"{_literal(name)} (ECE {ece:.3f})",
        )
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.01)
    axes.set_aspect("equal")
    axes.grid(alpha=0.25)
    axes.set_xlabel("mean probability of the predicted class" if not report["multi_label"] else "mean probability")
    axes.set_ylabel("share that is right" if not report["multi_label"] else "share that has the class")
    axes.set_title("Reliability (bins of equal size)")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    return figure


def _per_class(report: dict[str, Any]) -> Figure:
    names, sources = _names(report), list(report["sources"])
    figure, axes = _figure(8.0, float(np.clip(1.8 + 0.36 * len(names), 3.0, 18.0)))
    y = np.arange(len(names))
    for i, source in enumerate(sources):  # the fusion's marker is the largest and drawn below the others
        f1 = [entry["sources"][source]["f1"] for entry in report["per_class"]]
        axes.plot(
            [np.nan if v is None else v for v in f1],
            y,
            linestyle="none",
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=11 if i == 0 else 6,
            label=_literal(source),
        )
    axes.hlines(y, 0, 1, color="#dddddd", linewidth=0.8, zorder=0)
    supports = [f"{name}  ({entry['support']})" for name, entry in zip(names, report["per_class"], strict=True)]
    _name_axis(axes, supports, "y")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("F1 (rows of the class in brackets)")
    axes.set_title("F1 of each class")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: no backend, no global state
    return figure, figure.add_subplot()


def _names(report: dict[str, Any]) -> list[str]:
    return [_literal(n if len(n) <= 32 else n[:30] + "…") for n in map(str, report["classes"])]


def _literal(text: str) -> str:
    """Escape `text` so that matplotlib does not parse it as mathematical notation."""
    return text.replace("$", r"\$")


def _name_axis(axes: Axes, names: list[str], which: str) -> None:
    ticks = np.arange(len(names)) if len(names) <= MOST_NAMES else np.arange(0, len(names), len(names) // 40)
    small = 9 if len(names) <= 25 else 6
    if which == "x":
        slope = 40 if len(names) <= 25 else 90
        shown = [names[i] for i in ticks]
        axes.set_xticks(ticks, shown, rotation=slope, ha="right", va="center_baseline", fontsize=small)
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    else:
        axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=small)


def save_tradeoff(found: dict[str, Any], path: Path) -> Path:
    """Draw accuracy against the share of queried texts and, if known, cost and latency; return the file."""
    known = [
        ("share", "share of the texts sent to the LLM", 1.0),
        ("usd_per_1000", "dollars per 1,000 texts", 1.0),
        ("p50_s", "median latency of a text (ms)", 1000.0),
        ("p95_s", "95th percentile of the latency of a text (ms)", 1000.0),
    ]
    # Skip a dimension without variation, such as the cost of free answers.
    axes_of = [k for k in known if len({point[k[0]] for point in found["curve"]} - {None}) > 1]
    across = min(2, len(axes_of))  # more panels in a row are too small on a page
    down = -(-len(axes_of) // 2)
    figure = Figure(figsize=(5.6 * across, 4.2 * down), layout="constrained")
    for i, (name, title, unit) in enumerate(axes_of):
        axes = figure.add_subplot(down, across, i + 1)
        # Skip unknown values. At the last point encoder and LLMs start together, so the latency may drop there.
        curve = [point for point in found["curve"] if point[name] is not None][: -1 if name.startswith("p") else None]
        x = [unit * point[name] for point in curve]
        axes.plot(x, [point["accuracy"] for point in curve], color=COLORS[0], linewidth=2, label="gate")
        low, high = [p["low"] for p in curve], [p["high"] for p in curve]
        axes.fill_between(x, low, high, color=COLORS[0], alpha=0.15, linewidth=0, label="95 % interval")
        if all(point.get(name) is not None for point in found["random"]):
            line = [(unit * p[name], p["accuracy"]) for p in found["random"]]
            axes.plot(*zip(*line, strict=True), color="#888888", linestyle="--", linewidth=1, label="random gate")
        for j, (label, point) in enumerate(found["points"].items(), start=1):
            if point[name] is not None:
                style: dict[str, Any] = {"color": COLORS[j % len(COLORS)], "marker": MARKERS[j % len(MARKERS)]}
                style["linestyle"] = "none"
                axes.plot([unit * point[name]], [point["accuracy"]], markersize=8, label=_literal(label), **style)
        axes.set_xlabel(title)
        axes.set_ylabel(found["metric"])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if name == "share":
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.25)
        if i == 0:
            axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    return path
