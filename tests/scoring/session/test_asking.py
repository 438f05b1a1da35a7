"""Asking the LLMs of a run: what they are, what they may cost, and what happens when they fail."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from fake_scorer import NAMES, FakeScorer
from labelfusion.configuration import LLMProvider, ProviderKind
from labelfusion.pipelines import run
from labelfusion.routing.policy import select
from labelfusion.scoring import build_scorer
from labelfusion.scoring.score_batch import Capabilities, ScoreBatch, ScoringError
from labelfusion.scoring.session.run_context import Run
from llm_server import LLMServer
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model
from labelfusion import LabelFusionPipeline

MakeModel = Callable[..., Model]
LogCapture = pytest.LogCaptureFixture

TEXTS = [f"w{i % 10} good movie w{i // 10 % 10} bad" for i in range(100)]


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model(llm_providers=["openai/judge"])


def test_several_providers_at_once(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(llm_providers=["openai/a", "recorded", "openai/b"])
    a, b = FakeScorer("a", cost=0.01), FakeScorer("b", cost=0.03, fail=("good",))
    recorded = FakeScorer("recorded")
    recorded.method = "recorded"
    result = run(model, tiny_tokenizer, ["good", "bad"], scorers=[a, recorded, b])
    assert np.isnan(result.llm_scores).any(axis=2).tolist() == [[False, True, True], [False, True, False]]
    assert recorded.asked == []
    assert result.cost_usd.tolist() == pytest.approx([0.04, 0.04])
    assert result.errors == {0: "b: refused"}


@pytest.mark.parametrize("policy", ["always", 0.5])
def test_a_budget_stops_the_questions(model: Model, tiny_tokenizer: Tokenizer, caplog: LogCapture, policy: Any) -> None:
    texts = [f"w{i % 10} w{i // 10 % 10} w{i // 100 % 10} w{i // 1000}" for i in range(2000)]
    scorer = FakeScorer(cost=0.01)
    result = run(model, tiny_tokenizer, texts, scorers=[scorer], llm_policy=policy, max_cost_usd=2.0, batch_size=8)
    assert 200 <= len(scorer.asked) <= 200 + 128  # a fake knows no limit: it overshoots by one portion
    assert result.cost_usd.sum() == pytest.approx(0.01 * len(scorer.asked))
    assert result.llm_called.sum() == len(scorer.asked)
    spent = f"${0.01 * len(scorer.asked):.4g} of $2 spent"
    assert [r.message for r in caplog.records if "max_cost_usd" in r.message] == [
        f"No more LLM queries in this run: `max_cost_usd` of $2 reached ({spent}). "
        "The encoder answers the remaining texts."
    ]
    left = ~result.llm_called
    np.testing.assert_array_equal(result.logits[left], result.encoder_logits[left])
    if policy == 0.5:  # the most uncertain come first
        top = select(result.encoder_logits, len(scorer.asked) / 2000, model.config)
        assert top.tolist() == result.llm_called.tolist()


def test_money_goes_where_asking_is_worth_most_in_a_whole_list(model: Model, tiny_tokenizer: Tokenizer) -> None:
    model.config.calibration["gate"] = {"recall": [0.9] * 3, "rate": [1 / 3] * 3, "threshold": 0.0}
    texts = [f"w{i % 10} w{i // 10 % 10} w{i // 100 % 10} w{i // 1000}" for i in range(1000)]
    scorer = FakeScorer(cost=0.01)
    result = run(model, tiny_tokenizer, texts, scorers=[scorer], llm_policy="auto", max_cost_usd=1.0)
    assert 100 <= len(scorer.asked) < 250
    top = select(result.encoder_logits, len(scorer.asked) / 1000, model.config, result.novelty)
    assert top.tolist() == result.llm_called.tolist()


@pytest.mark.parametrize("form", [list, iter])
def test_a_scorer_that_keeps_to_the_budget_itself(
    model: Model, tiny_tokenizer: Tokenizer, caplog: LogCapture, form: Any
) -> None:
    from labelfusion.scoring.budget import BudgetReachedError

    class Thrifty(FakeScorer):
        kind, capabilities = ProviderKind.CALLABLE, Capabilities()

        async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
            assert run is not None
            batch = await super().score(texts)
            paid, budget = len(texts), run.budget
            assert budget is not None
            for i in range(len(texts)):
                try:
                    budget.reserve(0.03)
                    budget.settle(0.03, 0.03)
                except BudgetReachedError as error:
                    paid = min(paid, i)
                    batch.scores[i], batch.errors[i] = np.nan, error.missing
            batch.usage.cost_usd = 0.03 * paid
            return batch

    texts = [f"w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(1000)]
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[Thrifty()])
    answers = list(pipe(form(texts), max_cost_usd=5.0, return_sources=True))
    called = [answer["llm_called"] for answer in answers]
    assert called == [True] * 166 + [False] * 834
    assert sum(answer["cost_usd"] for answer in answers) == pytest.approx(166 * 0.03)
    assert sum("No more LLM queries" in record.message for record in caplog.records) == 1
    result = run(model, tiny_tokenizer, texts, scorers=[Thrifty()], max_cost_usd=5.0)
    assert result.errors[999] == "`max_cost_usd` of $5 reached"


def test_a_budget_of_nothing_asks_nothing(model: Model, tiny_tokenizer: Tokenizer) -> None:
    scorer = FakeScorer()
    result = run(model, tiny_tokenizer, TEXTS, scorers=[scorer], max_cost_usd=0)
    assert scorer.asked == []
    assert not result.llm_called.any()


def test_an_llm_that_cannot_work_says_how_to_do_without(model: Model, tiny_tokenizer: Tokenizer) -> None:
    async def broken(texts: list[str]) -> None:
        raise ScoringError("no key for openai: set OPENAI_API_KEY.")

    with pytest.raises(ScoringError, match=r"set OPENAI_API_KEY.*llm_policy='never'"):
        run(model, tiny_tokenizer, TEXTS, scorers=[FakeScorer(before=broken)])


def test_an_llm_that_breaks_down_later_is_done_without(
    model: Model, tiny_tokenizer: Tokenizer, caplog: LogCapture
) -> None:
    calls: list[int] = []

    async def breaks_down(texts: list[str]) -> None:
        calls.append(len(texts))
        if len(calls) > 2:
            raise ScoringError("too many failures")

    pipe = LabelFusionPipeline(
        model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[FakeScorer(before=breaks_down)]
    )
    texts = [f"w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(1000)]
    answers = list(pipe(iter(texts), return_sources=True))
    called = [answer["llm_called"] for answer in answers]
    assert called == [True] * 256 + [False] * 744
    assert len(calls) == 3
    assert sum("too many failures" in record.message for record in caplog.records) == 1


def test_an_llm_that_breaks_down_does_not_silence_the_others(
    make_model: MakeModel, tiny_tokenizer: Tokenizer, caplog: LogCapture
) -> None:
    model, calls = make_model(llm_providers=["openai/a", "openai/b"]), []

    async def breaks_down(texts: list[str]) -> None:
        calls.append(texts)
        if len(calls) == 2:  # some of its answers are there
            error = ScoringError("b: the account may not use it")
            error.batch = await FakeScorer("b", fail=texts[100:]).score(texts)
            error.batch.errors = dict.fromkeys(error.batch.errors, str(error))
            error.batch.usage.cost_usd = 1.0
            raise error

    texts = [f"w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(640)]
    a, b = FakeScorer("a", cost=0.001), FakeScorer("b", before=breaks_down)
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[a, b])
    answers = list(pipe(iter(texts), return_sources=True))
    assert all(answer["sources"]["openai/a"] is not None for answer in answers)
    heard = [answer["sources"]["openai/b"] is not None for answer in answers]
    assert heard == [True] * 228 + [False] * 412
    assert [answer.get("llm_missing") for answer in answers] == [
        None if there else "b: the account may not use it" for there in heard
    ]
    assert sum(answer["cost_usd"] for answer in answers) == pytest.approx(0.64 + 1.28 + 1.0)
    assert len(calls) == 2
    assert sum("not queried any more in this run" in record.message for record in caplog.records) == 1


def test_what_a_scorer_within_a_scorer_pays_counts_once(model: Model, tiny_tokenizer: Tokenizer) -> None:
    class Wrapper:
        def __init__(self, inner: Any) -> None:
            self.inner, self.name = inner, inner.name
            self.labels, self.multi_label = inner.labels, inner.multi_label

        async def score(self, texts: Sequence[str]) -> ScoreBatch:
            return cast(ScoreBatch, await self.inner.score(texts))

    with LLMServer(labels=NAMES) as server:
        provider = {"model": "m", "method": "json", "price": (1000.0, 1000.0), "api_base": server.url}
        inner = build_scorer(provider, NAMES, False, cache=False)
        texts = [f"w{i % 10} film w{i // 10 % 10} w{i // 100}" for i in range(400)]
        result = run(model, tiny_tokenizer, texts, scorers=[cast(Any, Wrapper(inner))], max_cost_usd=40.0)
    assert result.cost_usd.sum() > 38.0  # the whole budget, in several portions
    assert result.cost_usd.sum() == pytest.approx(sum(server.tokens) * 1e-3)


def test_a_text_that_is_too_dear_does_not_end_the_run(model: Model, tiny_tokenizer: Tokenizer) -> None:
    texts = [f"w{i % 10} film w{i // 10}" for i in range(20)]
    texts[3] = "long " * 5000
    provider = {"model": "m", "method": "json", "price": (1000.0, 1000.0)}
    with LLMServer(labels=NAMES) as server:
        scorer = build_scorer({**provider, "api_base": server.url}, NAMES, False, cache=False)
        result = run(model, tiny_tokenizer, texts, scorers=[scorer], max_cost_usd=6.5)
    assert [i for i, called in enumerate(result.llm_called) if not called] == [3]
    assert "max_cost_usd" in result.errors[3]
    assert result.cost_usd.sum() < 6.5


def test_a_function_as_llm(make_model: MakeModel, tiny_tokenizer: Tokenizer, caplog: LogCapture) -> None:
    model = make_model(llm_providers=["callable/mine"])
    asked: list[str] = []

    def mine(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return [[0.1, 0.2, 0.7]] * len(texts)

    options: dict[str, Any] = {"model": model, "tokenizer": tiny_tokenizer, "device": "cpu"}
    answer = LabelFusionPipeline(llm=mine, **options)("good", return_sources=True)[0]
    assert asked == ["good"]
    assert list(answer["sources"]["callable/mine"].values()) == pytest.approx([0.1, 0.2, 0.7])
    assert answer["llm_called"] is True
    assert LabelFusionPipeline(llm=[mine], **options)(["good", "bad"])
    pipe = LabelFusionPipeline(**options)  # reloaded: functions are not saved
    answer = pipe("good", return_sources=True)[0]
    assert answer["sources"]["callable/mine"] is None
    assert answer["llm_called"] is False
    assert "pass it as `llm=`" in caplog.text


def test_llm_in_place_of_the_declared_ones(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(num_providers=2)
    options: dict[str, Any] = {"model": model, "tokenizer": tiny_tokenizer, "device": "cpu"}
    pipe = LabelFusionPipeline(llm=[None, FakeScorer("mine")], **options)
    sources = pipe("good", return_sources=True)[0]["sources"]
    assert sources["llm0"] is None
    assert sources["llm1"]["class1"] == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"`llm` must name 2 LLMs"):
        LabelFusionPipeline(llm=lambda texts: None, **options)("good")
    with pytest.raises(ValueError, match=r"`llm` must name 2 LLMs"):
        LabelFusionPipeline(llm=[LLMProvider("recorded")], **options)("good")
    with pytest.raises(ValueError, match="not both"):
        LabelFusionPipeline(llm="recorded", scorers=[FakeScorer()], **options)
    options["model"] = make_model(num_providers=0)
    with pytest.raises(ValueError, match="made without LLMs"):
        LabelFusionPipeline(llm="openai/gpt-5-nano", **options)


def test_scorers_that_do_not_fit_are_refused(model: Model, tiny_tokenizer: Tokenizer) -> None:
    wrong = FakeScorer()
    wrong.labels = ["a", "b", "c"]
    for scorers, message in (([wrong], r"model's classes are"), ([], "declares 1 LLM providers")):
        with pytest.raises(ValueError, match=message):
            run(model, tiny_tokenizer, TEXTS[:3], scorers=scorers)
    with pytest.raises(ValueError, match=r"Input 1 has no text: it is None"):
        run(model, tiny_tokenizer, cast(Any, ["a", None]))
    with pytest.raises(ValueError, match="3 entries for 2 texts"):
        run(model, tiny_tokenizer, ["a", "b"], llm_scores=[None] * 3)
