"""The client: concurrency, retries, limits, budgets, interruption."""

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from forked import Popen
from labelfusion.configuration import LLMProvider
from labelfusion.scoring import ScoringError, ascore_texts, build_scorer, run_sync, score_texts, submit
from labelfusion.scoring.providers.endpoints import resolve
from labelfusion.scoring.providers.pricing import Price, find_price, read_usage
from labelfusion.scoring.providers.request_error import retry_after
from labelfusion.scoring.score_batch import ScoreBatch
from labelfusion.scoring.session.limits import Slots
from labelfusion.scoring.session.progress import Progress
from llm_server import LABELS, LLMServer, truth

TEXTS = [f"a text with the number {i}" for i in range(60)]
KEY = "sk-" + "0123456789abcdef" * 2


def scorer(server: LLMServer, *, cache: bool = False, failure_limit: int = 20, **fields: Any) -> Any:
    provider = {"model": "m", "api_base": server.url, "method": "json", **fields}
    return build_scorer(provider, LABELS, False, cache=cache, failure_limit=failure_limit)


def score(server: LLMServer, texts: list[str] = TEXTS, max_cost_usd: float | None = None, **fields: Any) -> ScoreBatch:
    return score_texts([scorer(server, **fields)], texts, max_cost_usd=max_cost_usd)[1][0]


# --- Concurrency and limits ------------------------------------------------------------------------------------------


def test_requests_run_concurrently_up_to_the_limit() -> None:
    with LLMServer(latency=0.6) as server:
        score(server, TEXTS[:1])  # imports the client
        started = time.monotonic()
        score(server, TEXTS[1:], max_concurrency=20)
        assert server.peak == 20
        assert time.monotonic() - started < 59 * 0.6 / 2


def test_the_limit_holds_for_calls_at_the_same_time() -> None:
    with LLMServer(latency=0.05) as server:
        shared = scorer(server, max_concurrency=4)
        futures = [submit(shared.score([f"{i} {j}" for j in range(10)])) for i in range(5)]
        assert all(f.result().errors == {} for f in futures)
        assert server.peak == 4


def test_calls_at_the_same_time_share_their_questions() -> None:
    with LLMServer(latency=0.1) as server:
        shared = scorer(server, cache=False)
        futures = [submit(shared.score(TEXTS)) for _ in range(3)]
        for future in futures:
            np.testing.assert_allclose(future.result().scores, [truth(t, LABELS) for t in TEXTS], atol=1e-6)
        assert server.requests == len(TEXTS)


def test_a_question_whose_asker_gave_up_is_asked_by_the_next() -> None:
    with LLMServer(latency=0.3) as server:
        shared = scorer(server)
        first = submit(shared.score(TEXTS[:5]))
        time.sleep(0.1)
        second = submit(shared.score(TEXTS[:5]))
        time.sleep(0.1)
        first.cancel()
        assert second.result(10).errors == {}


@pytest.mark.parametrize("limits", [{"requests_per_minute": 600}, {"tokens_per_minute": 600 * 126}])
def test_rate_limits_spread_requests(limits: dict[str, float]) -> None:
    with LLMServer() as server:
        score(server, TEXTS[:8], max_concurrency=1, **limits)  # one by one: none catches up with one that is late
        assert server.times[-1] - server.times[0] > 0.55  # gaps of a tenth of a second


def test_several_providers_at_once() -> None:
    with LLMServer(latency=1.0) as a, LLMServer(latency=1.0, seed=1) as b:
        scores, batches = score_texts([scorer(a), scorer(b, method="json", name="other")], [*TEXTS[:8], TEXTS[0]])
        assert scores.shape == (9, 2, 4)
        assert scores.dtype == np.float32
        np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
        assert [len(batch.scores) for batch in batches] == [9, 9]
        assert (a.requests, b.requests) == (8, 8)
        assert max(a.times[0], b.times[0]) < 1.0 + min(a.times[-1], b.times[-1])  # before the others are answered


