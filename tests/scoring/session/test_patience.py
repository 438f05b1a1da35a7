"""Deadlines, second requests, and what starts together for one text online."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_scorer import FakeScorer
from labelfusion.configuration import ProviderKind
from labelfusion.pipelines import run
from labelfusion.pipelines.inference import Inference
from labelfusion.scoring.budget import BudgetReachedError
from labelfusion.scoring.score_batch import Capabilities, ScoreBatch
from labelfusion.scoring.session.deadlines import LEAST, Patience
from labelfusion.scoring.session.run_context import Run
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model
from labelfusion import LabelFusionPipeline

MakeModel = Callable[..., Model]


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model(llm_providers=["openai/judge"])


def slow(seconds: float, only: tuple[str, ...] = ()) -> tuple[FakeScorer, threading.Event]:
    """A scorer that takes `seconds` about the texts `only` (or all), and an event set when the last is done."""
    ended = threading.Event()

    async def wait(texts: list[str]) -> None:
        if not only or set(texts) & set(only):
            await asyncio.sleep(seconds)
            ended.set()

    return FakeScorer(before=wait), ended


def test_after_the_deadline_the_encoder_answers_alone_and_says_so(model: Model, tiny_tokenizer: Tokenizer) -> None:
    scorer, ended = slow(5.0, only=("bad film",))
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[scorer])
    started = time.monotonic()
    late, in_time = pipe(["bad film", "good film"], deadline_s=1.0, return_sources=True)
    assert time.monotonic() - started < 4.5
    assert late["llm_called"] is True
    assert late["llm_missing"] == "deadline"
    assert late["sources"]["openai/judge"] is None
    assert late["score"] == max(late["sources"]["encoder"].values())
    assert in_time["sources"]["openai/judge"] is not None
    assert "llm_missing" not in in_time
    assert ended.wait(10)  # it is paid for: it was left to finish, for the score store


def test_one_text_online_starts_llm_and_encoder_together(
    model: Model, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other to have started: one after the other, this would time out."""
    asked, encoding, encode = threading.Event(), threading.Event(), model.encode
    met: list[bool] = []

    async def llm(texts: list[str]) -> None:
        asked.set()
        met.append(await asyncio.to_thread(encoding.wait, 20))

    def encoder(**inputs: Any) -> Any:
        encoding.set()
        met.append(asked.wait(20))
        return encode(**inputs)

    monkeypatch.setattr(model, "encode", encoder)
    choices: list[dict[str, Any]] = [{}, {"deadline_s": 30.0}]
    for options in choices:
        asked.clear()
        encoding.clear()
        result = run(model, tiny_tokenizer, ["good film"], scorers=[FakeScorer(before=llm)], **options)
        assert result.answered.all()
    assert met == [True] * 4


def test_a_slow_question_is_asked_twice_and_the_first_answer_counts(model: Model, tiny_tokenizer: Tokenizer) -> None:
    calls: list[float] = []

    async def first_is_slow(texts: list[str]) -> None:
        calls.append(time.monotonic())
        await asyncio.sleep(60.0 if len(calls) == 1 else 0.0)

    scorer = FakeScorer(before=first_is_slow)
    started = time.monotonic()
    result = run(model, tiny_tokenizer, ["good film"], scorers=[scorer], hedge_s=0.2)
    assert time.monotonic() - started < 30.0
    assert result.answered.all()
    assert len(calls) == 2
    assert calls[1] - calls[0] == pytest.approx(0.5, abs=0.45)


