"""Which texts the LLMs are asked about in a run, and when."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_scorer import FakeScorer
from labelfusion.configuration import LLMProvider
from labelfusion.pipelines import run
from labelfusion.routing.gate import uncertainty
from labelfusion.routing.policy import select
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model
from labelfusion import LabelFusionPipeline

MakeModel = Callable[..., Model]
LogCapture = pytest.LogCaptureFixture

TEXTS = [f"w{i % 10} good movie w{i // 10 % 10} bad" for i in range(100)]


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model(llm_providers=["openai/judge"])


@pytest.fixture
def encoded(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the rows that go through the encoder."""
    counts: list[int] = []
    encode = model.encode

    def counting(**inputs: Any) -> Any:
        counts.append(len(inputs["input_ids"]))
        return encode(**inputs)

    monkeypatch.setattr(model, "encode", counting)
    return counts


def test_always_asks_about_everything_that_is_not_known(
    model: Model, tiny_tokenizer: Tokenizer, encoded: list[int]
) -> None:
    scorer = FakeScorer(fail=("bad",))
    texts = ["good", "bad", "", "movie", "good", "   "]
    given = np.full((6, 1, 3), np.nan)
    given[3] = [[1.0, 0.0, 0.0]]
    result = run(model, tiny_tokenizer, texts, scorers=[scorer], llm_scores=given, empty_texts="skip")
    assert sorted(scorer.asked) == ["bad", "good"]  # the duplicate is asked once
    assert result.llm_called.tolist() == [True, True, False, False, True, False]
    assert np.isnan(result.llm_scores[[1, 2, 5]]).all()
    np.testing.assert_allclose(result.llm_scores[[0, 4], 0], [[0.2, 0.7, 0.1]] * 2)
    np.testing.assert_allclose(result.llm_scores[3, 0], [1.0, 0.0, 0.0])
    assert result.errors == {1: "judge: refused", 2: "no text", 5: "no text"}
    assert result.cost_usd.sum() == pytest.approx(0.02)
    assert result.cost_usd[~result.llm_called].sum() == 0
    assert (result.probabilities[1] == result.encoder_probabilities[1]).all()
    assert np.isnan(result.probabilities[[2, 5]]).all()
    assert sum(encoded) == 3  # three distinct texts
    assert given.shape == (6, 1, 3)
    assert np.isnan(given[0]).all()  # the caller's array is as it was


def test_never_builds_no_scorer(model: Model, tiny_tokenizer: Tokenizer) -> None:
    def scorers() -> list[Any]:
        raise AssertionError("built")

    result = run(model, tiny_tokenizer, TEXTS, scorers=scorers, llm_policy="never")
    np.testing.assert_array_equal(result.logits, result.encoder_logits)
    assert not result.llm_called.any()
    run(model, tiny_tokenizer, TEXTS[:2], scorers=scorers, llm_policy=0.0)
    assert np.isnan(run(model, tiny_tokenizer, ["", " "], scorers=scorers, empty_texts="skip").logits).all()
    run(model, tiny_tokenizer, TEXTS[:2], scorers=scorers, llm_scores=np.full((2, 1, 3), 1 / 3))
    assert len(run(model, tiny_tokenizer, [], scorers=scorers)) == 0


@pytest.mark.parametrize("policy", [0.3, "auto"])
def test_a_gate_asks_where_the_encoder_is_unsure(
    model: Model, tiny_tokenizer: Tokenizer, encoded: list[int], policy: Any
) -> None:
    texts = list(dict.fromkeys(TEXTS))
    alone = run(model, tiny_tokenizer, texts, llm_policy="never").encoder_probabilities
    model.config.calibration["gate_threshold"] = float(np.quantile(uncertainty(alone, False), 0.65))
    encoded.clear()
    scorer = FakeScorer()
    result = run(model, tiny_tokenizer, texts, scorers=[scorer], llm_policy=policy, batch_size=8)
    wanted = select(result.encoder_logits, policy, model.config)
    assert 0 < wanted.sum() < len(texts)
    assert result.llm_called.tolist() == wanted.tolist()
    assert sorted(scorer.asked) == sorted(text for text, mask in zip(texts, wanted, strict=True) if mask)
    full = run(model, tiny_tokenizer, texts, scorers=[FakeScorer()])
    np.testing.assert_allclose(result.logits[wanted], full.logits[wanted], atol=1e-5)
    np.testing.assert_allclose(result.logits[~wanted], full.encoder_logits[~wanted], atol=1e-5)
    assert sum(encoded) == 2 * len(texts)  # once in each of the two runs


def test_a_share_counts_only_texts_that_can_be_asked_about(model: Model, tiny_tokenizer: Tokenizer) -> None:
    texts = [*TEXTS[:50], *[""] * 20, *TEXTS[50:80]]
    given = [[[0.1, 0.1, 0.8]] if i % 2 else None for i in range(100)]
    scorer = FakeScorer()
    result = run(model, tiny_tokenizer, texts, scorers=[scorer], llm_scores=given, llm_policy=0.5, empty_texts="skip")
    open_texts = [i for i, text in enumerate(texts) if text and given[i] is None]
    assert result.llm_called.sum() == round(0.5 * len(open_texts))
    assert not result.llm_called[1::2].any()
    brought = [i for i, text in enumerate(texts) if text and given[i]]
    np.testing.assert_allclose(result.llm_scores[brought, 0], np.tile([0.1, 0.1, 0.8], (len(brought), 1)), atol=1e-6)