def test_disagreeing_scorers_are_refused() -> None:
    one = build_scorer("recorded", ["a", "b"], False)
    other = build_scorer("recorded", ["b", "a"], False)
    with pytest.raises(ValueError, match="recorded scores"):
        score_texts([one, other], ["x"])
    scores, batches = score_texts([], ["x", "y"])
    assert (scores.shape, batches) == ((2, 0, 0), [])


# --- Retries ---------------------------------------------------------------------------------------------------------


def test_retry_after_is_honoured() -> None:
    with LLMServer(faults={"429": 0.4}, retry_after=0.3) as server:
        batch = score(server, TEXTS[:20], max_concurrency=1)
        assert batch.errors == {}
        assert server.injected["429"] > 4
        assert server.requests == 20 + server.injected["429"]
        assert (np.diff(server.times) > 0.29).sum() >= server.injected["429"]


def test_a_long_wait_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """300 seconds are what it says: an attempt after 30 would be refused again, until there are none left."""
    waits: list[float] = []

    def pause(slots: Any, seconds: float) -> bool:
        waits.append(seconds)
        return True

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("labelfusion.scoring.session.limits.Slots.pause", pause)
    monkeypatch.setattr("labelfusion.scoring.api.client.asyncio", SimpleNamespace(sleep=sleep))
    with LLMServer(faults={"429": 1.0}, retry_after=300) as server:
        batch = score(server, TEXTS[:1], max_concurrency=1)
    assert server.requests == 20
    assert "20 attempts" in batch.errors[0]
    assert len(waits) == 2 * 19
    assert all(300 <= wait <= 301 for wait in waits)
    assert "asks to wait for 300 seconds" in caplog.text


def test_a_wait_of_a_day_is_the_reason_of_a_missing_answer() -> None:
    with LLMServer(faults={"429": 1.0}, retry_after=86400) as server:
        batch = score(server, TEXTS[:1])
    assert server.requests == 1
    assert batch.errors[0] == "HTTP 429 rate_limit_exceeded, to be sent again in 86400 s"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "3"}, 3.0), ({"retry-after-ms": "250"}, 0.25), ({}, None), ({"retry-after": "soon"}, None)],
)
def test_retry_after_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    from email.utils import formatdate

    assert retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) == pytest.approx(10, abs=2)
    assert retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0.0


def test_hanging_requests_are_given_up() -> None:
    with LLMServer(faults={"hang": 0.3}) as server:
        batch = score(server, TEXTS[:20], timeout_s=0.3)
        assert server.injected["hang"] > 0
        assert batch.errors == {}


def test_the_failure_limit_stops_a_run_early(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelfusion.scoring.api import client

    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.001)
    with LLMServer(status=500) as server, caplog.at_level(logging.WARNING):
        batch = score(server, [f"text {i}" for i in range(500)], failure_limit=5, max_concurrency=4)
        assert len(batch.errors) == 500
        assert server.requests <= 6 * (5 + 6)  # six workers for four on the wire
        assert "5 texts in a row without a usable answer, the last: HTTP 500 forced, 6 attempts" in caplog.text
        assert sum("HTTP 500" in reason and "row" not in reason for reason in batch.errors.values()) <= 11


def test_a_useless_model_stops_early_too() -> None:
    with LLMServer(faults={"prose": 1.0}) as server:
        batch = score(server, [f"text {i}" for i in range(500)], failure_limit=10, max_concurrency=8)
        assert server.requests <= 10 + 12  # twelve workers for eight on the wire
        assert len(batch.errors) == 500


def test_refusals_do_not_stop_a_run() -> None:
    with LLMServer(faults={"refusal": 1.0}) as server:
        batch = score(server, failure_limit=5)
        assert set(batch.errors.values()) == {"refused"}
        assert server.requests == len(TEXTS)


