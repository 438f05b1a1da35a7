"""Draw the pictures of README.md and docs/how-it-works.md: `python docs/figures.py`.

`cost-accuracy.png` is drawn from the measured tables in docs/tradeoff.md, `gate.png` by the gate's own code.
"""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from labelfusion.routing.gate import HEDGE, Gate

DOCS = Path(__file__).parent
NAMES = {
    "ag_news": "AG News",
    "reuters10": "Reuters, 10 topics",
    "climate_stance": "climate stance",
    "movie_reviews": "movie reviews",
    "semeval_stance": "SemEval stance",
}
INK, BLUE, ORANGE, GREEN = "#1f2933", "#2f5fb3", "#c2571a", "#2b7a4b"


def tables(page: str) -> list[list[list[str]]]:
    """The Markdown tables of a page, as cells."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def percent(cell: str) -> float:
    """The first number of a cell such as `**80%** [58%, 112%]`."""
    number = re.search(r"-?[\d.]+", cell)
    assert number, cell
    return float(number[0])


def curves(page: str) -> dict[str, tuple[float, list[float]]]:
    """For each data set: the encoder's accuracy in percent, and the gain at 0, 10, 20, 30, 50 and 100 % queried."""
    area = next(t for t in tables(page) if t[0][0].startswith("data set") and "always" in t[0] and "encoder" in t[0])
    kept = next(t for t in tables(page) if "kept at 10 %" in t[0])
    ends = {row[0].split(" (")[0]: (percent(row[1]), percent(row[2])) for row in area[2:] if row[1]}
    found = {}
    for row in kept[2:]:
        encoder, always = ends[row[0]]
        shares = [0.0, *[percent(cell) / 100 for cell in row[1:5]], 1.0]
        found[row[0]] = (encoder, [share * (always - encoder) for share in shares])
    return found


def cost_accuracy(path: Path) -> None:
    """Draw the accuracy gained against the share of texts queried."""
    found = curves((DOCS / "tradeoff.md").read_text(encoding="utf-8"))
    columns = -(-len(found) // 2)
    figure, grid = plt.subplots(2, columns, figsize=(7.5, 4.8), layout="constrained", sharey=True)
    axes = grid.ravel()
    for axis in axes[len(found) :]:
        axis.axis("off")
    for axis, (name, (encoder, gains)) in zip(axes, found.items(), strict=False):
        axis.plot([0, 10, 20, 30, 50, 100], gains, "o-", color=BLUE, lw=2, ms=4)
        axis.plot([0, 100], [0, gains[-1]], ":", color="#7b8794", lw=1.5)
        axis.set_title(f"{NAMES.get(name, name)}\n{encoder:.1f} % → {encoder + gains[-1]:.1f} %", fontsize=11)
        axis.set_xticks([0, 30, 100], ["0 %", "30 %", "100 %"])
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(-0.3, 1.06 * max(max(g) for _, g in found.values()))
    figure.supylabel("accuracy gained, points", fontsize=11)
    figure.supxlabel("texts sent to the LLM (line: chosen by the gate; dotted: at random)", fontsize=11)
    figure.savefig(path, dpi=140, metadata={"Software": None})


def gate_picture(path: Path) -> None:
    """Draw the value of an LLM answer against the encoder's confidence, for two classes."""
    first = np.linspace(0.5, 1.0, 201)
    probs = np.stack([first, 1 - first], axis=1)
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    for recall, colour in ((0.95, BLUE), (0.85, GREEN), (0.7, ORANGE)):
        value = Gate(np.full(2, recall), np.full(2, 0.5), False)(probs) - HEDGE * (1 - first)
        axis.plot(100 * first, 100 * value, color=colour, lw=2, label=f"LLM right in {recall:.0%}")
    axis.set(xlabel="confidence of the encoder, %", ylabel="expected gain, points")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=140, metadata={"Software": None})


def model_picture(path: Path) -> None:
    """Draw what happens to a text."""
    figure, axis = plt.subplots(figsize=(8, 3.1), layout="constrained")
    axis.set(xlim=(0, 100), ylim=(0, 36))
    axis.axis("off")

    def box(x: float, y: float, width: float, text: str, colour: str) -> None:
        style: dict[str, Any] = {"boxstyle": "round,pad=0.3,rounding_size=1", "fc": "white", "ec": colour, "lw": 1.8}
        axis.add_patch(mpl.patches.FancyBboxPatch((x, y), width, 6, **style))
        axis.text(x + width / 2, y + 3, text, ha="center", va="center", fontsize=9, color=INK)

    def arrow(start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.4})
        axis.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 1, text, ha="center", fontsize=9, color=INK)

    box(1, 25, 8, "text", INK)
    box(17, 25, 16, "encoder, heads", BLUE)
    box(17, 14, 16, "gate", GREEN)
    box(17, 3, 16, "LLMs", ORANGE)
    box(45, 25, 16, "temperature", BLUE)
    box(45, 3, 16, "log scores", ORANGE)
    box(69, 14, 12, "pool + MLP", INK)
    box(88, 14, 11, "answer\nor None", GREEN)
    arrow((10, 28), (16, 28))
    arrow((25, 24), (25, 21))
    arrow((25, 13), (25, 10))
    axis.text(26.5, 11, "worth it?", fontsize=9, color=INK)
    arrow((34, 28), (44, 28), "logits")
    arrow((34, 6), (44, 6), "scores")
    arrow((62, 27), (71, 21))
    arrow((62, 7), (71, 13))
    arrow((82, 17), (87, 17))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    mpl.use("Agg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "labelfusion", "font.family": ["DejaVu Sans"]}
    cost_accuracy(DOCS / "cost-accuracy.png")
    gate_picture(DOCS / "gate.png")
    model_picture(DOCS / "model.svg")
