"""The budget: spent is never above the limit by more than one request costs, as the server counts."""

import asyncio
import math
import random
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelfusion.configuration import LLMProvider
from labelfusion.scoring import ascore_texts, build_scorer, score_texts
from labelfusion.scoring.api import client
from labelfusion.scoring.providers.endpoints import resolve
from labelfusion.scoring.providers.pricing import Price, estimate_tokens, find_price
from labelfusion.scoring.score_batch import ScoringError, Usage
from labelfusion.scoring.session.cost_forecast import Costs, Need
from labelfusion.scoring.session.dollar_budget import Budget, BudgetReachedError, Reservation
from llm_server import LABELS, LLMServer

PRICE = (1.0, 4.0)
TEXTS = {
    "english": [
        f"Number {i}: shares of the chip maker rose after the bank left its rate unchanged." for i in range(400)
    ],
    "chinese": [f"第{i}条：央行宣布维持利率不变，芯片制造商的股价周五上涨，市场情绪明显好转。" for i in range(400)],
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(client, "LONGEST_DELAY_S", 0.01)


def scorer(server: LLMServer, **fields: Any) -> Any:
    provider = {"model": "m", "api_base": server.url, "method": "json", "price": PRICE, "max_concurrency": 48, **fields}
    return build_scorer(provider, LABELS, False, cache=False)


def heavy(text: str) -> int:
    """Tokens of thought: most texts 50, one in twelve 3,000."""
    return 3000 if random.Random(text).random() < 1 / 12 else 50


def over(server: LLMServer, limit: float) -> float:
    """Dollars above what the promise allows."""
    spent, dearest = server.billed(*PRICE)
    assert len(server.bills) > 3
    return spent - limit - dearest


# --- As the server counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", list(TEXTS))
@pytest.mark.parametrize("concurrency", [8, 128])
@pytest.mark.parametrize("thinks", [lambda text: 0, lambda text: 1000, heavy], ids=["none", "1000", "heavy"])
def test_the_limit_holds(language: str, concurrency: int, thinks: Any) -> None:
    with LLMServer(latency=0.005, thinks=thinks, token_s=1e-6) as server:
        score_texts([scorer(server)], TEXTS[language][-3:])
        limit = 20 * server.billed(*PRICE)[0] / 3
        server.bills.clear()
        budget = Budget(limit)
        one = scorer(server, max_concurrency=concurrency)
        batch = asyncio.run(ascore_texts([one], TEXTS[language][:120], max_cost_usd=budget))[1][0]
    assert over(server, limit) <= 0
    assert budget.spent == pytest.approx(server.billed(*PRICE)[0])
    assert batch.usage.cost_usd == pytest.approx(budget.spent)
    assert budget.reserved == pytest.approx(0)
    assert server.billed(*PRICE)[0] > 0.7 * limit  # and it is used
    left = sum(reason == f"budget of ${limit:g} reached" for reason in batch.errors.values())
    assert left == (~batch.mask).sum() > 0


def test_far_from_the_limit_all_slots_are_used() -> None:
    with LLMServer(latency=0.1, thinks=lambda text: 100) as server:
        batch = score_texts([scorer(server, max_concurrency=32)], TEXTS["english"][:100], max_cost_usd=10.0)[1][0]
        assert batch.mask.all()
        assert server.peak == 32


def test_the_next_chunk_knows_what_the_last_one_cost() -> None:
    with LLMServer(latency=1.0, thinks=lambda text: 100) as server:
        one = scorer(server, max_concurrency=16)
        score_texts([one], TEXTS["english"][:1], max_cost_usd=10.0)
        score_texts([one], TEXTS["english"][1:17], max_cost_usd=10.0)
        assert server.peak == 16  # all at once


def test_requests_without_a_reply_count() -> None:
    faults = {"hang": 0.1, "truncated": 0.1, "malformed": 0.1, "disconnect": 0.1, "429": 0.1}
    with LLMServer(thinks=lambda text: 200, faults=faults, retry_after=0.0) as server:
        limit = 0.03
        budget = Budget(limit)
        one = scorer(server, timeout_s=0.2)
        batch = asyncio.run(ascore_texts([one], TEXTS["english"], max_cost_usd=budget))[1][0]
        assert over(server, limit) <= 0
    assert 0 < budget.unsure < budget.spent
    assert budget.spent == pytest.approx(batch.usage.cost_usd + budget.unsure)
    assert f"of ${limit:g} spent" in budget.told()
    assert "may have been billed" in budget.told()
    free = Budget(math.inf)
    free.settle(0.0, 0.25)
    assert free.told() == "$0.25 spent"
    assert budget.reserved == pytest.approx(0)


def test_refusals_of_a_server_cost_nothing() -> None:
    with LLMServer(status=429, retry_after=0.0) as server:
        budget = Budget(1.0)
        asyncio.run(ascore_texts([scorer(server)], TEXTS["english"][:3], max_cost_usd=budget))
    assert budget.spent == budget.reserved == 0


def test_a_server_that_is_not_there_bills_nothing() -> None:
    with LLMServer() as server:
        pass
    budget = Budget(1.0)
    batch = asyncio.run(ascore_texts([scorer(server)], TEXTS["english"][:3], max_cost_usd=budget))[1][0]
    assert "connection failed" in batch.errors[0]
    assert budget.spent == budget.reserved == 0


def test_a_reply_without_choices_costs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLMServer() as server:
        monkeypatch.setattr(server, "_chat", lambda *args: {"object": "chat.completion", "choices": []})
        budget = Budget(1.0)
        batch = asyncio.run(ascore_texts([scorer(server)], TEXTS["english"][:2], max_cost_usd=budget))[1][0]
    assert server.requests == 12
    assert budget.unsure == 0
    assert budget.spent == pytest.approx(server.tokens[0] * PRICE[0] / 1e6)
    assert batch.usage.cost_usd == pytest.approx(budget.spent)


@pytest.mark.parametrize("method", ["vote", "decision"])
def test_the_limit_holds_for_other_methods(method: str) -> None:
    offers = {"temperature", "decisions"}
    with LLMServer(latency=0.005, thinks=heavy, offers=offers) as server:
        limit, budget = 0.02, Budget(0.02)
        one = scorer(server, method=method, votes=3)
        asyncio.run(ascore_texts([one], TEXTS["english"][:150], max_cost_usd=budget))
        if method == "decision":  # answers are free
            server.bills = [(prompt, 0) for prompt, _ in server.bills]
        assert over(server, limit) <= 0
        assert budget.spent == pytest.approx(server.billed(*PRICE)[0])


def test_one_budget_for_several_threads_and_loops() -> None:
    with LLMServer(latency=0.005, thinks=heavy) as server:
        limit, budget = 0.1, Budget(0.1)

        def ask(start: int) -> None:
            asyncio.run(ascore_texts([scorer(server)], TEXTS["english"][start::4], max_cost_usd=budget))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert over(server, limit) <= 0
        assert budget.spent == pytest.approx(server.billed(*PRICE)[0])


def test_what_is_cancelled_on_the_wire_may_have_been_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelfusion.scoring.session.cancellation.DRAIN_S", 0.05)
    budget = Budget(1.0)

    async def interrupted(one: Any) -> None:
        task = asyncio.ensure_future(ascore_texts([one], TEXTS["english"][:40], max_cost_usd=budget))
        while server.in_flight == 0:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])

    with LLMServer(latency=600, thinks=lambda text: 100) as server:
        asyncio.run(interrupted(scorer(server, max_concurrency=4)))
    assert budget.unsure > 0
    assert budget.reserved == pytest.approx(0)