def test_the_delay_of_a_second_request_is_learnt() -> None:
    patience = Patience(hedge_s="p95")

    async def answer(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def several() -> None:
        for _ in range(LEAST):
            assert await patience.first(lambda dispatch: answer(0.005)) == (0.005, True)

    assert patience._delay() == float("inf")
    asyncio.run(several())
    assert 0.004 < patience._delay() < 0.5


def test_errors_come_through_and_duplicates_are_asked_once(model: Model, tiny_tokenizer: Tokenizer) -> None:
    scorer = FakeScorer(fail=("bad",))
    texts = ["good", "bad", "good", ""]
    result = run(model, tiny_tokenizer, texts, scorers=[scorer], deadline_s=30.0, empty_texts="skip")
    assert sorted(scorer.asked) == ["bad", "good"]
    assert result.errors == {1: "judge: refused", 3: "no text"}
    assert result.cost_usd.sum() == pytest.approx(0.02)
    plain = run(model, tiny_tokenizer, texts, scorers=[FakeScorer(fail=("bad",))], empty_texts="skip")
    np.testing.assert_array_equal(result.llm_called, plain.llm_called)
    np.testing.assert_allclose(result.logits, plain.logits)


def test_a_broken_llm_is_an_error_with_a_deadline_too(model: Model, tiny_tokenizer: Tokenizer) -> None:
    from labelfusion.scoring.score_batch import ScoringError

    async def broken(texts: list[str]) -> None:
        raise ScoringError("no key")

    with pytest.raises(ScoringError, match="no key"):
        run(model, tiny_tokenizer, ["good"], scorers=[FakeScorer(before=broken)], deadline_s=30.0)


def test_with_a_deadline_the_budget_still_holds(model: Model, tiny_tokenizer: Tokenizer) -> None:
    scorer = FakeScorer()  # a cent a text
    texts = [f"w{i} film" for i in range(10)]
    result = run(model, tiny_tokenizer, texts, scorers=[scorer], deadline_s=30.0, max_cost_usd=0.035)
    assert len(scorer.asked) == 4  # the last one was asked with half a cent left
    assert result.cost_usd.sum() == pytest.approx(0.04)
    assert result.llm_called.sum() == 4
    assert sum("max_cost_usd" in reason for reason in result.errors.values()) == 6


def test_questions_whose_answers_are_late_count_against_the_budget(model: Model, tiny_tokenizer: Tokenizer) -> None:
    class Reserving(FakeScorer):
        """As the scorers of APIs do: what a request may cost is set aside while it is under way."""

        kind, capabilities = ProviderKind.CALLABLE, Capabilities()

        async def score(self, texts: Any, run: Run | None = None) -> ScoreBatch:
            assert run is not None
            budget = run.budget
            assert budget is not None
            budget.reserve(self.cost)
            batch = await super().score(texts)
            budget.settle(self.cost, self.cost)
            return batch

    async def slow(texts: list[str]) -> None:
        await asyncio.sleep(3.0)

    scorer, texts = Reserving(before=slow), [f"w{i} film" for i in range(10)]
    with pytest.raises(BudgetReachedError):  # which those scorers turn into a reason
        run(model, tiny_tokenizer, texts, scorers=[scorer], deadline_s=0.05, max_cost_usd=0.035)
    assert len(scorer.asked) == 3


def test_answers_that_nobody_waited_for_are_in_the_sum(model: Model, tiny_tokenizer: Tokenizer) -> None:
    calls: list[str] = []

    async def wait(texts: list[str]) -> None:
        calls.extend(texts)
        again = calls.count(texts[0]) > 1
        await asyncio.sleep({"good film": 0.0 if again else 0.5, "long film": 10.0 if again else 1.5}[texts[0]])

    result = run(model, tiny_tokenizer, ["good film", "long film"], scorers=[FakeScorer(before=wait)], hedge_s=0.2)
    assert calls == ["good film", "long film"] * 2
    assert result.answered.all()
    assert result.cost_usd.sum() == pytest.approx(0.02)
    assert result.late_cost_usd == pytest.approx(0.01)  # the other one is still under way
    assert result.total_cost_usd == pytest.approx(0.03)
    assert Inference.concatenate([result, result]).total_cost_usd == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"deadline_s": 0}, "deadline_s"), ({"deadline_s": "1"}, "deadline_s"), ({"hedge_s": "p99"}, "hedge_s")],
)
def test_other_waiting_times_are_refused_by_name(
    model: Model, tiny_tokenizer: Tokenizer, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be seconds above 0"):
        run(model, tiny_tokenizer, ["good"], scorers=[FakeScorer()], **options)