def test_what_was_paid_before_the_breakdown_comes_with_the_error() -> None:
    with LLMServer(latency=0.1) as server:

        def breaks_down() -> None:  # when some answers are paid, however busy the machine is
            while len(server.paid) < 6:
                time.sleep(0.01)
            server.status = 402

        one = scorer(server, max_concurrency=4)
        score_texts([one], ["warm"])
        threading.Thread(target=breaks_down, daemon=True).start()
        with pytest.raises(ScoringError, match="may not use") as caught:
            score_texts([one], TEXTS)
        batch = caught.value.batch
        assert batch is not None
        assert batch.mask.sum() == len(server.paid) - 1 > 3
        assert batch.usage.requests == batch.mask.sum()
        assert len(batch.errors) == 60 - batch.mask.sum()


def test_votes_that_are_paid_count_where_the_money_ends_between_two() -> None:
    with LLMServer() as server:
        fields: dict[str, Any] = {"method": "vote", "votes": 3, "price": (1000.0, 1000.0)}
        whole = score(server, ["a text"], **fields).usage
        assert whole.requests == 3
        batch = score(server, ["a text"], max_cost_usd=0.9 * whole.cost_usd, **fields)
        assert batch.mask.all()
        assert 0 < batch.usage.requests < 3
        assert batch.usage.cost_usd == pytest.approx(whole.cost_usd * batch.usage.requests / 3)


def test_one_call_finds_the_method_for_all() -> None:
    with LLMServer(latency=0.05) as server:
        one = scorer(server, method="auto")

        async def together() -> list[ScoreBatch]:
            return list(await asyncio.gather(*(one.score([text]) for text in TEXTS)))

        assert all(batch.mask.all() for batch in run_sync(together()))
        assert server.requests < 60 + 6


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "a key is required"), (403, "may not use"), (404, "no model 'm'"), (402, "may not use")],
)
def test_what_cannot_work_is_an_error_at_once(status: int, message: str) -> None:
    with LLMServer(status=status) as server, pytest.raises(ScoringError, match=message):
        score(server, max_concurrency=4)
    assert server.requests <= 4


@pytest.mark.skipif(find_spec("litellm") is None, reason="needs litellm")
def test_what_cannot_work_through_litellm_holds_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(Slots, "pause", lambda slots, seconds: paused.append(seconds))
    with LLMServer(status=401) as server:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", server.url)
        llm = {"model": "hosted_vllm/m", "method": "json", "max_concurrency": 4}
        one = build_scorer(llm, LABELS, False, cache=False)
        with pytest.raises(ScoringError, match="the key was refused"):
            score_texts([one], TEXTS)
    assert server.requests <= 4
    assert paused


def test_a_method_that_is_not_offered_is_an_error() -> None:
    with LLMServer() as server, pytest.raises(ScoringError, match=r"offers no decisions.*method='auto'"):
        score(server, method="decision")


# --- Money -----------------------------------------------------------------------------------------------------------


def test_tokens_and_dollars_are_counted() -> None:
    with LLMServer() as server:
        batch = score(server, price=(2.0, 10.0))
        assert batch.usage.prompt_tokens == server.tokens[0]
        assert batch.usage.completion_tokens == server.tokens[1]
        assert batch.usage.cost_usd == pytest.approx((server.tokens[0] * 2 + server.tokens[1] * 10) / 1e6)


