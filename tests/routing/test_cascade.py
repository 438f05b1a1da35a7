"""Several LLMs, asked one after the other, from cheap to dear."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_scorer import FakeScorer
from labelfusion.pipelines import run
from labelfusion.routing.gate import NEVER, gate_values
from labelfusion.scoring.probabilities import to_probabilities
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model
from labelfusion import LabelFusionPipeline

TEXTS = list(dict.fromkeys(f"w{i % 10} good movie w{i // 10 % 10} bad" for i in range(100)))


def stage(threshold: float, recall: float = 0.9) -> dict[str, Any]:
    return {"recall": [recall] * 3, "rate": [1 / 3] * 3, "threshold": threshold}


@pytest.fixture
def model(make_model: Callable[..., Model]) -> Model:
    return make_model(llm_providers=["openai/small", "openai/large"])


def test_each_stage_hears_those_before_it(model: Model, tiny_tokenizer: Tokenizer) -> None:
    calibration = model.config.calibration
    probs = run(model, tiny_tokenizer, TEXTS, llm_policy="never").encoder_probabilities
    values, _ = gate_values(probs, {"gate": {"stages": [stage(0.0)] * 2}}, False, stage=0)
    first = float(np.quantile(values, 0.4))
    calibration["gate"] = {"stages": [stage(first), stage(NEVER)]}
    small, large = FakeScorer("small", cost=0.001), FakeScorer("large", cost=0.1)
    result = run(model, tiny_tokenizer, TEXTS, scorers=[small, large], llm_policy="auto")
    assert set(small.asked) == {text for text, value in zip(TEXTS, values, strict=True) if value > first}
    assert large.asked == []
    after = to_probabilities(result.logits, False, np.float32)
    second_values, _ = gate_values(after, calibration, False, stage=1)
    calibration["gate"]["stages"][1] = stage(float(np.quantile(second_values, 0.7)))
    small, large = FakeScorer("small", cost=0.001), FakeScorer("large", cost=0.1)
    result = run(model, tiny_tokenizer, TEXTS, scorers=[small, large], llm_policy="auto")
    wanted = second_values > calibration["gate"]["stages"][1]["threshold"]
    assert set(large.asked) == {text for text, yes in zip(TEXTS, wanted, strict=True) if yes}
    assert 0 < len(large.asked) < len(small.asked)
    np.testing.assert_array_equal(result.answered[:, 1], wanted)
    assert result.cost_usd.sum() == pytest.approx(0.001 * len(small.asked) + 0.1 * len(large.asked))
    np.testing.assert_array_equal(result.llm_called, result.answered.any(axis=1))


def test_a_cascade_of_recorded_scores(make_model: Callable[..., Model], tiny_tokenizer: Tokenizer) -> None:
    model = make_model(num_providers=2)
    model.config.calibration["gate"] = {"stages": [stage(0.02), stage(NEVER)]}
    given = np.tile([0.1, 0.1, 0.8], (len(TEXTS), 2, 1))
    result = run(model, tiny_tokenizer, TEXTS, llm_scores=given, llm_policy="auto")
    assert not result.answered[:, 1].any()
    assert 0 < result.answered[:, 0].sum() < len(TEXTS)
    assert run(model, tiny_tokenizer, TEXTS, llm_scores=given, llm_policy="always").answered.all()


def test_a_stream_and_a_failing_stage(model: Model, tiny_tokenizer: Tokenizer) -> None:
    model.config.calibration["gate"] = {"stages": [stage(-1.0), stage(-1.0)]}
    small, large = FakeScorer("small", fail=TEXTS), FakeScorer("large")
    pipe = LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", scorers=[small, large])
    answers = list(pipe((text for text in TEXTS), llm_policy="auto", return_sources=True))
    assert len(answers) == len(TEXTS)
    assert all(a["sources"]["openai/small"] is None and a["sources"]["openai/large"] is not None for a in answers)
    assert all(a["llm_missing"] == "small: refused" for a in answers)


def test_a_share_asks_all_llms_at_once(model: Model, tiny_tokenizer: Tokenizer) -> None:
    model.config.calibration["gate"] = {**stage(0.5), "stages": [stage(-1.0), stage(NEVER)]}
    small, large = FakeScorer("small"), FakeScorer("large")
    run(model, tiny_tokenizer, TEXTS, scorers=[small, large], llm_policy=0.3)
    assert sorted(small.asked) == sorted(large.asked)
    assert len(small.asked) == round(0.3 * len(TEXTS))