# --- Its arithmetic --------------------------------------------------------------------------------------------------


class Sent(Reservation):
    """A reservation outside of an event loop."""

    state = "new"

    def call(self, error: BudgetReachedError | None) -> None:
        self.state = "refused" if error else "out"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    limit=st.floats(0, 0.2),
    concurrency=st.integers(1, 128),
    spread=st.sampled_from([0.0, 0.5, 1.0, None]),
    unsure=st.sampled_from([0.0, 0.2]),
)
def test_the_limit_holds_in_any_order(
    seed: int, limit: float, concurrency: int, spread: float | None, unsure: float
) -> None:
    draw = random.Random(seed)
    price, budget = Price(1e-6, 4e-6, 1e-6), Budget(limit)
    kinds = [Costs(price) for _ in range(4)]
    waiting: list[Sent] = []
    out: list[Sent] = []
    dearest = spent = told = 0.0
    for _ in range(300):
        waiting, out = [r for r in waiting if r.state == "new"], out + [r for r in waiting if r.state == "out"]
        if len(out) + len(waiting) < concurrency and draw.random() < 0.6:
            request = Sent(budget, draw.choice(kinds), Need(draw.uniform(50, 400), 20, most_answer=200))  # not kept to
            try:
                if request.take():
                    out.append(request)
                else:
                    waiting.append(request)
                    budget.queue(request)
            except BudgetReachedError:
                assert budget.spent + request.expected() > limit or budget.spent >= limit
        elif out:
            request = out.pop(draw.randrange(len(out)))
            if spread is None:  # rarely very long
                answer = 5000 if draw.random() < 1 / 12 else 100
            else:
                answer = round(100 * math.exp(draw.gauss(0, spread)))
            cost = price.cost(request.need.prompt, answer)
            if request.costs.seen and draw.random() < unsure:  # billed, but nobody tells
                request.close(billed=True)
            else:
                request.settle(Usage(1, round(request.need.prompt), answer, cost))
                told += cost
            spent, dearest = spent + cost, max(dearest, cost)
        elif waiting:
            waiting.pop(draw.randrange(len(waiting))).close()
        assert spent <= limit + dearest
        states = {r.state for r in waiting}
        assert out or "out" in states or "new" not in states  # nobody waits for nothing
    for request in out + waiting:
        request.close()
    assert budget.spent - budget.unsure == pytest.approx(told)
    assert budget.reserved == 0