def test_the_policy_decides_which_recorded_answers_count(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(num_providers=1)  # recorded
    given = np.tile([0.1, 0.1, 0.8], (100, 1, 1))
    result = run(model, tiny_tokenizer, TEXTS, llm_scores=given, llm_policy=0.25)
    used = ~np.isnan(result.llm_scores).any(axis=(1, 2))
    assert used.tolist() == select(result.encoder_logits, 0.25, model.config).tolist()
    assert used.sum() == 25
    assert not result.llm_called.any()
    never = run(model, tiny_tokenizer, TEXTS, llm_scores=given, llm_policy="never")
    np.testing.assert_array_equal(never.logits, never.encoder_logits)
    assert not np.isnan(given).any()


def test_a_stream_is_read_no_further_than_needed(model: Model, tiny_tokenizer: Tokenizer) -> None:
    read = 0

    def stream() -> Iterator[str]:
        nonlocal read
        for i in range(5000):
            read += 1
            yield f"w{i % 10} good w{i // 10 % 10} w{i // 100 % 10} w{i // 1000}"

    scorer = FakeScorer()
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[scorer])
    for policy in ("always", 0.2):
        read, most, count = 0, 0, 0
        answers = pipe(stream(), llm_policy=policy)
        assert read == 0
        for count, _ in enumerate(answers, start=1):
            most = max(most, read - count)
        assert count == read == 5000
        assert most < 2 * 128
    assert len(scorer.asked) == pytest.approx(5000 + 1000, abs=32)


@pytest.mark.parametrize("policy", ["always", "auto"])
def test_the_llm_answers_while_the_encoder_works(
    model: Model, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    """The encoder's next batch is what lets the LLM answer: one after the other, this would time out."""
    model.config.calibration["gate_threshold"] = -1.0  # "auto" asks about all
    encoding, asking, encode = threading.Semaphore(0), threading.Event(), model.encode
    waits: list[bool] = []
    rows = 0

    async def until_the_encoder_moves(texts: list[str]) -> None:
        asking.set()
        waits.append(await asyncio.to_thread(encoding.acquire, timeout=60))

    def signalling(**inputs: Any) -> Any:
        nonlocal rows
        rows += len(inputs["input_ids"])
        if policy == "always":
            encoding.release()
        elif rows > 128:  # the first window of a gated run is encoded before anything is asked
            asking.wait(60)
            encoding.release()
        return encode(**inputs)

    monkeypatch.setattr(model, "encode", signalling)
    scorer = FakeScorer(before=until_the_encoder_moves)
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[scorer])
    texts = (f"w{i % 10} w{i // 10}" for i in range(256 if policy == "auto" else 128))
    answers = iter(pipe(texts, llm_policy=policy))
    next(answers)
    assert waits[0] is True
    encoding.release(10)
    assert len(list(answers)) > 100


def test_a_local_llm_and_the_encoder_take_turns(
    model: Model, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, encode = threading.Event(), model.encode

    async def slowly(texts: list[str]) -> None:
        busy.set()
        await asyncio.sleep(0.05)
        busy.clear()

    def alone(**inputs: Any) -> Any:
        assert not busy.is_set()
        return encode(**inputs)

    monkeypatch.setattr(model, "encode", alone)
    scorer: Any = FakeScorer(before=slowly)
    scorer.provider = LLMProvider("local/somewhere")
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[scorer])
    texts = [f"w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(400)]
    assert len(list(pipe(iter(texts)))) == len(list(pipe(iter(texts), llm_policy=0.5))) == 400
    assert len(scorer.asked) == pytest.approx(600, abs=8)


def test_a_stream_that_is_given_up_cancels_what_is_in_flight(model: Model, tiny_tokenizer: Tokenizer) -> None:
    cancelled = threading.Event()

    async def slow_after_the_first(texts: list[str]) -> None:
        if len(scorer.asked) > 128:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

    scorer = FakeScorer(before=slow_after_the_first)
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[scorer])
    answers = pipe(f"w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(512))
    next(answers)
    answers.close()
    assert cancelled.wait(5)


def test_works_inside_a_running_event_loop(model: Model, tiny_tokenizer: Tokenizer) -> None:
    async def notebook() -> Any:
        return run(model, tiny_tokenizer, TEXTS[:3], scorers=[FakeScorer()])

    assert asyncio.run(notebook()).llm_called.all()


def test_mode_and_gradients_of_the_model_are_left_alone(model: Model, tiny_tokenizer: Tokenizer) -> None:
    model.train()
    model.encoder.eval()
    first = run(model, tiny_tokenizer, TEXTS, scorers=[FakeScorer()])
    second = run(model, tiny_tokenizer, TEXTS, scorers=[FakeScorer()], progress=True)
    np.testing.assert_array_equal(first.logits, second.logits)  # no dropout
    assert model.training
    assert model.encoder_head.training
    assert not model.encoder.training
    assert not any(module.training for module in model.encoder.modules())
