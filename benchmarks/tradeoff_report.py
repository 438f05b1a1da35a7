"""The report of `benchmarks/tradeoff.py`: tables and a picture."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tradeoff import BUDGET, FOLDS, FOREIGN, GATES, RISKS, SIZES, curves

INTRO = """# Selective querying: accuracy against LLM use

Written by `python benchmarks/tradeoff.py`. Rows with recorded LLM answers, five-fold cross-validated. A model that was
not trained on a row predicts it, and the row is ranked within its fold. The recipe is that of `fit`, on a frozen
encoder. Accuracy is exact match for Reuters.

* A text is *queried* (*asked*, in the plots) if it is sent to the LLMs. *Always*: every text is.
* *Area*: the mean accuracy over all shares of texts queried, from 0 to 100 %, minus that of querying at random. In
  brackets: 95 % bootstrap intervals over the rows.
* *Kept*: the part of the gain of always querying that remains when 30 % of the texts are queried.
* `learnt`: the gate of the model ([`routing/gate.py`](../routing/gate.py)). `without novelty`: the same gate without
  the out-of-distribution score. The other columns are baselines.
* *Conformal set size* has many ties. Among equal sizes, the maximum probability decides.
"""


def write(done: dict[tuple[Any, ...], dict[str, Any]], path: Path) -> None:
    """Write the report of all results that there are, one part for each encoder."""
    lines = [INTRO]
    for encoder in dict.fromkeys(key[1] for key in done):
        found = {}
        for name in SIZES:
            results = [r for key, r in done.items() if key[:3] == ("gates", encoder, name)]
            if results:
                found[name] = curves(results)
        lines += [f"## Encoder {encoder}", "", *_summary(found), *_gates(found), *_policies(found), *_risks(found)]
        picture = path.with_name(f"tradeoff-{encoder}.png")
        _draw(found, picture)
        lines += [f"![Accuracy against the share of texts queried]({picture.name})", ""]
        budgets = {n: [r for k, r in done.items() if k[:3] == ("budgets", encoder, n)] for n in SIZES}
        lines += _budgets({name: results for name, results in budgets.items() if len(results) >= FOLDS})
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _summary(found: dict[str, Any]) -> list[str]:
    """Which goals were met, and where not."""
    kept = {name: c["learnt"]["kept"][30] for name, c in found.items()}
    lost = [f"{name} ({k:.0%})" for name, k in kept.items() if k < 0.95]
    worse = [n for n, c in found.items() if c["learnt"]["area"] <= 0]
    areas = [float(np.mean([c[gate]["area"] for c in found.values()])) for gate in ("learnt", "maximum probability")]
    less = [name for name, c in found.items() if c["drift"] <= c["auto"][0]]
    broken = [
        f"{name} at {risk:.0%} ({max(c['risks'][f'{p} {risk:g}'][1] for p in ('never', 'always')):.1%})"
        for name, c in found.items()
        for risk in RISKS
        if max(c["risks"][f"{p} {risk:g}"][1] for p in ("never", "always")) > risk
    ]
    return [
        f"* With 30 % queried, 95 % of the gain is kept on {len(kept) - len(lost)} of {len(kept)} data sets"
        + (f"; not on {', '.join(lost)}." if lost else "."),
        f"* Better than querying at random on {len(kept) - len(worse)} of {len(kept)}; mean area {_points(areas[0])} "
        f"points, of the maximum probability {_points(areas[1])}.",
        f"* Under drift, the gate queries more texts on {len(kept) - len(less)} of {len(kept)}"
        + (
            f"; fewer on {', '.join(less)}, where the encoder is confident on out-of-distribution texts."
            if less
            else "."
        ),
        "* The guaranteed risk was exceeded, within sampling noise or not, by "
        + (f"{', '.join(broken)}." if broken else "none."),
        *([f"* Not measured yet: {', '.join(missing)}."] if (missing := [n for n in SIZES if n not in found]) else []),
        "* The default `query_price` was chosen on other splits of four of these data sets (all but Reuters).",
        "* The weight of the expected error in the gate (`HEDGE`) and the constants of the out-of-distribution score "
        "(`DIRECTIONS`, `BEGIN`, `WIDTH`) were chosen on these data sets.",
        "",
    ]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def _points(x: float) -> str:
    return f"{100 * x:+.2f}"


def _gates(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, c in found.items():
        row = [f"{name} ({c['rows']})", f"{c['before']:.1%}", f"{c['after']:.1%}"]
        for gate in GATES:
            low, high = (100 * x for x in c[gate]["interval"])
            row.append(f"{_points(c[gate]['area'])}" + (f" [{low:+.2f}, {high:+.2f}]" if gate == "learnt" else ""))
        rows.append(row)
    means = [f"**{_points(float(np.mean([c[gate]['area'] for c in found.values()])))}**" for gate in GATES]
    rows.append(["mean", "", "", *means])
    lines = ["Area above querying at random, in points:", ""]
    lines += _table(["data set (rows)", "encoder", "always", *GATES], rows)
    kept = []
    for name, c in found.items():
        low, high = c["kept30"]
        shares = [f"{c['learnt']['kept'][s]:.0%}" for s in (10, 20)]
        middle = f"**{c['learnt']['kept'][30]:.0%}** [{low:.0%}, {high:.0%}]"
        mean, *interval = c["maximum probability"]["behind"]
        behind = f"{_points(mean)} [{_points(interval[0])}, {_points(interval[1])}]"
        lost = (c["after"] - c["before"]) * (1 - c["learnt"]["kept"][30])
        figures = [f"{c['learnt']['kept'][50]:.0%}", f"{100 * lost:.1f}", f"{c['errors30']:.0%}"]
        kept.append([name, *shares, middle, *figures, behind])
    header = ["data set", "kept at 10 %", "at 20 %", "at 30 %", "at 50 %", "lost at 30 %, points"]
    lines += [
        "Share of the gain of always querying that the learnt gate keeps, and its area above that of the maximum",
        "probability. *Errors there*: the share of the encoder's errors that fall among the 30 % of the texts with the",
        "lowest confidence. The fewer errors fall there, the less a gate that sees only the encoder can recover.",
        "",
    ]
    return lines + _table([*header, "errors there", "area above maximum probability"], kept)


def _policies(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, c in found.items():
        share, accuracy = c["auto"]
        cascade = c.get("cascade")
        staged = "–" if cascade is None else f"{cascade['accuracy']:.1%} with {cascade['answers']:.2f} answers per text"
        drift = [f"{c[kind]:.0%}" for kind in ("drift", "drift without")]
        far = [f"{share:.1%}" for share in c["novel"]]
        least, ratio = "none", "–"
        if not np.isnan(c["least"]):
            least, ratio = f"{c['least']:.1%}", f"{share / c['least']:.2f}" if c["least"] else "–"
        middle, low, high = c["ratio by chance"]
        chance = f"{middle:.2f} [{low:.2f}, {high:.2f}]".replace("inf", "∞")
        cells = [name, f"{share:.1%}", f"{accuracy:.1%}", least, ratio, chance, f"{c['after']:.1%}"]
        rows.append([*cells, staged, *drift, *far])
    lines = [
        "The policy `auto` with its threshold from the fit, at the default `query_price`: 50 queries must "
        "bring one more right answer. *Least*: the smallest share, in the order of the gate, that reaches the same "
        "accuracy, chosen with hindsight; *ratio*: what `auto` queries, divided by it. *Ideal order*: that ratio if "
        "queries helped and harmed at random, at rates that fall with the gate's order: what remains is the luck of "
        "these rows (median, and the middle 95 % of 2,000 draws; ∞: no query was needed, 0: no share was as good). "
        "With several LLMs `auto` is also run as a cascade, one LLM after the other.",
        f"Drift: the share of texts of another data set that the same threshold queries ({_foreign(found)}), with "
        "the out-of-distribution score ([`training/encoder/novelty_fit.py`](../training/encoder/novelty_fit.py)) and "
        "without. The last two columns give the share of texts that score as out of distribution: held out, and from "
        "the other data set.",
        "",
    ]
    header = [
        "data set",
        "queried",
        "accuracy",
        "least",
        "ratio",
        "ideal order",
        "always",
        "cascade",
        "queried under drift",
        "without OOD score",
    ]
    return lines + _table([*header, "OOD: held out", "OOD: other data set"], rows)


def _foreign(found: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {FOREIGN[name]}" for name in found)


def _risks(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, c in found.items():
        for risk in RISKS:
            cells = [name, f"{risk:.0%}"]
            for policy in ("never", "always"):
                given, wrong, missed = c["risks"][f"{policy} {risk:g}"]
                cells += [f"{given:.0%}", f"{wrong:.1%}", f"{missed:.1%}"]
            rows.append(cells)
    header = ["data set", "`max_risk`", "encoder: answered", "wrong answers", "missed by the set"]
    lines = [
        "Risk control on the held-out rows (shares of all texts; multi-label: mean share of a text's classes missed):",
        "",
    ]
    lines += _table([*header, "always queried: answered", "wrong answers", "missed by the set"], rows)
    foreign = [
        [name, FOREIGN[name], *(f"{share:.0%}" for share in c["answered elsewhere"])] for name, c in found.items()
    ]
    lines += [
        "The guarantee needs texts like the training texts. Texts of another data set, for which no class is right: "
        f"the share that the encoder answers with `max_risk={RISKS[0]:g}`, and without the out-of-distribution score.",
        "",
    ]
    return lines + _table(["data set", "texts of", "answered", "without OOD score"], foreign)


def _budgets(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    if not found:
        return []
    rows, both = [], []
    for name, results in found.items():
        weights = [r["random"]["rows"] for r in results]
        values = [
            float(np.average([r[way][kind] for r in results], weights=weights))
            for kind in ("always", "share 0.3")
            for way in ("random", "chosen")
        ]
        both.append(values)
        rows.append([name, *(f"{v:.1%}" for v in values)])
    rows.append(["mean", *(f"**{v:.1%}**" for v in np.mean(both, axis=0))])
    header = ["data set", "always: random", "always: chosen", "30 %: random", "30 %: chosen"]
    what = "drawn at random or chosen as in `fit` (fusion: a pool of probe and LLMs)"
    lines = [f"{BUDGET} training rows scored, {what}; accuracy:", ""]
    return lines + _table(header, rows)


def _draw(found: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(3.4 * len(found), 3.4), layout="constrained")
    shares = np.linspace(0, 100, 101)
    for i, (name, c) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), i + 1)
        axes.plot(shares, [100 * a for a in c["learnt"]["curve"]], color="#0072B2", linewidth=2, label="learnt")
        simple = [100 * a for a in c["maximum probability"]["curve"]]
        axes.plot(shares, simple, color="#E69F00", linewidth=1, label="maximum probability")
        axes.plot([0, 100], [100 * c["before"], 100 * c["after"]], "--", color="#888888", linewidth=1, label="random")
        share, accuracy = c["auto"]
        axes.plot([100 * share], [100 * accuracy], "^", color="#CC79A7", markersize=7, label="auto")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("texts asked (%)")
        axes.grid(alpha=0.25)
        if i == 0:
            axes.set_ylabel("accuracy (%)")
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