def test_what_may_be_longer_is_bounded_by_the_request() -> None:
    costs = Costs(Price(1e-6, 1e-6, 1e-6))
    need = Need(100, 1, most_prompt=400, most_answer=1)
    assert costs.enough(need) == math.inf
    costs.learn(need, 100, 1)
    assert costs.enough(need, proven=False) == pytest.approx(401e-6)
    costs.learn(need, 100, 5)  # a server that does not keep to `max_tokens`
    assert costs.enough(need, proven=False) > 401e-6
    costs = Costs(Price(1e-6, 1e-6, 1e-6))
    need = Need(100, 10, most_answer=50)
    costs.learn(need, 100, 10)  # whether thoughts count is not known
    assert costs.enough(need, proven=False) == pytest.approx((6400 + 640) * 1e-6)
    costs.learn(need, 100, 50)  # cut
    assert costs.enough(need, proven=False) == pytest.approx((6400 + 50) * 1e-6)


def test_many_replies_that_are_alike_let_more_requests_out() -> None:
    costs, need = Costs(Price(1e-6, 1e-6, 1e-6)), Need(0, 10)
    reserved = []
    for _ in range(1024):
        costs.learn(need, 0, 10)
        reserved.append(round(costs.enough(need, proven=False) * 1e6))
    assert reserved[0] == reserved[127] == 640
    assert reserved[255] == 160
    assert reserved[1023] == 20
    costs.learn(need, 0, 500)  # one that is unlike the others
    assert costs.enough(need, proven=False) * 1e6 == pytest.approx(64 * (1024 * 10 + 500) / 1025)


def test_what_is_noted_is_never_behind() -> None:
    noted: list[float] = []
    costs = Costs(Price(1e-6, 1e-6, 1e-6))
    budget = Budget(math.inf, 0.5, noted.append)
    for i in range(200):
        request = Reservation(budget, costs, Need(100, 20))
        assert request.take()
        assert noted[-1] >= budget.spent + request.expected()
        request.settle(Usage(1, 100 + i, 20, 120e-6 + i * 1e-6))
        assert budget.spent <= noted[-1] <= budget.spent * 1.01
    assert len(noted) < 30


