"""The tables of `docs/local-llm.md`, from the figures that `local_llm.py` keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ("names", "descriptions", "written", "suggested")
RECIPES = (
    "one template, first word",
    "one template, sum of words",
    "one template, power mean",
    "three templates, sum of words",
    "three templates, power mean",
)


def write_tables(results: dict[str, Any], names: Sequence[str], path: Path) -> None:
    """Replace what stands between `<!-- table: X -->` and `<!-- end -->` in `path` by table X."""
    parts = {name: results[name] for name in names if name in results}
    tables = {
        "words": words_table(parts),
        "recipes": recipes_table(parts),
        "strategies": strategies_table([part for key, part in results.items() if key.startswith("strategies ")]),
        "lengths": lengths_table(results.get("lengths", {})),
        "throughput": throughput_table(results.get("throughput", {})),
        "llama.cpp": llamacpp_table(results.get("llama.cpp", {})),
    }
    text = path.read_text(encoding="utf-8")
    for key in ("strategies", "lengths", "throughput"):
        if not any(name.startswith(key) for name in results):
            tables[key] = [f"Not measured yet: `python benchmarks/local_llm.py {key}`."]
    for key, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- table: {key} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (begin and end):
            raise ValueError(f"{path} has no place for the table {key!r}.")
        text = before + begin + "\n".join(lines) + "\n" + end + after
    path.write_text(text, encoding="utf-8")


def words_table(parts: dict[str, Any]) -> list[str]:
    lines = table("data set", "rows", "largest class", *WORDS, "written, no prior", "API LLM, recorded")
    for name, part in parts.items():
        figures = [part[f"{key}, prior"] for key in WORDS] + [part["written"]]
        recorded = part.get("recorded")
        lines.append(
            row(
                f"{name}/{part['split']}" + (" (multi-label)" if part["multi_label"] else ""),
                part["rows"],
                f"{part['majority']:.3f}",
                *(cell(f) for f in figures),
                f"{recorded['accuracy']:.3f} ({recorded['provider']})" if recorded else "",
            )
        )
    return lines


def recipes_table(parts: dict[str, Any]) -> list[str]:
    keys = [(r, prior) for r in RECIPES for prior in (False, True)]
    lines = table("recipe", *parts, "mean")
    for recipe, prior in keys:
        found = [part[f"{recipe}, prior" if prior else recipe]["accuracy"] for part in parts.values()]
        mean = sum(found) / max(len(found), 1)
        lines.append(row(recipe + (", prior" if prior else ""), *(f"{x:.3f}" for x in found), f"{mean:.3f}"))
    return lines


def strategies_table(parts: Sequence[dict[str, Any]]) -> list[str]:
    lines = table("prompt", *(f"{part['on']} ({part['rows']} rows)" for part in parts))
    keys = [key for key, value in parts[0].items() if isinstance(value, dict)] if parts else []
    for key in sorted(keys, key=lambda key: (not key.startswith("zero-shot"), key)):
        lines.append(row(key, *(cell(part[key]) for part in parts)))
    return lines


def lengths_table(part: dict[str, Any]) -> list[str]:
    lines = table("tokens of a text, at most", f"accuracy ({part.get('rows')} rows)", "tokens read a text")
    found = {key: value for key, value in part.items() if isinstance(value, dict)}
    for key in sorted(found, key=int):
        lines.append(row(key, cell(found[key]), f"{found[key]['tokens']:.0f}"))
    return lines


def throughput_table(part: dict[str, Any]) -> list[str]:
    lines = table("question", "prefix tokens", "way", "texts/s", "times slower")
    for key, value in part.items():
        if not isinstance(value, dict):
            continue
        best = value["this project"]
        for way, rate in value.items():
            if not way.endswith("_tokens"):
                lines.append(row(key, value["prefix_tokens"], way, f"{rate:.2f}", f"{best / rate:.1f}"))
    return lines


def llamacpp_table(part: dict[str, Any]) -> list[str]:
    heads = ("way", "texts/s", "times llama.cpp's", "CPU ms a text", f"accuracy ({part.get('rows')} rows)")
    lines = table(*heads, "same class as float32")
    for way, value in part.items():
        if isinstance(value, dict):
            low, high = value["ratios"]
            speed = (
                f"{value['rate']:.1f}",
                f"{value['ratio']:.2f} ({low:.2f} to {high:.2f})",
                f"{value['cpu_ms']:.0f}",
            )
            lines.append(row(way, *speed, cell(value), f"{value['agrees']:.1%}"))
    return lines


def cell(figures: dict[str, Any]) -> str:
    low, high = figures["interval"]
    more = f", mAP {figures['map']:.3f}" if "map" in figures else ""
    return f"{figures['accuracy']:.3f} [{low:.3f}, {high:.3f}]{more}"


def table(*heads: str) -> list[str]:
    return [row(*heads), row(*("---" for _ in heads))]


def row(*cells: Any) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"
