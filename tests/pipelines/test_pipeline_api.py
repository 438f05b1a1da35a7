"""The pipeline with an LLM behind an API: a real HTTP server on loopback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelfusion.scoring import ScoringError
from llm_server import LLMServer, truth
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model
from labelfusion import LabelFusionPipeline

MakeModel = Callable[..., Model]
LABELS = ["World", "Sports", "Business"]
TEXTS = [f"w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(400)]


@pytest.fixture
def make_pipe(make_model: MakeModel, tiny_tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., LabelFusionPipeline]:
    def make(server: LLMServer, **provider: Any) -> LabelFusionPipeline:
        declared = {"model": "test", "name": "judge", "api_base": server.url, "method": "json", **provider}
        model = make_model(id2label=dict(enumerate(LABELS)), llm_providers=[declared])
        options = {"store": tmp_path / "scores.db"}
        return LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", llm_options=options)

    return make


def test_a_stream_is_answered_and_paid_once(make_pipe: Callable[..., LabelFusionPipeline]) -> None:
    with LLMServer(labels=LABELS, latency=0.01, faults={"500": 0.05, "429": 0.05, "refusal": 0.1}) as server:
        pipe = make_pipe(server, price=(1.0, 1.0))
        answers = list(pipe(iter(TEXTS), return_sources=True))
        assert all(answer["llm_called"] for answer in answers)
        refused = 0
        for text, answer in zip(TEXTS, answers, strict=True):
            said = answer["sources"]["judge"]
            if said is None:
                refused += 1
            else:
                assert list(said.values()) == pytest.approx(truth(text, LABELS), abs=1e-5)
        assert 0 < refused < 100
        assert sum(answer["cost_usd"] for answer in answers) > 0
        assert server.peak > 1
        asked = server.requests
        again = list(pipe(iter(TEXTS), return_sources=True))
    answered = [a["sources"]["judge"] for a in answers if a["sources"]["judge"]]
    assert [b["sources"]["judge"] for a, b in zip(answers, again, strict=True) if a["sources"]["judge"]] == answered
    assert server.requests - asked < 2 * refused + 20  # what is stored is not asked again
    assert max(server.paid.values()) == 1


def test_a_budget_in_dollars(make_pipe: Callable[..., LabelFusionPipeline]) -> None:
    with LLMServer(labels=LABELS) as server:
        pipe = make_pipe(server, price=(10.0, 10.0))
        answers = pipe(TEXTS, return_sources=True, max_cost_usd=0.1)
    spent = sum(answer["cost_usd"] for answer in answers)
    called = sum(answer["llm_called"] for answer in answers)
    assert 0.05 < spent <= 0.1 + 32 * spent / called  # no more than what is in flight
    assert 0 < called < 400
    assert called == sum(answer["sources"]["judge"] is not None for answer in answers)


def test_an_outage_is_masked(make_pipe: Callable[..., LabelFusionPipeline]) -> None:
    with LLMServer(labels=LABELS, faults={"prose": 1.0}) as server:
        pipe = make_pipe(server)
        answers = pipe(TEXTS[:8], return_sources=True, top_k=None)
    alone = pipe(TEXTS[:8], llm_policy="never", top_k=None)
    assert [answer["labels"] for answer in answers] == alone


def test_a_missing_key_is_explained(
    make_model: MakeModel, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pipe = LabelFusionPipeline(
        model=make_model(llm_providers=["openai/gpt-5-nano"]), tokenizer=tiny_tokenizer, device="cpu"
    )
    with pytest.raises(ScoringError, match=r"OPENAI_API_KEY.*llm_policy='never'"):
        pipe("good")
    assert pipe("good", llm_policy="never")
