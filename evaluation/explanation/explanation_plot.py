"""Draws an explanation: the shares of the sources, and the words."""

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots import COLORS, _literal

if TYPE_CHECKING:
    from .explanation import Explanation

MOST_BARS = 14


def draw(explanation: "Explanation", label: str) -> Figure:
    """Bars of the shares of the logit of class `label` and, if measured, of its strongest words."""
    shares = list(explanation.shares_of(label).items())
    words = sorted(enumerate(explanation.words_of(label)), key=lambda item: -abs(item[1][1]))[:MOST_BARS]
    strongest = [word for _, word in sorted(words)]  # in the order of the text
    count = 2 if strongest else 1
    height = 1.4 + 0.32 * max(len(shares) + 1, len(strongest))
    figure = Figure(figsize=(5.4 * count, height), layout="constrained")  # no pyplot: no global state
    logit = sum(value for _, value in shares)
    _bars(figure.add_subplot(1, count, 1), [*shares, ("sum: the logit", logit)], f"Sources, for {label}", total=True)
    if strongest:
        _bars(figure.add_subplot(1, count, 2), strongest, f"Words, for {label}")
    return figure


def _bars(axes: Axes, values: list[tuple[str, float]], title: str, total: bool = False) -> None:
    places = range(len(values))
    colors = [COLORS[0] if value >= 0 else COLORS[4] for _, value in values]
    if total:
        colors[-1] = "#555555"
    axes.barh(places, [value for _, value in values], color=colors)
    axes.set_yticks(places, [_literal(name if len(name) <= 32 else name[:31] + "…") for name, _ in values], fontsize=9)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.margins(x=0.16)
    for i, (_, value) in enumerate(values):
        side = "left" if value >= 0 else "right"
        offset = (3 if value >= 0 else -3, 0)
        axes.annotate(f"{value:+.2f}", (value, i), offset, textcoords="offset points", ha=side, va="center", fontsize=8)
    axes.set_xlabel("logit")
    axes.set_title(_literal(title), fontsize=11)
