"""Accuracy against cost and latency for each share of queried texts, with intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..routing.gate import SHARES
from .statistics import NUM_RESAMPLES, bootstrap_means, percentile_interval

CURVE = SHARES[::5]  # 0, 5 %, ... 100 %


def gain_curve(values: NDArray[np.floating], gain: NDArray[np.floating]) -> NDArray[np.float64]:
    """float64 `(101,)`: mean gain over all n rows if the top share 0, 0.01, ... 1 by `values` is queried."""
    if len(values) == 0:
        return np.zeros(len(SHARES))
    total = np.concatenate([[0.0], np.cumsum(gain[np.argsort(-values, kind="stable")])]) / len(values)
    return np.asarray(np.interp(SHARES, np.arange(len(total)) / len(values), total))


def gate_area(values: NDArray[np.floating], gain: NDArray[np.floating]) -> float:
    """Mean of the gain curve minus that of querying random rows, in accuracy."""
    return float(gain_curve(values, gain).mean() - gain.mean() / 2) if len(gain) else 0.0


@dataclass
class Expense:
    """What queries cost, in money and time.

    Args:
        encoder_s: float `(m,)`: seconds that the encoder takes for one text.
        llm_s: float `(m,)`: seconds that the LLMs take for one text; `None` if unknown.
        cost_usd: float `(n,)`: US dollars of the queries for each row; `None` if unknown.
    """

    encoder_s: NDArray[np.floating]
    llm_s: NDArray[np.floating] | None = None
    cost_usd: NDArray[np.floating] | None = None


def tradeoff_curve(
    values: NDArray[np.floating],
    encoder_right: NDArray[np.bool_],
    fused_right: NDArray[np.bool_],
    expense: Expense,
    policies: dict[str, dict[str, NDArray[Any]]] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The curve from the encoder alone to querying every text, with policies as extra points.

    Args:
        values: float `(n,)`: the gate's value of each row.
        encoder_right: bool `(n,)`: whether the encoder alone is correct.
        fused_right: bool `(n,)`: whether the fusion with all LLM answers is correct.
        expense: Dollars and seconds of a query.
        policies: By name, `right` bool `(n,)`, `asked` bool `(n,)` and, if known, `cost_usd` float `(n,)`
            and `llm_s` float `(n,)`.
        num_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        `rows`; `curve` and `random`, lists of points at 0, 5, ... 100 % queried; `points`, by name; `area`: the mean of
        the curve minus the curve of random queries, in accuracy. A point has `share`, `accuracy` with its 95 % interval
        `low` and `high`, `usd_per_1000`, `p50_s` and `p95_s`, None if unknown.
    """
    n = len(values)
    order = np.argsort(-values, kind="stable")
    rank = np.empty(n, dtype=int)
    rank[order] = np.arange(n)
    options: list[tuple[str, NDArray[np.bool_], NDArray[Any], Any, Any]] = []
    llm = None if expense.llm_s is None or not len(expense.llm_s) else np.resize(expense.llm_s, n)
    for share in CURVE:
        asked = rank < round(share * n)
        options.append(("", asked, np.where(asked, fused_right, encoder_right), expense.cost_usd, llm))
    for name, entry in (policies or {}).items():
        cost = entry.get("cost_usd")
        options.append((name, entry["asked"], entry["right"], cost, entry.get("llm_s")))
    sampled = bootstrap_means(np.stack([o[2] for o in options], axis=1).astype(float), num_resamples, seed)
    points: list[dict[str, float | None]] = []
    for i, (_, asked, right, cost, seconds) in enumerate(options):
        low, high = percentile_interval(sampled[:, i])
        usd = None
        if cost is not None or not asked.any():
            usd = float(np.where(asked, 0.0 if cost is None else cost, 0.0).mean() * 1000)
        point: dict[str, float | None] = {"share": float(asked.mean()), "accuracy": float(right.mean())}
        point |= {"low": low, "high": high, "usd_per_1000": usd}
        together = bool(asked.all())  # encoder and LLMs start together only if every row is queried
        point |= _latency(np.resize(expense.encoder_s, n), asked, seconds, together)
        points.append(point)
    first, last = points[0], points[len(CURVE) - 1]
    line = [{k: _between(first[k], last[k], s) for k in ("share", "accuracy", "usd_per_1000")} for s in CURVE]
    named = {"encoder only": first, "always": last}
    named |= dict(zip((policies or {}), points[len(CURVE) :], strict=True))
    gain = fused_right.astype(float) - encoder_right
    return {
        "rows": n,
        "curve": points[: len(CURVE)],
        "random": line,
        "points": named,
        "area": round(gate_area(values, gain), 5),
    }


def _latency(
    encoder_s: NDArray[np.floating], asked: NDArray[np.bool_], llm_s: NDArray[np.floating] | None, together: bool
) -> dict[str, float | None]:
    if asked.any() and llm_s is None:
        return {"p50_s": None, "p95_s": None}
    waits = np.zeros(len(asked)) if llm_s is None else np.where(asked, llm_s, 0.0)
    total = np.maximum(encoder_s, waits) if together else encoder_s + waits
    p50, p95 = np.quantile(total, [0.5, 0.95])
    return {"p50_s": float(p50), "p95_s": float(p95)}


def _between(first: float | None, last: float | None, share: float) -> float | None:
    return None if first is None or last is None else float(first + share * (last - first))
