"""Where the scores of a provider come from: decided in one place, and the same everywhere."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LabelFusionConfig, LLMProvider, ProviderKind
from labelfusion.hub_scripts.cards.llm_needs import api_providers, clients, keys
from labelfusion.hub_scripts.space.space_page import why_not
from labelfusion.scoring import build_scorer, score_texts
from labelfusion.scoring.guidelines import write_guidelines
from labelfusion.scoring.providers.consent import allowed, consent_needed
from labelfusion.training.data import LabelledTexts
from labelfusion.training.scored_rows import ScoringOptions, complete_providers, score_training_rows
from llm_server import LLMServer

LABELS = ["x", "y"]
SPELLINGS = [
    ({"model": "openai/gpt-5-nano"}, "api"),
    ({"model": "vllm/m", "api_base": "http://localhost:1/v1"}, "api"),
    ({"model": "local/m", "api_base": "http://localhost:1/v1"}, "api"),
    ({"model": "recorder/m"}, "api"),
    ({"model": "local/some/model"}, "local"),
    ({"model": "embedded/smollm2-135m-instruct", "method": "likelihood"}, "local"),
    ({"model": "recorded"}, "recorded"),
    ({"model": "recorded/gpt-5-nano"}, "recorded"),
    ({"model": "openai/gpt-5-nano", "method": "recorded"}, "recorded"),
    ({"model": "local/some/model", "method": "recorded"}, "recorded"),
    ({"model": "callable/f", "method": "recorded"}, "recorded"),
    ({"model": "recorded/m", "api_base": "http://localhost:1/v1"}, "recorded"),
    ({"model": "callable"}, "callable"),
    ({"model": "callable/f"}, "callable"),
    ({"model": "openai/gpt-5-nano", "method": "callable"}, "callable"),
]


@pytest.mark.parametrize(("fields", "kind"), SPELLINGS)
def test_every_place_sees_the_same_kind(fields: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    provider = LLMProvider.from_any(fields)
    assert provider.kind == ProviderKind(kind)
    assert provider.is_local == (kind == "local")
    config = LabelFusionConfig(llm_providers=[fields], num_labels=2)
    assert config.providers[0].kind == provider.kind
    assert len(api_providers(config)) == (kind == "api")
    if kind in ("recorded", "callable"):
        assert type(build_scorer(provider, LABELS, False)).__name__ == f"{kind.title()}Scorer"
        assert clients(config) == keys(config) == []
        said = why_not(provider)
        assert said is not None
        assert ("scores came with the training data" if kind == "recorded" else "a Python function") in said
        foreign = replace(provider, source="someone/model")
        assert allowed(foreign) is foreign
        assert consent_needed(foreign) == {}
    if kind != "api":
        with pytest.raises(ValueError, match="cannot write guidelines"):
            write_guidelines(provider, LABELS)


@pytest.mark.parametrize("fields", [{"model": "m", "method": "recorded"}, {"model": "recorded/m"}])
def test_what_is_recorded_costs_nothing(fields: dict[str, Any]) -> None:
    """Guidelines included: nobody would read them."""
    with LLMServer(keep=True) as server:
        config = LabelFusionConfig(llm_providers=[{**fields, "api_base": server.url}], num_labels=3)
        scores = np.full((4, 1, 3), np.nan, dtype=np.float32)
        scores[:3] = 1 / 3
        data = LabelledTexts([f"text {i}" for i in range(4)], np.array([0, 1, 2, 0]), scores, config.label_names)

        def scorers() -> list[Any]:
            return [build_scorer(p, config.label_names, False) for p in config.providers]

        found, spent = score_training_rows(data, config, scorers, ScoringOptions(max_rows=10, write_guidelines=True))
        assert found is not None
        assert np.array_equal(found, scores, equal_nan=True)
        _, (batch,) = score_texts(scorers(), ["text"])
        assert (spent, batch.usage.requests, server.requests) == (0.0, 0, 0)


def test_a_foreign_config_cannot_call_its_server_recorded() -> None:
    """What is not checked is not queried either."""
    with LLMServer() as server:
        provider = LLMProvider("recorded/m", api_base=server.url, source="someone/model")
        _, (batch,) = score_texts([build_scorer(provider, LABELS, False)], ["a user's text"])
        assert not batch.mask.any()
        assert server.requests == 0


def test_gpt_with_recorded_scores_asks_nobody_for_guidelines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The declaration of a hosted LLM whose scores come with the data, beside a function."""
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    with LLMServer(keep=True) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        declared: list[Any] = [LLMProvider("openai/gpt-5-nano", method="recorded"), "callable/f"]
        config = LabelFusionConfig(llm_providers=declared, num_labels=2)
        data = LabelledTexts(["a", "b"], np.array([0, 1]), None, config.label_names)
        assert complete_providers(data, config, write_guidelines=True) == 0.0
        assert server.requests == 0
        assert [provider.guidelines for provider in config.providers] == [None, None]