def test_cached_tokens_are_cheaper_and_decisions_bill_no_answer() -> None:
    price = Price(input=2e-6, output=10e-6, cached=0.5e-6)
    chat = {"usage": {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 800}}}
    assert read_usage(chat, price, (0, 0)).cost_usd == pytest.approx(200 * 2e-6 + 800 * 0.5e-6 + 10 * 10e-6)
    deepseek = {"usage": {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_cache_hit_tokens": 800}}
    assert read_usage(deepseek, price, (0, 0)) == read_usage(chat, price, (0, 0))
    decision = {"answers": [], "usage": {"input_tokens": 1000, "output_tokens": 10}}
    assert read_usage(decision, price, (0, 0)).cost_usd == pytest.approx(1000 * 2e-6)
    assert read_usage(chat, None, (0, 0)).cost_usd == 0


def test_a_server_without_usage_figures_is_estimated() -> None:
    with LLMServer(usage=False) as server:
        batch = score(server, price=(2.0, 10.0))
        assert 60 * 80 < batch.usage.prompt_tokens < 60 * 160
        assert batch.usage.cost_usd > 0


@pytest.mark.parametrize("concurrency", [1, 16])
def test_the_budget_is_a_hard_stop(concurrency: int) -> None:
    with LLMServer(latency=0.01) as server:
        one = score(server, TEXTS[:1], price=(2.0, 10.0)).usage.cost_usd
        limit = 20.5 * one
        batch = score(server, max_cost_usd=limit, price=(2.0, 10.0), max_concurrency=concurrency)
        assert batch.usage.cost_usd <= limit + concurrency * one
        assert 10 <= batch.mask.sum() < 40
        left = [reason for reason in batch.errors.values() if reason == f"budget of ${limit:g} reached"]
        assert len(left) == (~batch.mask).sum()


def test_the_budget_is_shared_by_all_providers() -> None:
    with LLMServer() as server:
        one = score(server, TEXTS[:1], price=(2.0, 10.0)).usage.cost_usd
        before = server.requests
        scorers = [scorer(server, price=(2.0, 10.0), name=str(i), max_concurrency=1) for i in range(3)]
        _, batches = score_texts(scorers, TEXTS, max_cost_usd=30 * one)
        assert sum(b.usage.cost_usd for b in batches) <= 33 * one
        assert 20 <= server.requests - before <= 33


def test_a_budget_needs_a_price() -> None:
    scorer = build_scorer({"model": "somewhere/unheard-of", "method": "json"}, LABELS, False, cache=False)
    with pytest.raises(ScoringError, match=r"give `price=\(input, output\)`"):
        score_texts([scorer], TEXTS, max_cost_usd=1.0)


def test_prices_come_from_the_price_list() -> None:
    pytest.importorskip("litellm")
    for model in ("openai/gpt-5-nano", "openai", "gemini", "deepseek", "anthropic/claude-haiku-4-5"):
        provider = LLMProvider(model)
        price = find_price(provider, resolve(provider))
        assert price is not None, model
        assert 0 < price.input < price.output < 1e-4


def test_estimates_are_near_what_is_paid(tmp_path: Path) -> None:
    from labelfusion.scoring.api.cost_estimate import estimate

    with LLMServer() as server:
        provider = {"model": "m", "api_base": server.url, "method": "json", "price": (1.0, 2.0)}
        one = build_scorer(provider, LABELS, False, store=tmp_path / "s.sqlite")
        score_texts([one], TEXTS[:20])
        before = server.requests
        needs = run_sync(estimate(one, [*TEXTS, TEXTS[0], " "]))  # type: ignore[arg-type]
        assert server.requests == before
        assert (needs.texts, needs.cached, needs.requests) == (60, 20, 40)
        batch = score_texts([one], TEXTS)[1][0]
        assert batch.usage.requests == 40
        assert needs.cost_usd is not None
        assert needs.cost_usd == pytest.approx(batch.usage.cost_usd, rel=0.6)


# --- Running loops, interruption, progress ---------------------------------------------------------------------------


def test_it_works_where_a_loop_is_running() -> None:
    with LLMServer() as server:
        shared = scorer(server)

        async def notebook() -> Any:
            inside = score_texts([shared], TEXTS[:3])[0]  # blocking, as in a notebook cell
            awaited = (await ascore_texts([shared], TEXTS[3:6]))[0]  # on the caller's own loop
            return np.concatenate([inside, awaited])

        scores = asyncio.run(notebook())
        np.testing.assert_allclose(scores[:, 0], [truth(t, LABELS) for t in TEXTS[:6]], atol=1e-6)
        assert score_texts([shared], TEXTS[6:8])[1][0].errors == {}


def test_waiting_on_the_own_loop_is_refused() -> None:
    async def inside() -> None:
        run_sync(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await the coroutine"):
        submit(inside()).result(5)


def test_many_threads_share_one_scorer() -> None:
    with LLMServer() as server:
        shared = scorer(server)
        results: dict[int, Any] = {}

        def work(i: int) -> None:
            results[i] = score_texts([shared], [f"{i} {j}" for j in range(10)])[0]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for i in range(8):
            np.testing.assert_allclose(results[i][:, 0], [truth(f"{i} {j}", LABELS) for j in range(10)], atol=1e-6)


SCRIPT = """
import signal, sys
from labelfusion.scoring import build_scorer, score_texts
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background is started deaf to it
url, store = sys.argv[1:]
scorer = build_scorer({"model": "m", "api_base": url, "method": "json", "max_concurrency": 8},
                      ["World", "Sports", "Business", "Sci/Tech"], False, store=store)
try:
    score_texts([scorer], [f"text {i}" for i in range(400)])
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_loses_only_what_was_in_flight(tmp_path: Path, how: signal.Signals) -> None:
    store = tmp_path / "s.sqlite"
    with LLMServer(latency=0.05) as server:
        command = [sys.executable, "-c", SCRIPT, server.url, str(store)]
        process = Popen(command, stdout=subprocess.PIPE, text=True)
        while server.requests < 60:
            time.sleep(0.01)
        process.send_signal(how)
        on_the_wire = 8 + server.just_delivered()
        assert process.communicate(timeout=60)[0] == ("interrupted\n" if how == signal.SIGINT else "")
        paid = len(server.paid)
        assert 40 <= paid < 300
        provider = {"model": "m", "api_base": server.url, "method": "json", "max_concurrency": 8}
        again = build_scorer(provider, LABELS, False, store=store)
        batch = score_texts([again], [f"text {i}" for i in range(400)])[1][0]
        assert batch.errors == {}
        assert batch.cached >= paid - on_the_wire
        assert sum(count - 1 for count in server.paid.values()) <= on_the_wire  # at most what was in flight


def test_progress_is_reported() -> None:
    seen: list[tuple[int, int, int, int]] = []
    with LLMServer(faults={"refusal": 0.3}) as server:
        shared = scorer(server, price=(1.0, 1.0))

        def report(progress: Progress) -> None:
            seen.append((progress.total, progress.done, progress.failed, progress.cached))

        _, batches = score_texts([shared], TEXTS, progress=report)
        assert seen[-1] == (60, 60, len(batches[0].errors), 0)
        assert [s[1] for s in seen] == sorted(s[1] for s in seen)
        assert len(seen) >= 60


@pytest.mark.parametrize("refused", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_the_answer_that_is_refused_goes_by_its_other_name(refused: str) -> None:
    def special(path: str, body: dict[str, Any], text: str) -> Any:
        return (400, {"error": {"param": refused, "code": "unsupported_parameter"}}) if refused in body else None

    with LLMServer(special=special, keep=True) as server:
        provider = {"model": "m", "api_base": server.url, "method": "json", "params": {refused: 300}}
        batch = score_texts([build_scorer(provider, LABELS, False, cache=False)], ["a", "b"])[1][0]
        assert batch.errors == {}
        (other,) = {"max_tokens", "max_completion_tokens"} - {refused}
        assert [body[other] for body in server.bodies if other in body] == [300, 300]


def test_a_provider_of_litellm_that_cannot_be_reached_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """litellm says status 500 of a connection that failed, as of a server's own fault."""
    pytest.importorskip("litellm")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-a-real-key")
    with LLMServer() as server:
        pass  # nobody listens there any more
    provider = {"model": "anthropic/claude-haiku-4-5", "api_base": server.url, "method": "json"}
    batch = score_texts([build_scorer(provider, LABELS, False, cache=False)], TEXTS[:2])[1][0]
    assert len(batch.errors) == 2
    assert all(reason.startswith("connection failed") for reason in batch.errors.values())
    assert batch.usage.cost_usd == 0
