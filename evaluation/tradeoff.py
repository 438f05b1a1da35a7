"""Measures accuracy against cost and latency, and writes the result as CSV, JSON and a plot."""

import csv
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..pipelines.inference import run
from ..routing.gate import gate_values
from ..routing.policy import check_policy
from ..scoring.asker import Asker
from ..scoring.budget import as_budget
from .markdown import markdown_table, plain
from .metrics import is_right
from .tradeoff_curve import Expense, tradeoff_curve

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

    from ..scoring.budget import Budget
    from ..training.data import LabelledTexts

logger = logging.getLogger(__name__)

TRADEOFF_FILES = ("tradeoff.csv", "tradeoff.json", "tradeoff.png")
COLUMNS = ("point", "share", "accuracy", "low", "high", "usd_per_1000", "p50_s", "p95_s")


def measure_tradeoff(
    clf: "AutoFusionClassifier",
    data: Any,
    llm_policy: Any = "auto",
    max_cost_usd: "float | Budget | None" = None,
    latency_rows: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Query the LLMs about every row, then compute the results of fewer queries; see `AutoFusionClassifier.tradeoff`.

    Raises:
        ValueError: For a model without LLMs, or data without labels.
    """
    config = clf.model_.config
    policy = check_policy(llm_policy)
    if not config.num_providers:
        raise ValueError("The trade-off is between querying an LLM and not; this model was made without LLMs.")
    table = clf._prepare_measured(data)
    assert table.labels is not None
    scores, costs, seconds, spent = _ask_everything(clf, table, max_cost_usd, latency_rows, seed)
    sample = _sample(len(table), latency_rows, seed)
    encoder_s = _timed(clf, [table.texts[i] for i in sample])
    known: dict[str, Any] = {"llm_scores": scores, **clf.encoding_options()}
    with _recorded(config):
        full = run(clf.model_, clf.tokenizer_, table.texts, llm_policy="always", **known)
        chosen = run(clf.model_, clf.tokenizer_, table.texts, llm_policy=policy, **known)
    settings = (table.labels, config.decision_rule)
    probs, novelty = full.encoder_probabilities, full.novelty
    values, _ = gate_values(probs, config.calibration, config.multi_label, novelty=novelty)
    heard = chosen.answered
    point: dict[str, Any] = {"right": is_right(chosen.probabilities, *settings), "asked": heard.any(axis=1)}
    llm_s = None
    if costs is not None:
        point["cost_usd"] = np.where(heard, costs, 0.0).sum(axis=1)
    if seconds is not None:
        llm_s = seconds.max(axis=1)  # LLMs are queried in parallel; in a cascade, one after the other
        waits = np.where(heard, np.resize(seconds, (len(table), seconds.shape[1])), 0.0)
        point["llm_s"] = waits.sum(axis=1) if policy == "auto" else waits.max(axis=1)
    found = tradeoff_curve(
        values,
        is_right(full.encoder_probabilities, *settings),
        is_right(full.probabilities, *settings),
        Expense(encoder_s, llm_s, None if costs is None else costs.sum(axis=1)),
        {f"policy {policy}": point},
        seed=seed,
    )
    answered = float(full.answered.any(axis=1).mean())
    return {
        **found,
        "llm_policy": policy,
        "metric": "exact match" if config.multi_label else "accuracy",
        "answered": answered,
        "cost_usd": spent,
        "latency_rows": 0 if seconds is None else len(seconds),
    }


def _sample(count: int, size: int, seed: int) -> NDArray[np.intp]:
    return np.sort(np.random.default_rng(seed).permutation(count)[: max(size, 1)])


def _timed(clf: "AutoFusionClassifier", texts: list[str]) -> NDArray[np.float64]:
    """Seconds that the encoder takes for each text, one text at a time."""
    run(clf.model_, clf.tokenizer_, texts[:1], llm_policy="never")  # the first forward pass is slower
    seconds = []
    for text in texts:
        started = time.perf_counter()
        run(clf.model_, clf.tokenizer_, [text], llm_policy="never", **clf.encoding_options())
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)


def _ask_everything(
    clf: "AutoFusionClassifier",
    table: "LabelledTexts",
    max_cost_usd: "float | Budget | None",
    latency_rows: int,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64] | None, NDArray[np.float64] | None, float]:
    """Query every LLM about every row.

    Returns scores `(n, P, K)`, US dollars `(n, P)`, seconds `(m, P)`, and the US dollars spent now. Dollars or seconds
    are None if nothing was queried. An answer from the store is counted at the cost of the other answers.
    """
    config = clf.model_.config
    n = len(table)
    scores = np.full((n, config.num_providers, config.num_labels), np.nan, dtype=np.float32)
    if table.llm_scores is not None:
        scores = table.llm_scores.copy()
    unscored: NDArray[np.bool_] = ~(~np.isnan(scores).any(axis=2)).any(axis=1)  # type: ignore
    open_ = np.flatnonzero(unscored & np.array([bool(text.strip()) for text in table.texts]))
    budget = as_budget(max_cost_usd)
    fresh = Asker(config, clf._scorers(cache=False), budget)
    asked = fresh.providers if len(open_) else []
    if not asked:
        return scores, None, None, 0.0
    sample = open_[_sample(len(open_), latency_rows, seed)] if latency_rows else open_[:0]
    costs, seconds = np.zeros((n, config.num_providers)), np.zeros((len(sample), config.num_providers))
    for i, row in enumerate(sample):
        for p in asked:
            started = time.perf_counter()
            answers = fresh.submit([table.texts[row]], only=p).result()
            seconds[i, p] = time.perf_counter() - started
            scores[row, p], costs[row, p] = answers.scores[0, p], answers.cost_usd[0]
    rest = np.setdiff1d(open_, sample)
    asker = Asker(config, clf._scorers, budget, progress=clf.shows_progress)
    for p in asked if len(rest) else []:
        answers = asker.submit([table.texts[i] for i in rest], only=p).result()
        scores[rest, p], costs[rest, p] = answers.scores[:, p], answers.cost_usd
        if len(sample):
            stored = rest[(answers.cost_usd == 0) & ~np.isnan(answers.scores[:, p]).any(axis=1)]
            costs[stored, p] = costs[sample, p].mean()
    return scores, costs, seconds if len(sample) else None, fresh.spent + asker.spent


@contextmanager
def _recorded(config: LabelFusionConfig) -> Iterator[None]:
    """Use the existing scores only for the rows that the policy would have queried."""
    declared = config.llm_providers
    config.llm_providers = [{**provider, "method": "recorded"} for provider in declared]
    try:
        yield
    finally:
        config.llm_providers = declared


def write_tradeoff(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write the points as CSV and JSON and, if matplotlib is installed, the plot; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in TRADEOFF_FILES[:2]]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for kind in ("curve", "random"):
            writer.writerows([kind, *(point.get(name) for name in COLUMNS[1:])] for point in found[kind])
        writer.writerows([n, *(point[name] for name in COLUMNS[1:])] for n, point in found["points"].items())
    paths[1].write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    try:
        from .plots import save_tradeoff
    except ImportError as error:
        logger.warning("No plot: %s. `pip install labelfusion-transformers[plot]` brings matplotlib.", error)
        return paths
    return [*paths, save_tradeoff(found, folder / TRADEOFF_FILES[2])]


def tradeoff_table(found: dict[str, Any]) -> str:
    """The named points, and the curve at 10, 30 and 50 %, as Markdown."""
    curve = {f"share {p['share']:.1f}": p for p in found["curve"] if round(p["share"], 2) in (0.1, 0.3, 0.5)}
    points = sorted({**found["points"], **curve}.items(), key=lambda item: item[1]["share"])
    rows = [
        [
            plain(name),
            f"{p['share']:.1%}",
            f"{p['accuracy']:.1%} [{100 * p['low']:.1f}, {100 * p['high']:.1f}]",
            "–" if p["usd_per_1000"] is None else f"{p['usd_per_1000']:.4f}",
            *("–" if p[q] is None else f"{1000 * p[q]:.0f} ms" for q in ("p50_s", "p95_s")),
        ]
        for name, p in points
    ]
    header = ["LLM queried", "Texts", found["metric"].capitalize(), "$ per 1,000 texts", "p50", "p95"]
    return markdown_table(header, rows)
