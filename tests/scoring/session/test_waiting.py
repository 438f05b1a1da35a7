"""Deadlines and second requests where several LLMs, real clients and many texts come together."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_scorer import NAMES, FakeScorer
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.pipelines import run
from labelfusion.pipelines.inference import infer
from labelfusion.routing.run_options import Routing
from labelfusion.scoring import build_scorer
from labelfusion.scoring.session.cancellation import gather_or_drain
from labelfusion.scoring.session.deadlines import Patience
from labelfusion.scoring.session.run_context import Dispatch
from llm_server import LLMServer
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model

MakeModel = Callable[..., Model]
TEXTS = [f"w{i % 10} good movie w{i // 10}" for i in range(60)]


def api(server: LLMServer, **fields: Any) -> Any:
    provider = {"model": "m", "api_base": server.url, "method": "json", "price": (1000.0, 1000.0), **fields}
    return build_scorer(provider, NAMES, False, cache=False)


def after(seconds: float, only: tuple[str, ...] = ()) -> Callable[[list[str]], Any]:
    async def wait(texts: list[str]) -> None:
        if not only or set(texts) & set(only):
            await asyncio.sleep(seconds)

    return wait


def test_what_is_not_sent_by_the_deadline_is_not_sent_at_all(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/m"])
    with LLMServer(labels=NAMES, latency=0.5) as server:
        scorer = api(server, max_concurrency=4)
        run(model, tiny_tokenizer, ["warm"], scorers=[scorer])
        result = run(model, tiny_tokenizer, TEXTS, scorers=[scorer], deadline_s=2.5)
        time.sleep(1.5)  # were the rest still sent, it would be now
        assert server.requests - 1 <= 24  # on a busy machine none may have left
        assert result.llm_called.sum() == server.requests - 1
        assert result.answered.sum() <= server.requests - 1
        assert [result.errors.get(i) == "deadline" for i in range(60)] == (~result.answered[:, 0]).tolist()


def test_a_function_is_not_called_after_the_deadline(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model, calls = make_model(llm_providers=["callable/mine"]), []

    def mine(texts: list[str]) -> list[list[float]]:
        calls.append(texts)
        time.sleep(0.3)
        return [[0.1, 0.2, 0.7]] * len(texts)

    scorer = build_scorer("callable/mine", NAMES, False, function=mine)
    run(model, tiny_tokenizer, TEXTS, scorers=[scorer], deadline_s=0.2)
    begun = len(calls)
    time.sleep(0.8)
    assert len(calls) == begun < 60


def test_the_llms_that_were_quick_enough_are_heard(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/quick", "openai/slow"])
    scorers = [FakeScorer("quick"), FakeScorer("slow", before=after(5.0))]
    result = run(model, tiny_tokenizer, ["good film"], scorers=scorers, deadline_s=0.4)
    assert result.answered.tolist() == [[True, False]]
    assert result.errors == {0: "slow: deadline"}
    assert result.cost_usd.tolist() == pytest.approx([0.01])


def test_a_cascade_has_one_deadline(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/a", "openai/b", "openai/c"])
    stage = {"recall": [0.9] * 3, "rate": [1 / 3] * 3, "threshold": 0.0}
    model.config.calibration["gate"] = {"stages": [stage] * 3}
    scorers = [FakeScorer(name, before=after(60.0)) for name in "abc"]
    started = time.monotonic()
    result = run(model, tiny_tokenizer, ["good film"], scorers=scorers, llm_policy="auto", deadline_s=0.4)
    assert time.monotonic() - started < 20.0
    assert [scorer.asked for scorer in scorers] == [["good film"], [], []]
    assert result.errors == {0: "deadline"}


def test_a_slow_text_does_not_take_the_time_of_the_others(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/a", "openai/b"])
    model.config.calibration["gate"] = {"stages": [{"recall": [0.9] * 3, "rate": [1 / 3] * 3, "threshold": 0.0}] * 2}
    scorers = [FakeScorer("a", before=after(60.0, only=("slow film",))), FakeScorer("b")]
    texts = ["slow film", *TEXTS]
    result = run(model, tiny_tokenizer, texts, scorers=scorers, llm_policy="auto", deadline_s=2.0)
    assert result.answered.tolist() == [[False, False]] + [[True, True]] * 60


def test_the_deadline_of_a_cascade_counts_the_llms_alone(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/a", "openai/b"])
    model.config.calibration["gate"] = {"stages": [{"recall": [0.9] * 3, "rate": [1 / 3] * 3, "threshold": 0.0}] * 2}
    texts = [f"w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(384)]
    scorers = [FakeScorer("a"), FakeScorer("b")]
    routing = Routing.parse(model.config, llm_policy="auto", deadline_s=4.0)
    pauses = iter([4.2])  # a slow reader
    for part in infer(TextEncoder(model, tiny_tokenizer), iter([(text, None) for text in texts]), routing, scorers):
        assert part.answered.all()
        time.sleep(next(pauses, 0.0))


def test_an_api_is_asked_a_second_time(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/m"])
    with LLMServer(labels=NAMES) as server:
        scorer = api(server)
        run(model, tiny_tokenizer, ["warm"], scorers=[scorer])
        server.latency = 60.0
        quicker = threading.Timer(0.3, lambda: setattr(server, "latency", 0.0))
        quicker.start()
        started = time.monotonic()
        result = run(model, tiny_tokenizer, ["good film"], scorers=[scorer], hedge_s=0.6)
        assert time.monotonic() - started < 40.0
        assert result.answered.all()
        assert server.requests == 3


def test_the_first_text_of_all_is_asked_a_second_time_too(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/m"])
    with LLMServer(labels=NAMES, latency=60.0) as server:
        threading.Timer(0.3, lambda: setattr(server, "latency", 0.0)).start()
        scorer = api(server, method="auto")
        started = time.monotonic()
        assert run(model, tiny_tokenizer, ["good film"], scorers=[scorer], hedge_s=0.6).answered.all()
        assert time.monotonic() - started < 40.0


def test_the_delay_is_learnt_within_a_list(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    calls: list[str] = []

    async def first_is_slow(texts: list[str]) -> None:
        calls.extend(texts)
        await asyncio.sleep(60.0 if texts == ["slow film"] and calls.count("slow film") == 1 else 0.01)

    started = time.monotonic()
    texts = ["slow film", *TEXTS]
    model = make_model(llm_providers=["openai/judge"])
    result = run(model, tiny_tokenizer, texts, scorers=[FakeScorer(before=first_is_slow)], hedge_s="p95")
    assert time.monotonic() - started < 40.0
    assert result.answered.all()
    assert calls.count("slow film") == 2


def test_a_failure_does_not_beat_an_answer() -> None:
    calls: list[float] = []

    async def ask(dispatch: Dispatch) -> str:
        calls.append(time.monotonic())
        failing = len(calls) == 1
        await asyncio.sleep(0.2)
        return "" if failing else "an answer"

    patience = Patience(hedge_s=0.1)
    assert asyncio.run(patience.first(ask, usable=bool)) == ("an answer", True)
    assert patience.unheard == [""]


def test_a_request_that_leaves_while_the_deadline_passes_is_not_sent() -> None:
    """Between the end of the waiting and the task that sends, the cancelling takes some turns of the event loop."""
    sent: list[str] = []

    async def ask(dispatch: Dispatch) -> str:
        query = asyncio.current_task()
        assert query is not None

        async def send() -> str:
            while not query.cancelling():
                await asyncio.sleep(0)
            dispatch.send()
            sent.append("a request")
            return "an answer"

        return (await gather_or_drain([send()], lambda: None))[0]

    async def wait() -> tuple[str | None, bool]:
        told = await patience.first(ask, tells_dispatch=True)
        await asyncio.sleep(0.05)
        return told

    patience = Patience(deadline_s=0.05)
    assert asyncio.run(wait()) == (None, False)
    assert sent == []
