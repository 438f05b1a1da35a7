"""Where a model string leads, where its key comes from, and what is imported for it."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LLMProvider
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.providers.endpoints import resolve
from labelfusion.scoring.score_batch import ScoreBatch
from llm_server import LABELS, LLMServer, truth

TEXTS = [f"a text with the number {i}" for i in range(60)]
KEY = "sk-" + "0123456789abcdef" * 2


def scorer(server: LLMServer, *, cache: bool = False, failure_limit: int = 20, **fields: Any) -> Any:
    provider = {"model": "m", "api_base": server.url, "method": "json", **fields}
    return build_scorer(provider, LABELS, False, cache=cache, failure_limit=failure_limit)


def score(server: LLMServer, texts: list[str] = TEXTS, max_cost_usd: float | None = None, **fields: Any) -> ScoreBatch:
    return score_texts([scorer(server, **fields)], texts, max_cost_usd=max_cost_usd)[1][0]


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG, logger="labelfusion")
    store = tmp_path / "s.sqlite"
    with LLMServer(keep=True, faults={"500": 0.1, "refusal": 0.1}) as server:
        provider = {"model": "m", "api_base": server.url, "method": "json", "api_key_env": "MY_KEY"}
        one = build_scorer(provider, LABELS, False, store=store)
        _, batches = score_texts([one], TEXTS)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    one.store  # noqa: B018
    files = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert KEY.encode() not in files
    assert b"a text with the number" not in files
    assert KEY not in caplog.text + str(batches[0].errors) + repr(one.__dict__)
    with LLMServer(status=401) as server:
        provider["api_base"] = server.url
        with pytest.raises(ScoringError) as error:
            score_texts([build_scorer(provider, LABELS, False, cache=False)], TEXTS)
        assert "MY_KEY" in str(error.value)
        assert "sk-" not in str(error.value)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, name in (("openai", "OPENAI_API_KEY"), ("gemini/x", "GEMINI_API_KEY"), ("deepseek", "DEEPSEEK_API_KEY")):
        monkeypatch.delenv(name, raising=False)
        with pytest.raises(ScoringError, match=f"set the environment variable {name}"):
            score_texts([build_scorer(model, LABELS, False, cache=False)], ["t"])


@pytest.mark.parametrize(
    ("fields", "model", "base"),
    [
        ({"model": "openai/gpt-5-nano"}, "gpt-5-nano", "https://api.openai.com/v1"),
        ({"model": "deepseek/deepseek-flash"}, "deepseek-flash", "https://api.deepseek.com"),
        ({"model": "gemini/g"}, "g", "https://generativelanguage.googleapis.com/v1beta/openai"),
        ({"model": "openai/x", "api_base": "http://localhost:8000"}, "x", "http://localhost:8000/v1"),
        ({"model": "ollama/llama3", "api_base": "http://localhost:11434/v1/"}, "llama3", "http://localhost:11434/v1"),
        ({"model": "Qwen/Qwen3-8B", "api_base": "http://h/v1"}, "Qwen/Qwen3-8B", "http://h/v1"),
        ({"model": "anthropic/claude"}, "anthropic/claude", None),
        ({"model": "azure/d", "api_base": "https://x.openai.azure.com"}, "azure/d", None),
    ],
)
def test_where_a_model_leads(
    fields: dict[str, Any], model: str, base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    endpoint = resolve(LLMProvider(**fields))
    assert (endpoint.model, endpoint.base) == (model, base)


def python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_imports_stay_light() -> None:
    code = "import labelfusion, sys; print([m for m in ('litellm', 'openai', 'sqlite3') if m in sys.modules])"
    assert python(code) == "[]\n"
    # Transformers, which the configuration needs, loads sqlite3 by itself.
    code = (
        "from labelfusion.scoring import factory; from labelfusion.scoring.session import runner; import sys;"
        "print(*{'litellm', 'openai'} & {*sys.modules})"
    )
    assert python(code) == "\n"


def test_openai_compatible_servers_need_no_litellm(tmp_path: Path) -> None:
    with LLMServer() as server:
        code = (
            "import sys; sys.modules['litellm'] = None\n"
            "from labelfusion.scoring import build_scorer, score_texts\n"
            f"scorer = build_scorer({{'model': 'openai/m', 'method': 'json'}}, {LABELS}, False, cache=False)\n"
            "print(score_texts([scorer], ['a', 'b'])[1][0].errors)"
        )
        assert python(code, OPENAI_BASE_URL=server.url, OPENAI_API_KEY="none") == "{}\n"


@pytest.mark.slow
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("method", ["json", "logprob", "decision", "auto"])
def test_models_through_litellm(method: str, multi_label: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litellm")
    offers = {"logprobs", "temperature", "json_schema", "json_object"} | (
        {"decisions"} if method == "decision" else set()
    )
    with LLMServer(offers=offers, multi_label=multi_label, faults={"500": 0.1, "429": 0.1, "refusal": 0.1}) as server:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", server.url)  # litellm's own variable
        fields = {"model": "hosted_vllm/m", "method": method, "price": (1, 1)}
        assert resolve(LLMProvider.from_any(fields)).uses_litellm
        one = build_scorer(fields, LABELS, multi_label, cache=False)
        _, batches = score_texts([one], TEXTS)
        assert batches[0].method == ("logprob" if method == "auto" else method)
        given = batches[0].mask
        assert 40 < given.sum() < 60
        assert set(batches[0].errors) == set(np.flatnonzero(~given))
        assert set(batches[0].errors.values()) == {"refused"}
        right = np.array([truth(t, LABELS, multi_label) for t in TEXTS])
        np.testing.assert_allclose(batches[0].scores[given], right[given], atol=1e-6)
        assert server.stats()["paid_twice"] == 0
        assert batches[0].usage.cost_usd > 0
