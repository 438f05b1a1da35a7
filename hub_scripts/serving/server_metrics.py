"""What a server tells Prometheus."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ...scoring.reasons import Missing
from .day_budget import Days

if TYPE_CHECKING:
    from ...pipelines.inference import Inference

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """The metrics of one server.

    Args:
        days: Its budgets.
    """

    def __init__(self, days: Days) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Dollars(days))

        def count(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"labelfusion_{name}", text, labels, registry=registry)

        self.requests = count("requests", "Requests answered, errors too", "route", "status")
        self.texts = count("texts", "Texts classified")
        self.asked = count("asked_texts", "Texts that an LLM was queried about")
        self.missing = count("missing_answers", "Texts without a wanted LLM answer, by the kind of reason", "reason")
        self.waiting = Gauge("labelfusion_requests_in_progress", "Requests being answered", registry=registry)
        self.seconds = Histogram(
            "labelfusion_request_seconds", "Time to answer a request", ["route"], buckets=SECONDS, registry=registry
        )
        self.rounds = Histogram(
            "labelfusion_encoder_round_texts", "Texts encoded together", buckets=TEXTS, registry=registry
        )

    def add(self, inference: "Inference") -> None:
        """Count the answers to a request."""
        self.texts.inc(len(inference))
        self.asked.inc(int(inference.llm_called.sum()))
        for reason in inference.errors.values():
            self.missing.labels(str(Missing.of(reason).kind.value)).inc()

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Dollars(Collector):
    """What the LLMs cost. Answers that come after their request's deadline count, too."""

    def __init__(self, days: Days) -> None:
        self._days = days

    def collect(self) -> Iterator[Any]:
        """Read when Prometheus asks."""
        today = self._days.today()
        yield CounterMetricFamily("labelfusion_cost_usd", "US dollars that LLM answers cost", value=self._days.spent)
        yield GaugeMetricFamily("labelfusion_cost_usd_today", "US dollars spent on this day (UTC)", value=today.spent)
        yield GaugeMetricFamily("labelfusion_budget_usd_per_day", "Limit of a day in US dollars", value=today.limit)
