"""Whether a limit in dollars holds, as the server counts, and what it costs in time. A part of `scoring.py`."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from llm_server import LABELS, LLMServer

PRICE = (1.0, 4.0)  # dollars per million tokens
LIMITS = (10, 80)  # requests that the money is enough for, on average
IN_FLIGHT = (8, 48, 128)
Row = tuple[str, str, str]

_LANGUAGES = {
    "English": "No. {}: shares of the chip maker rose on Friday after the central bank left its rate unchanged.",
    "Chinese": "第{}条：央行周五宣布维持利率不变，芯片制造商的股价应声上涨，市场情绪明显好转，分析师上调了全年预期。",
}


def _skewed(text: str) -> int:
    return round(300 * random.Random(text).lognormvariate(0.0, 1.0))


def _rare(text: str) -> int:
    return 10_000 if random.Random(text).random() < 0.05 else 100


_THINKS: dict[str, Callable[[str], int]] = {
    "short answers": lambda text: 0,
    "reasoning of very different length": _skewed,
    "one in twenty 100 times longer": _rare,
}


def sweep() -> list[Row]:
    """Dollars spent as a share of what is allowed, the worst of all runs."""
    from labelfusion.scoring import build_scorer, score_texts

    rows, used = [], []
    for language, text in _LANGUAGES.items():
        for name, thinks in _THINKS.items():
            worst = []
            for in_flight in IN_FLIGHT:
                shares = []
                for requests in LIMITS:
                    texts = [text.format(f"{requests}-{in_flight}-{i}") for i in range(requests * 2 + 20)]
                    with LLMServer(thinks=thinks, latency=0.01, token_s=1e-5) as server:
                        provider: dict[str, Any] = {"model": "m", "api_base": server.url, "method": "json"}
                        provider |= {"price": PRICE, "max_concurrency": in_flight}
                        one = build_scorer({**provider, "max_concurrency": 1}, LABELS, False, cache=False)
                        score_texts([one], texts[:1])
                        prompt = server.bills[0][0]
                        answer = server.bills[0][1] - thinks(texts[0])
                        mean = prompt * PRICE[0] + (answer + statistics.fmean(map(thinks, texts))) * PRICE[1]
                        limit = requests * mean / 1e6
                        server.bills.clear()
                        scorer = build_scorer(provider, LABELS, False, cache=False)
                        score_texts([scorer], texts, max_cost_usd=limit)
                        spent, dearest = server.billed(*PRICE)
                        shares.append(spent / (limit + dearest))
                        used.append(spent / limit)
                worst.append(max(shares))
            print(language, name, worst, flush=True)
            rows.append((f"{language}, {name}", " / ".join(f"{share:.2f}" for share in worst), "<= 1"))
    return [
        *rows,
        ("least, median and most that was spent, as a share of the limit",
         f"{min(used):.2f}, {statistics.median(used):.2f}, {max(used):.2f}", ""),
    ]  # fmt: skip


def time_taken(url: str, count: int, repeats: int = 3) -> list[Row]:
    """Seconds with a limit, as a share of those without: 32 in flight, the limit far away and at twice the need."""
    from labelfusion.scoring import build_scorer, score_texts

    provider = {"model": "m", "api_base": url, "method": "json", "price": PRICE, "max_concurrency": 32}

    def seconds(requests: float | None) -> float:
        scorer = build_scorer(provider, LABELS, False, cache=False)
        texts = [_LANGUAGES["English"].format(f"{time.time_ns()} {i}") for i in range(count)]
        limit = None if requests is None else requests * one
        started = time.perf_counter()
        batch = score_texts([scorer], texts, max_cost_usd=limit)[1][0]
        assert batch.mask.all()
        return time.perf_counter() - started

    scorer = build_scorer(provider, LABELS, False, cache=False)
    one = score_texts([scorer], [_LANGUAGES["English"].format("1")])[1][0].usage.cost_usd
    found: dict[str, list[float]] = {"far away": [], "twice what is needed": []}
    for _ in range(repeats):
        free = seconds(None)
        found["far away"].append(seconds(1000.0 * count) / free)
        found["twice what is needed"].append(seconds(2.0 * count) / free)
    return [
        (f"time of {count:,} texts, 32 in flight, as a share of that without a limit: {what}",
         f"{statistics.median(shares):.2f}", "<= 1.1")
        for what, shares in found.items()
    ]  # fmt: skip


def main() -> None:
    """The sweep alone."""
    for row in sweep():
        print(" | ".join(row))


if __name__ == "__main__":
    main()