def test_what_cannot_be_noted_is_not_asked_and_loses_nothing(tmp_path: Path) -> None:
    """The disk with the journal is full, that of the score store is not."""
    notes: list[float] = []
    room = 20.0

    def note(spent: float) -> None:
        if len(notes) >= room:
            raise OSError(28, "No space left on device")
        notes.append(spent)

    budget, texts = Budget(5.0, note=note), [f"text {i}" for i in range(60)]
    with LLMServer(latency=0.05) as server:
        llm = LLMProvider("x", api_base=server.url, method="json", price=(100.0, 400.0), max_concurrency=8)
        scorer = build_scorer(llm, LABELS, False, store=tmp_path / "scores.sqlite")
        batch = score_texts([scorer], texts, max_cost_usd=budget)[1][0]
        assert 0 < batch.mask.sum() == len(server.paid) < 60
        assert set(batch.errors.values()) == {"what is spent cannot be noted (No space left on device)"}
        assert budget.spent == pytest.approx(batch.usage.cost_usd)
        room = math.inf
        assert score_texts([scorer], texts, max_cost_usd=budget)[1][0].mask.all()
        assert len(server.paid) == server.paid.total() == 60
        assert notes[-1] >= budget.spent


def test_tokens_of_other_scripts_are_not_underestimated() -> None:
    assert estimate_tokens("a" * 360) == pytest.approx(100)
    assert 36 < estimate_tokens("央行" * 18) < 60


# --- Prices ----------------------------------------------------------------------------------------------------------


def test_prices_of_service_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    from labelfusion.scoring.providers import pricing as money

    entry = {
        "input_cost_per_token": 4e-6, "output_cost_per_token": 8e-6, "cache_read_input_token_cost": 1e-6,
        "input_cost_per_token_flex": 2e-6, "output_cost_per_token_flex": 4e-6,
        "input_cost_per_token_above_200k_tokens": 6e-6, "output_cost_per_token_above_200k_tokens": 9e-6,
        "input_cost_per_token_above_200k_tokens_flex": 3e-6,
    }  # fmt: skip
    monkeypatch.setattr(money, "_price_list", lambda: {"gpt-x": entry})

    def price(tier: str | None = None, **fields: Any) -> Price | None:
        provider = LLMProvider("openai/gpt-x", params={"service_tier": tier} if tier else {}, **fields)
        return find_price(provider, resolve(provider))

    usual, flex = price(), price("flex")
    assert usual is not None
    assert flex is not None
    assert usual.cost(100, 10, 50) == pytest.approx(50 * 4e-6 + 50 * 1e-6 + 10 * 8e-6)
    assert usual.cost(200_001, 10) == pytest.approx(200_001 * 6e-6 + 10 * 9e-6)
    assert flex.cost(100, 10) == pytest.approx(100 * 2e-6 + 10 * 4e-6)
    assert flex.cost(300_000, 10) == pytest.approx(300_000 * 3e-6 + 10 * 9e-6)
    assert price("default") == price("auto") == price()
    assert price("priority") is None
    assert price("priority", price=(1.0, 2.0)) == Price(1e-6, 2e-6, 1e-6)
    provider = LLMProvider("openai/gpt-x", params={"service_tier": "priority"})
    with pytest.raises(ScoringError, match=r"service_tier.*give `price="):
        money.require_price(provider, resolve(provider))


def test_flex_is_in_the_price_list() -> None:
    if find_spec("litellm") is None:
        pytest.skip("without litellm there is no list")
    providers = [LLMProvider("openai/gpt-5-nano", params=params) for params in ({}, {"service_tier": "flex"})]
    usual, flex = (find_price(provider, resolve(provider)) for provider in providers)
    assert usual is not None
    assert flex is not None
    assert (flex.input, flex.output, flex.cached) == pytest.approx(
        (usual.input / 2, usual.output / 2, usual.cached / 2)
    )
