"""`handler.py` of an exported repository, as an Inference Endpoint calls it. Without the package: test_export.py."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelfusion.hub_scripts.formats.self_contained import export_model
from llm_server import LLMServer

CLASSES = ["class0", "class1", "class2"]
TEXTS = ["the team is great", "the bank", "rain"]


@pytest.fixture
def endpoint(saved_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """`endpoint(**as_make_model)`: the handler of an exported model."""

    def make(**options: Any) -> Any:
        folder = export_model(saved_model(**options), tmp_path / "repository")
        spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.EndpointHandler(str(folder))

    return make


def test_texts_in_labels_out(endpoint: Callable[..., Any]) -> None:
    handler = endpoint(num_providers=1)

    answers = handler({"inputs": TEXTS})
    assert [set(a) for a in answers] == [{"label", "score"}] * 3
    assert handler({"inputs": TEXTS[0]}) == [pytest.approx(answers[0])]
    request = {
        "inputs": TEXTS[:2],
        "parameters": {"llm_scores": [[[0.98, 0.01, 0.01]], [None]], "return_sources": True},
    }
    informed = handler(json.loads(json.dumps(request)))
    assert informed[0]["sources"]["llm0"]["class0"] == pytest.approx(0.98)
    assert informed[1]["sources"]["llm0"] is None
    one = {"inputs": TEXTS[0], "parameters": {"llm_scores": [[0.98, 0.01, 0.01]], "return_sources": True}}
    assert handler(one)[0]["score"] == pytest.approx(informed[0]["score"], abs=1e-5)
    assert len(handler({"inputs": {"text": TEXTS[0]}, "parameters": {"top_k": 2}})[0]) == 2
    json.dumps([answers, informed])


def test_the_llm_is_asked_as_the_request_says(endpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", "a-key-of-the-endpoint")
    with LLMServer(labels=CLASSES) as server:
        provider = {"model": "openai/m", "api_base": server.url, "api_key_env": "ENDPOINT_KEY", "method": "json"}
        handler = endpoint(llm_providers=[{**provider, "price": [1.0, 1.0]}])
        asked = handler({"inputs": TEXTS, "parameters": {"llm_policy": 0.34, "return_sources": True}})
        assert [a["llm_called"] for a in asked].count(True) == 1
        assert server.requests == 1
        monkeypatch.delenv("ENDPOINT_KEY")
        without = type(handler)(handler.pipeline.model.config._name_or_path)
        assert handler({"inputs": TEXTS, "parameters": {"llm_policy": "never"}}) == without({"inputs": TEXTS})
        with pytest.raises(RuntimeError, match="ENDPOINT_KEY"):  # the request wants the LLM
            without({"inputs": ["another text"], "parameters": {"llm_policy": "always"}})


def test_an_endpoint_installs_the_clients_of_the_llms(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    models = ["deepseek/deepseek-chat", "mistral/small", "local/some-llm", "recorded", "callable/mine"]
    folder = export_model(saved_model(llm_providers=models), tmp_path / "asked")
    assert (folder / "requirements.txt").read_text().split() == ["litellm", "openai"]
    silent = export_model(saved_model(llm_providers=models[2:]), tmp_path / "silent")
    assert not (silent / "requirements.txt").exists()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "`inputs`"),
        ({"inputs": []}, "`inputs`"),
        ({"inputs": ["a", 3]}, "Input 1"),
        ({"inputs": "a", "parameters": {"llm": "openai/gpt-5"}}, "known are top_k"),
        ({"inputs": "a", "parameters": {"llm_policy": "sometimes"}}, "llm_policy"),
    ],
)
def test_requests_that_cannot_be_right(endpoint: Callable[..., Any], request_: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        endpoint()(request_)
