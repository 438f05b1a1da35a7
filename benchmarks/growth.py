"""How time and memory grow with rows, classes and LLMs: `fit` with a frozen encoder, and `predict`.

    python benchmarks/growth.py [--data ../shared/data] [--runs 3] [--write]

Texts of AG News; the classes are clusters of their words, as many as wanted. The LLMs are recorded and right in three
of four rows. Each measurement is a process of its own: seconds of all cores, and what the peak of the memory grew by
over that of a process that has loaded the encoder. `--write` puts tables and picture into `docs/performance.md`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
PAGE, PICTURE = HERE.parent / "docs/performance.md", HERE.parent / "docs/growth.png"
START, END = "<!-- Growth: benchmarks/growth.py -->\n", "<!-- end of Growth -->\n"
ROWS, CLASSES, LLMS = 1000, 4, 1  # where not varied
VARIED: dict[str, tuple[int, ...]] = {
    "rows": (100, 1000, 10_000),
    "classes": (2, 8, 32, 128, 500),
    "llms": (1, 2, 4, 8),
}
NAMES = {"llms": "LLMs"}  # of what varies
CLASS_ROWS = 4000  # when classes vary: eight rows for each of 500
MAX_LENGTH = 32  # tokens kept of a text, so that what is not the encoder shows


def made_classes(texts: list[str], classes: int) -> NDArray[np.int64]:
    """int64 `(n,)`: the cluster of each text among `classes`, by its words."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(min_df=2, stop_words="english").fit_transform(texts)
    points = TruncatedSVD(64, random_state=0).fit_transform(words)
    found = MiniBatchKMeans(classes, n_init=1, random_state=0).fit_predict(points)
    return np.asarray(np.unique(found, return_inverse=True)[1], dtype=np.int64)


def recorded(labels: NDArray[np.int64], classes: int, llms: int) -> NDArray[np.float32]:
    """float32 `(n, llms, K)`: each LLM gives 0.8 to the right class in three of four rows, else to another."""
    rng = np.random.default_rng(0)
    scores = np.full((len(labels), llms, classes), 0.2 / max(classes - 1, 1), dtype=np.float32)
    for p in range(llms):
        answer = np.where(rng.random(len(labels)) < 0.75, labels, rng.integers(0, classes, len(labels)))
        scores[np.arange(len(labels)), p, answer] = 0.8
    return scores


def seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """Peak of the resident memory since it was last set back."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def child(settings: dict[str, Any]) -> dict[str, float]:
    """One fit and one prediction in this process."""
    import pandas as pd
    from transformers.utils import logging as transformers_logging

    from labelfusion import AutoFusionClassifier

    transformers_logging.disable_progress_bar()
    table = pd.read_parquet(Path(settings["data"]) / "ag_news/train.parquet", columns=["text"])
    texts = table["text"].sample(max(settings["rows"], 2000), random_state=0).tolist()
    index = made_classes(texts, settings["classes"])[: settings["rows"]]
    texts, names = texts[: settings["rows"]], [f"class {k}" for k in range(int(index.max()) + 1)]
    scores = recorded(index, len(names), settings["llms"])
    llms: list[Any] = [{"model": "recorded", "name": f"llm {p}"} for p in range(settings["llms"])]
    options: Any = {"encoder_training": "probe", "max_length": MAX_LENGTH, "progress": False}
    warm = AutoFusionClassifier(settings["encoder"], llms, names, **options)  # imports, weights
    rows = pd.DataFrame({"text": texts, "label": [names[i] for i in index], "llm_scores": scores.tolist()})
    warm.fit(rows[:64])
    before = peak_mb()
    reset_peak()
    clf = AutoFusionClassifier(settings["encoder"], llms, names, **options)
    began = seconds()
    clf.fit(rows)
    fitted, fit_mb = seconds(), peak_mb()
    reset_peak()
    clf.predict_proba(texts, llm_scores=scores)
    done, predict_mb = seconds(), peak_mb()
    return {
        "fit": fitted - began,
        "predict": done - fitted,
        "fit_mb": max(fit_mb - before, 0),
        "predict_mb": max(predict_mb - before, 0),
    }


def measured(settings: dict[str, Any], runs: int) -> dict[str, float]:
    """Medians over `runs` processes."""
    found = []
    for _ in range(runs):
        command = [sys.executable, __file__, "--child", json.dumps(settings)]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        if out.returncode:
            raise RuntimeError(out.stderr[-2000:])
        found.append(json.loads(out.stdout.splitlines()[-1]))
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def table(what: str, lines: dict[int, dict[str, float]]) -> list[str]:
    """Markdown; `fit` and `predict` in total and for each unit of what varies beyond the line before."""
    heads = [what, "fit, CPU s", "growth", "predict, CPU s", "growth", "fit, MB", "predict, MB"]
    out = ["| " + " | ".join(heads) + " |", "|" + " --: |" * len(heads)]
    last: tuple[int, dict[str, float]] | None = None
    for size, now in lines.items():
        cells = [f"{size:,}"]
        for key in ("fit", "predict"):
            cells.append(f"{now[key]:.1f}")
            cells.append(f"x {now[key] / last[1][key]:.1f} for x {size / last[0]:.2g}" if last else "")
        out.append("| " + " | ".join([*cells, f"{now['fit_mb']:.0f}", f"{now['predict_mb']:.0f}"]) + " |")
        last = size, now
    return out


def beyond_linear(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """The step whose time grew most, against what varied."""
    steps = [
        (now[key] / before[key] / (size / least), f"`{key}` from {least:,} to {size:,} {NAMES.get(what, what)}")
        for what, lines in results.items()
        for (least, before), (size, now) in pairwise(lines.items())
        for key in ("fit", "predict")
    ]
    most, where = max(steps)
    return f"Time against linear growth: at most x {most:.2f} ({where})."


def draw(results: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Seconds against what varies, both axes logarithmic, with the slope of linear growth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (what, lines) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        sizes = list(lines)
        for key, marker in (("fit", "o"), ("predict", "s")):
            axes.plot(sizes, [lines[size][key] for size in sizes], marker=marker, label=key)
        top = lines[sizes[-1]]["fit"]
        axes.plot(sizes, [top * size / sizes[-1] for size in sizes], color="0.7", linestyle="--", label="linear")
        axes.set(xscale="log", yscale="log", xlabel=NAMES.get(what, what), ylabel="seconds of all cores")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def write(results: dict[str, dict[int, dict[str, float]]], args: argparse.Namespace) -> None:
    """Print the tables; with `--write`, put them and the picture into the page."""
    lines = [
        START + "## Growth",
        "",
        f"`python benchmarks/growth.py --runs {args.runs} --write`: `fit` with a frozen encoder (`{args.encoder}`,",
        f"{MAX_LENGTH} tokens of a text) and `predict` on the same rows, {os.cpu_count()} CPU cores, medians. Where",
        f"not varied: {ROWS:,} rows, {CLASSES} classes, {LLMS} LLM; {CLASS_ROWS:,} rows where classes vary. Memory:",
        "growth of the peak over a process that has fitted 64 rows.",
        "",
        "![Time against rows, classes and LLMs](growth.png)",
        "",
        beyond_linear(results) + " Below some hundred rows, and a hundred",
        "classes, what every fit does outweighs. Memory grows with the classes because the heads over words have",
        "a column of some 60,000 numbers for each.",
    ]
    for what, found in results.items():
        lines += ["", *table(NAMES.get(what, what), found)]
    print("\n".join(lines))
    if args.write:
        draw(results, PICTURE)
        page = PAGE.read_text(encoding="utf-8")
        if START in page:
            page = page[: page.index(START)] + page[page.index(END) + len(END) :]
        PAGE.write_text(page.rstrip() + "\n\n" + "\n".join(lines) + "\n" + END, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child)))
        return
    args.cache.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[int, dict[str, float]]] = {}
    for what, sizes in VARIED.items():
        for size in sizes:
            settings = {"rows": CLASS_ROWS if what == "classes" else ROWS, "classes": CLASSES, "llms": LLMS, what: size}
            given = {**settings, "data": str(args.data.resolve()), "encoder": args.encoder}
            results.setdefault(what, {})[size] = measured(given, args.runs)
            print(what, size, results[what][size], flush=True)
    write(results, args)


if __name__ == "__main__":
    main()
