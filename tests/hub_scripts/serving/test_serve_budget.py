"""The money of `labelfusion serve`: a budget for each day, over restarts, and SIGTERM with answers under way."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from llm_server import LLMServer
from serve_process import Reply, ServeProcess

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from labelfusion.hub_scripts.serving.day_budget import Days, RequestBudget
from labelfusion.scoring.session.cost_forecast import Costs, Need
from labelfusion.scoring.session.dollar_budget import BudgetReachedError, Reservation

CLASSES = ["class0", "class1", "class2"]
PRICE = (2000.0, 2000.0)  # dollars per million tokens: a request of these tests costs about 60 cents


@pytest.fixture
def llm() -> Iterator[LLMServer]:
    with LLMServer(labels=CLASSES) as server:
        yield server


@pytest.fixture
def model(saved_model: Callable[..., Path], llm: LLMServer) -> Path:
    provider = {"model": "openai/m", "name": "m", "api_base": llm.url, "api_key_env": "LLM_KEY", "method": "json"}
    return saved_model(llm_providers=[{**provider, "price": list(PRICE), "max_concurrency": 8}])


def served(model: Path, home: Path, *options: str) -> ServeProcess:
    return ServeProcess(model, home, *options, LLM_KEY="sk-secretofthellmprovider")


def billed(llm: LLMServer) -> float:
    return (llm.tokens[0] * PRICE[0] + llm.tokens[1] * PRICE[1]) / 1e6


def test_beyond_the_budget_the_encoder_answers(model: Path, tmp_path: Path, llm: LLMServer) -> None:
    limit = 10.0
    options = ("--budget-per-day", str(limit))
    with served(model, tmp_path / "home", *options) as server:
        server.ready()
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda i: server.predict(f"rain w{i % 10} w{i // 10}"), range(60)))
        assert {reply.status for reply in replies} == {200}
        asked = [reply for reply in replies if reply.headers["x-labelfusion-asked"] == "1"]
        silent = [reply for reply in replies if reply.headers.get("x-labelfusion-notice") == "budget-reached"]
        assert len(asked) == llm.requests > 3
        assert len(asked) + len(silent) == 60
        assert limit * 0.7 < billed(llm) <= limit + 1.0  # one request may be dearer than thought
        assert server.metric("cost_usd_today") == pytest.approx(billed(llm))
        told = server.predict("sun", return_sources=True).json()[0]
        assert told["llm_missing"].endswith("the budget of $10 for the day reached")
        assert told["sources"]["m"] is None
        encoder = told["sources"]["encoder"]
        assert told["score"] == pytest.approx(max(encoder.values()), abs=1e-5)
        decided = server.post("/v1/decisions", _question("the sun"))
        assert decided.json()["labelfusion"] == {"llm_called": False, "cost_usd": 0.0, "notice": "budget-reached"}
        server.stop(signal.SIGKILL)
    requests = llm.requests
    with served(model, tmp_path / "home", *options) as server:
        server.ready()
        again = [server.predict(f"a new text w{i}") for i in range(8)]
        silent = [reply for reply in again if reply.headers.get("x-labelfusion-notice") == "budget-reached"]
        assert len(silent) == 8 - (llm.requests - requests) >= 7  # what is left may be enough for one
        assert billed(llm) <= limit + 1.0
        assert server.stop() == 0
        assert server.errors.count("No more LLM queries in this run") <= 1  # not for every request
    file = tmp_path / "home" / "labelfusion" / "serve-budget.json"
    noted = json.loads(file.read_text())["spent_usd"]
    assert billed(llm) <= noted <= 1.1 * billed(llm)


def _question(text: str) -> dict[str, Any]:
    return {"input": text, "questions": [{"type": "choice", "choices": [{"value": c} for c in CLASSES]}]}


def test_a_limit_of_a_request_is_within_that_of_the_day(model: Path, tmp_path: Path, llm: LLMServer) -> None:
    with served(model, tmp_path / "home", "--budget-per-day", "100") as server:
        server.ready()
        texts = [f"rain w{i % 10} w{i // 10}" for i in range(20)]
        reply = server.predict(texts, max_cost_usd=3, return_sources=True)
        assert reply.headers["x-labelfusion-notice"] == "budget-reached"
        assert 1.5 < float(reply.headers["x-labelfusion-cost-usd"]) <= 4.0
        assert any(a.get("llm_missing") == "m: `max_cost_usd` of $3 reached" for a in reply.json())
        assert server.metric("cost_usd_today") == pytest.approx(billed(llm))
        assert server.predict("sun").headers["x-labelfusion-asked"] == "1"


def test_sigterm_lets_answers_under_way_finish(model: Path, tmp_path: Path, llm: LLMServer) -> None:
    texts = [f"the match w{i}" for i in range(8)]
    with served(model, tmp_path / "home", "--budget-per-day", "10000") as server, ThreadPoolExecutor(8) as pool:
        server.ready().predict("the first request shows what one costs")
        llm.latency = 2.0
        answers = [pool.submit(server.predict, text) for text in texts]
        while llm.in_flight < 8:
            time.sleep(0.01)
        assert server.stop(signal.SIGTERM) == 0
        replies: list[Reply] = [answer.result() for answer in answers]
        assert [reply.status for reply in replies] == [200] * 8
        assert all(reply.headers["x-labelfusion-asked"] == "1" for reply in replies)
        assert "Traceback" not in server.errors
    assert set(texts) < set(llm.paid)
    assert set(llm.paid.values()) == {1}
    with served(model, tmp_path / "home", "--budget-per-day", "10000") as server:
        stored = server.ready().predict(texts, return_sources=True)
        assert stored.headers["x-labelfusion-cost-usd"] == "0"
        assert all(answer["sources"]["m"] for answer in stored.json())
        assert server.metric("cost_usd_today") == pytest.approx(billed(llm), rel=0.1)
    assert llm.requests == 9


def test_what_is_on_the_wire_when_the_grace_ends_is_stored(model: Path, tmp_path: Path, llm: LLMServer) -> None:
    """The request has more texts than can be asked in time: those under way are stored, no others are asked."""
    llm.latency = 2.0
    texts = [f"the game w{i % 10} w{i // 10}" for i in range(80)]
    with served(model, tmp_path / "home", "--budget-per-day", "1000", "--grace-s", "1") as server:
        server.ready()
        thread = threading.Thread(target=_cut, args=(server, texts), daemon=True)
        thread.start()
        while llm.in_flight < 8:
            time.sleep(0.01)
        assert server.stop(signal.SIGTERM) == 1
        thread.join(60)
        assert "1 requests were not answered in time" in server.errors
    paid = dict(llm.paid)
    assert 8 <= len(paid) < 80
    assert set(paid.values()) == {1}
    llm.latency = 0.0
    with served(model, tmp_path / "home", "--budget-per-day", "1000") as server:
        stored = server.ready().predict(list(paid))
        assert stored.headers["x-labelfusion-cost-usd"] == "0"
    assert llm.requests == len(paid)


def _cut(server: ServeProcess, texts: list[str]) -> None:
    with suppress(OSError, http.client.HTTPException):
        server.predict(texts)


# --- The budgets alone -----------------------------------------------------------------------------------------------


class Price:
    input = output = 1.0

    def cost(self, prompt: float, answer: float, cached: float = 0.0) -> float:
        return prompt + answer


def reservation(budget: Any, costs: Costs) -> Reservation:
    return Reservation(budget, costs, Need(1.0, 0.0))


def usage(cost: float) -> Any:
    from labelfusion.scoring.score_batch import Usage

    return Usage(1, 1, 0, cost)


def test_a_new_day_has_a_new_budget(tmp_path: Path) -> None:
    now = ["monday"]
    days = Days(3.0, tmp_path / "budget.json", lambda: now[0])
    monday = days.today()
    monday.settle(0.0, 3.0)
    assert days.today() is monday
    assert monday.over
    now[0] = "tuesday"
    tuesday = days.today()
    tuesday.settle(0.0, 1.0)
    monday.settle(0.0, 0.5)  # an answer that was under way at midnight
    assert (tuesday.left, days.today().spent) == (2.0, 1.0)
    with pytest.raises(ValueError, match=r"Another server keeps its budget in .* name another `budget_file`"):
        Days(3.0, tmp_path / "budget.json")
    days.close()
    again = Days(3.0, tmp_path / "budget.json", lambda: "tuesday")
    assert 1.0 <= again.today().spent <= 1.01
    assert again.spent == 0.0  # since the start
    again.close()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"day": "monday"}', '{"day": "monday", "spent_usd": NaN}'])
def test_a_budget_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "budget.json").write_text(text)
    with pytest.raises(ValueError, match="does not say what was spent today"):
        Days(3.0, tmp_path / "budget.json", lambda: "monday")


def test_a_request_that_waits_for_the_money_of_the_day_goes_out_when_it_is_free() -> None:
    day = Days(4.0).today()
    costs = Costs(Price())  # type: ignore[arg-type]
    first = reservation(day, costs)
    assert first.take()
    with RequestBudget(2.0, day) as part:
        called: list[Any] = []
        second = reservation(part, costs)
        second.call = called.append  # type: ignore[method-assign,assignment]
        assert not second.take()  # the first of its kind goes out alone
        part.queue(second)
        assert called == []
        first.settle(usage(1.0))
        assert called == [None]
        second.settle(usage(1.0))
        assert (part.spent, day.spent) == (1.0, 2.0)
        third = reservation(part, costs)
        assert third.take()
        third.settle(usage(1.0))
        with pytest.raises(BudgetReachedError, match=r"budget of \$2 reached"):
            reservation(part, costs).take()
    assert not day.parts
    assert day.reserved == 0.0
    last = reservation(day, costs)
    assert last.take()
    last.settle(usage(1.0))
    with RequestBudget(50.0, day) as part:
        assert part.over
        with pytest.raises(BudgetReachedError):
            reservation(part, costs).take()
        assert part.named == "the budget of $4 for the day"
