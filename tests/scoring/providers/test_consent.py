"""What the config of somebody else's model may do: a walk over every field, with a server that nothing may reach."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer, point_client_at
from huggingface_hub import constants, snapshot_download
from labelfusion.configuration import LabelFusionConfig, LLMProvider
from labelfusion.hub_scripts.space.space_page import why_not
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.guidelines import write_guidelines
from labelfusion.scoring.model_scorers import build_scorers
from labelfusion.scoring.providers.consent import MAX_CHARACTERS, allowed, sampling_parameters
from sklearn.base import clone
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from labelfusion import AutoFusionClassifier

make_pipeline: Any = pipeline
LABELS = ["x", "y", "z"]
CANARY = "canary-value-of-a-variable"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_ORG_ID", "MY_SECRET")


class Canary:
    """A server that stands for the author's: it answers as an LLM would, and keeps all that it was sent."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        canary = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length).decode("utf-8", "replace")
                canary.seen.append(f"{self.command} {self.path}\n{self.headers}\n{body}")
                answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": '{"x": 100}'}}]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None: ...

        for verb in ("GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"):
            setattr(Handler, f"do_{verb}", Handler._any)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    server = Canary()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, CANARY)
    for name in ("LABELFUSION_SERVERS", "LABELFUSION_KEYS", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def foreign(**values: Any) -> LLMProvider:
    return replace(LLMProvider(**{"model": "openai/gpt-5-nano", **values}), source="me/evil")


def hostile(url: str) -> dict[str, list[dict[str, Any]]]:
    """For each field of a provider, declarations that would send something, or spend, if they were taken."""
    host = url.removeprefix("http://").removesuffix("/v1")
    other = {"model": "openai/x", "api_base": url, "api_key": "os.environ/MY_SECRET"}
    control: dict[str, Any] = {
        "fallbacks": [other],
        "context_window_fallback_dict": {"gpt-5-nano": "oobabooga/" + url},
        "content_policy_fallbacks": [other],
        "model": f"oobabooga/{url}",
        "messages": [{"role": "user", "content": "x"}],
        "custom_llm_provider": "oobabooga",
        "extra_headers": {"Host": host, "X-Forward": "os.environ/MY_SECRET"},
        "headers": {"Host": host},
        "default_headers": {"Host": host},
        "extra_body": {"api_base": url},
        "extra_query": {"u": url},
        "proxy_server_request": {"url": url},
        "model_list": [{"model_name": "x", "litellm_params": other}],
        "router": other,
        "api_version": "2024-01-01",
        "organization": "os.environ/MY_SECRET",
        "client": url,
        "callbacks": ["generic"],
        "success_callback": ["webhook"],
        "logger_fn": "print",
        "metadata": {"endpoint": url},
        "litellm_metadata": {"endpoint": url},
        "mock_response": "x",
        "mock_tool_calls": [{}],
        "web_search_options": {"url": url},
        "tools": [{"type": "mcp", "server_url": url}],
        "tool_choice": "auto",
        "functions": [{}],
        "response_format": {"type": "json_object"},
        "user": "os.environ/MY_SECRET",
        "n": 128,
        "best_of": 128,
        "stream": True,
        "store": True,
        "ssl_verify": "false",
        "hf_model_name": "evil/x",
        "prompt_id": "x",
        "prompt_variables": {"u": url},
        "cache": {"type": "redis", "host": host},
        "aws_bedrock_runtime_endpoint": url,
        "aws_region_name": "us-east-1",
        "aws_profile_name": "default",
        "aws_sts_endpoint": url,
        "aws_web_identity_token": "os.environ/MY_SECRET",
        "vertex_project": "evil",
        "vertex_location": "us",
        "vertex_credentials": "/etc/passwd",
        "azure_ad_token_provider": "x",
        "tenant_id": "x",
        "region_name": "x",
        "base_model": "x",
        "max_retries": 10_000,
        "num_retries": 10_000,
        "timeout": 1,
        "deployment_id": "x",
        "use_litellm_proxy": True,
        "audio": {"u": url},
        "modalities": ["audio"],
        "prediction": {"content": "x"},
        "guardrails": ["x"],
        "session_id": url,
        "no-log": True,
        # Allowed names with what is no plain value of theirs.
        "temperature": {"api_base": url},
        "top_p": "1",
        "seed": True,
        "max_tokens": 10**9,
        "max_completion_tokens": 10**9,
        "reasoning_effort": {"effort": "high", "api_base": url},
        "service_tier": url,
        "verbosity": ["low"],
        "thinking": {"type": "enabled", "api_base": url},
        "chat_template_kwargs": {"enable_thinking": url},
        "max_text_tokens": 5,
    }
    long = "a" * (MAX_CHARACTERS + 1)
    return {
        "model": [
            {"model": f"oobabooga/{url}"},
            {"model": f"OOBABOOGA/{url}", "api_base": None},
            {"model": f"huggingface/{url}"},
            {"model": f"openai/{url}"},
            {"model": f"anthropic/https:{host}"},
            *(
                {"model": m}
                for m in ("gpt-5-nano", "replicate/evil/x", "azure/evil", "bedrock/evil", "petals/x", "custom/x")
            ),
            *(
                {"model": m}
                for m in ("ollama/x", "hosted_vllm/x", "vertex_ai/x", "litellm_proxy/x", "github_copilot/x")
            ),
            *({"model": m} for m in ("sagemaker/evil", "databricks/x", "openai/../x", "openai/x y", "baseten/x")),
            {"model": "hosted_vllm/" + "x" * 300},
            *({"model": f"local/{p}"} for p in ("/etc", "~/models/x", "../x", ".", "a/b/c", "\\\\host\\share")),
        ],
        "name": [{"name": "a" * 201}, {"name": "a\x1b[2J"}, {"name": 5}],
        "method": [],
        "prompt": [],
        "num_examples": [{"prompt": "nearest", "num_examples": 100_000}],
        "examples": [
            {"prompt": "few-shot", "examples": [{"text": long, "label": "x"}]},
            {"prompt": "few-shot", "examples": [{"text": "x", "label": "x", "image_url": url}]},
        ],
        "templates": [{"templates": [long]}, {"templates": ["x"] * 17}, {"templates": [{"image_url": url}]}],
        "guidelines": [{"guidelines": long}, {"guidelines": [{"type": "image_url", "image_url": url}]}],
        "verbalizers": [{"verbalizers": {"x": ["word"] * MAX_CHARACTERS}}],
        "prior": [],
        "api_base": [
            {"api_base": url},
            {"api_base": url.replace("127.0.0.1", "localhost")},
            {"api_base": url.replace("127.0.0.1", "0.0.0.0")},
            {"api_base": url.replace("127.0.0.1", "[::ffff:127.0.0.1]")},
            {"api_base": f"http://api.openai.com\\@{host}/v1"},
            {"api_base": f"http://{host}#@api.openai.com/v1"},
            {"api_base": f"http://{host}?x=1"},
            {"api_base": f"ftp://{host}/"},
            {"api_base": "http://169.254.169.254/latest"},
            {"api_base": "https://api.openai.com/v1/"},
            {"model": "azure/x", "api_base": url},
            {"model": "anthropic/x", "api_base": url},
            {"model": "bedrock/x", "api_base": url},
            {"model": "local/x", "api_base": url},
        ],
        "api_key_env": [
            {"api_key_env": "MY_SECRET"},
            {"api_key_env": "HF_TOKEN"},
            {"model": "anthropic/x", "api_key_env": "OPENAI_API_KEY"},
            {"api_base": url, "api_key_env": "OPENAI_API_KEY"},
            {"api_base": url, "api_key_env": "MY_SECRET"},
        ],
        "params": [
            *({"params": {name: value}} for name, value in control.items()),
            *({"model": "anthropic/x", "params": {name: value}} for name, value in control.items()),
            *({"api_base": url, "params": {name: value}} for name, value in control.items()),
            {"model": "local/x/y", "params": {"temperature": 1}},
        ],
        "price": [],  # not believed, see below
        "texts_per_request": [{"texts_per_request": 10**6}, {"texts_per_request": 1.5}],
        "votes": [{"votes": 10**6}, {"votes": 2.5}],
        "min_option_mass": [],  # says how an answer is read
        "timeout_s": [{"timeout_s": 1e-3}, {"timeout_s": 1e6}],
        "wait_for_server_s": [{"wait_for_server_s": 1e6}],
        "max_concurrency": [{"max_concurrency": 10**6}],
        "requests_per_minute": [{"requests_per_minute": 1e-9}],
        "tokens_per_minute": [{"tokens_per_minute": 1e-9}],
        "source": [],
    }


def test_every_field_is_judged(canary: Canary) -> None:
    """A field that is added fails here, and is refused from the Hub, until somebody has judged it."""
    assert set(hostile(canary.url)) == {field.name for field in fields(LLMProvider)}


@pytest.mark.parametrize("field", [field.name for field in fields(LLMProvider)])
def test_no_field_sends_anything_to_its_author(field: str, canary: Canary) -> None:
    for values in hostile(canary.url)[field]:
        try:
            provider = foreign(**values)
        except ValueError:
            continue  # refused whoever says it
        for attempt in (
            lambda p=provider: score_texts([build_scorer(p, LABELS, False, cache=False)], ["a user's text"]),
            lambda p=provider: write_guidelines(p, LABELS, pool=(["a user's text"], ["x"])),
        ):
            with pytest.raises(ScoringError, match=r"me/evil (declares an LLM with|wants)") as error:
                attempt()
            assert CANARY not in str(error.value), values
        assert "me/evil" in (why_not(provider) or ""), values
    assert canary.seen == []


@pytest.mark.skipif(find_spec("litellm") is None, reason="needs litellm")
def test_the_same_words_from_the_user_do_reach_the_server(canary: Canary) -> None:
    """Otherwise the walk above would show nothing."""
    for own in (
        LLMProvider(f"oobabooga/{canary.url.removesuffix('/v1')}", method="json"),
        LLMProvider("openai/x", api_base=canary.url, api_key_env="MY_SECRET", method="json"),
    ):
        score_texts([build_scorer(own, LABELS, False, cache=False)], ["a user's text"])
        assert "a user's text" in canary.seen[-1]
        canary.seen.clear()


@pytest.mark.parametrize("host", ["{host}", "127.0.0.1"])
def test_an_allowed_server_gets_texts_and_the_allowed_key_alone(
    monkeypatch: pytest.MonkeyPatch, canary: Canary, host: str
) -> None:
    monkeypatch.setenv("OPENAI_PROJECT_ID", CANARY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Mine: {CANARY}")
    monkeypatch.setenv("LABELFUSION_SERVERS", f"other.example, {host.format(host=canary.host)}")
    provider = foreign(api_base=canary.url, method="json")
    score_texts([build_scorer(provider, LABELS, False, cache=False)], ["a user's text"])
    assert len(canary.seen) == 1
    assert "a user's text" in canary.seen[0]
    assert CANARY not in canary.seen.pop()
    monkeypatch.setenv("MINE", "the-key-of-this-server")
    with pytest.raises(ScoringError, match="LABELFUSION_KEYS=MINE"):
        build_scorer(replace(provider, api_key_env="MINE"), LABELS, False)
    monkeypatch.setenv("LABELFUSION_KEYS", "OTHER,MINE")
    score_texts([build_scorer(replace(provider, api_key_env="MINE"), LABELS, False, cache=False)], ["a user's text"])
    assert "the-key-of-this-server" in canary.seen[0]
    assert CANARY not in canary.seen.pop()


def test_what_a_model_from_the_hub_may_say() -> None:
    sampling = {
        **{"temperature": 0, "top_p": 0.9, "min_p": 0.1, "top_k": 5, "seed": 3, "max_tokens": 50},
        **{"max_completion_tokens": 5, "frequency_penalty": -1, "presence_penalty": 0.5, "repetition_penalty": 1.1},
        **{"reasoning_effort": "minimal", "service_tier": "flex", "verbosity": "low"},
        **{"thinking": {"type": "enabled", "budget_tokens": 1024}, "chat_template_kwargs": {"enable_thinking": False}},
    }
    assert sampling.keys() == sampling_parameters().keys()
    for values in (
        {
            "params": sampling,
            "api_key_env": "OPENAI_API_KEY",
            "votes": 9,
            "prompt": "few-shot",
            "name": "the small one",
        },
        {"examples": [{"text": "t", "label": "x"}, {"text": "u", "labels": ["x", "y"]}], "guidelines": "Think."},
        {"model": "local/HuggingFaceTB/SmolLM2-135M", "params": {"max_text_tokens": 64, "word_power": 0.5}},
        {"model": "embedded/smollm2-135m-instruct", "verbalizers": {"x": ["word"]}, "prior": [0.0, 1.0, 2.0]},
        {"model": "openrouter/qwen/qwen3-8b:free"},
        {"model": "fireworks_ai/accounts/fireworks/models/x", "max_concurrency": 64, "tokens_per_minute": 1e6},
        {"model": "callable/mine", "params": {"anything": {}}},  # asks nobody
        {"model": "recorded"},
    ):
        assert allowed(foreign(**values), LABELS, {"x": "words"}) == foreign(**values)


def test_a_price_is_not_believed() -> None:
    assert allowed(foreign(price=(0.0, 0.0))).price is None
    assert allowed(LLMProvider("openai/x", price=(0.0, 0.0))).price == (0.0, 0.0)


def test_class_names_and_descriptions_count(make_model: Callable[..., Any]) -> None:
    with pytest.raises(ScoringError, match=r"50\d\d\d characters for its prompts"):
        build_scorer(foreign(), LABELS, False, {"x": "a" * MAX_CHARACTERS})
    config = make_model(class_descriptions={"class0": "a" * MAX_CHARACTERS}).config
    config.name_or_path = "me/evil"
    with pytest.raises(ScoringError, match="characters for its prompts"):
        build_scorers(config, "openai/mine")
    build_scorers(config, lambda texts: [[0.2, 0.3, 0.5]] * len(texts))
    config = make_model(llm_providers=["openai/x"] * 11).config
    config.name_or_path = "me/evil"
    with pytest.raises(ScoringError, match="declares 11 LLMs"):
        build_scorers(config)


@pytest.fixture
def evil(
    saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, canary: Canary
) -> Iterator[Path]:
    """The Hub with the model me/evil, whose config says that it is a folder of the user's; the folder it came from."""
    provider = {"model": "openai/x", "api_base": canary.url, "method": "json"}
    folder = saved_model(llm_providers=[provider])
    config = json.loads((folder / "config.json").read_text())
    own = {"_name_or_path": str(folder), "name_or_path": str(folder), "_llm_sources": [None], "source": None}
    config["encoder_config"]["_name_or_path"] = str(folder)
    config |= {name: value for name, value in own.items() if name != "source"}
    (folder / "config.json").write_text(json.dumps(config))
    with HubServer() as hub:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.repos["model:me/evil"] = {"private": False, "files": files, "commits": []}
        point_client_at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield folder


TEXTS = ["a good movie", "the bank", "a match", "a bad film"] * 4
ANSWERS = ["class0", "class1", "class2", "class0"] * 4


def test_every_way_from_the_hub_to_an_llm(evil: Path, canary: Canary, tiny_encoder_dir: str, tmp_path: Path) -> None:
    clf = AutoFusionClassifier.from_pretrained("me/evil")
    again = clone(clf).set_params(encoder=tiny_encoder_dir, encoder_training="probe", labels=None)
    model = LabelFusionForSequenceClassification.from_pretrained("me/evil")
    config = LabelFusionConfig.from_pretrained("me/evil")
    cached = snapshot_download("me/evil")
    ways: list[Callable[[], Any]] = [
        lambda: make_pipeline("labelfusion-classification", model="me/evil")(TEXTS[:1]),
        lambda: make_pipeline("labelfusion-classification", model=cached)(TEXTS[:1]),
        lambda: make_pipeline("labelfusion-classification", model=model, tokenizer="me/evil")(TEXTS[:1]),
        lambda: clf.predict(TEXTS[:1]),
        lambda: clf.evaluate((TEXTS, ANSWERS)),
        lambda: AutoFusionClassifier.from_pretrained(cached).predict(TEXTS[:1]),
        lambda: AutoFusionClassifier.from_pretrained("me/evil", llm="openai/x").predict(TEXTS[:1]),
        lambda: again.fit(TEXTS, ANSWERS),
        lambda: again.set_params(write_guidelines=True).fit(TEXTS, ANSWERS),
        lambda: AutoFusionClassifier(encoder=tiny_encoder_dir, llm=config.providers).fit(TEXTS, ANSWERS),
        lambda: build_scorers(config),
        lambda: build_scorers(AutoConfig.from_pretrained("me/evil")),
        lambda: build_scorers(LabelFusionForSequenceClassification(config).config),
        lambda: build_scorers(AutoModelForSequenceClassification.from_pretrained("me/evil").config),
        lambda: build_scorers(LabelFusionConfig(llm_providers=config.providers, num_labels=3)),
        lambda: build_scorer(config.providers[0], LABELS, False),
        lambda: write_guidelines(config.providers[0], LABELS),
    ]
    for number, way in enumerate(ways):
        with pytest.raises(ScoringError, match=f"LABELFUSION_SERVERS={canary.host}"):
            way()
        assert canary.seen == [], number
    assert len(clf.predict(TEXTS[:2], llm_policy="never")) == 2
    saved = json.loads(config.to_json_string())
    assert not {"_llm_sources", "source"} & (saved.keys() | saved["llm_providers"][0].keys())
    own = LLMProvider("openai/x", api_base=canary.url, method="json", price=(0, 0))  # word for word, but the user's
    AutoFusionClassifier.from_pretrained("me/evil", llm=own, cache=False).predict(["a user's text"])
    assert len(canary.seen) == 1
    canary.seen.clear()
    AutoFusionClassifier.from_pretrained(evil, cache=False).predict(["a user's text"])  # a folder of one's own
    assert len(canary.seen) == 1
    canary.seen.clear()


def test_what_was_foreign_stays_foreign(
    evil: Path, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LabelFusionForSequenceClassification.from_pretrained("me/evil")
    config = LabelFusionConfig.from_pretrained("me/evil")
    given_on = LabelFusionForSequenceClassification.from_pretrained(evil, config=config)
    monkeypatch.chdir(tmp_path)
    Path("me/evil").mkdir(parents=True)  # such as the `output_dir` of a training run
    for found in (model.config, config, given_on.config):
        with pytest.raises(ScoringError, match=f"LABELFUSION_SERVERS={canary.host}"):
            build_scorers(found)


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_the_command(verb: str, evil: Path, canary: Canary, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from labelfusion.hub_scripts.cli import main

    data = tmp_path / "data.csv"
    data.write_text("text,label\na good movie,class0\nthe bank,class1\n")
    assert main([verb, "me/evil", str(data), *([str(tmp_path / "out.csv")] if verb == "predict" else [])]) == 2
    assert f"LABELFUSION_SERVERS={canary.host}" in capsys.readouterr().err
    assert canary.seen == []


def test_a_space_says_what_to_allow(evil: Path, canary: Canary, tmp_path: Path) -> None:
    from labelfusion.hub_scripts.space.space_folder import write_space

    readme = (write_space("me/evil", tmp_path / "space") / "README.md").read_text()
    assert f"`LABELFUSION_SERVERS={canary.host}`" in readme
    readme = (write_space(evil, tmp_path / "own") / "README.md").read_text()
    assert "LABELFUSION_SERVERS" not in readme


def test_weights_of_a_local_llm_that_a_stranger_names_are_no_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any
) -> None:
    from labelfusion.scoring.local import local_scorer
    from transformers import GPT2Config, GPT2LMHeadModel

    lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny_tokenizer), n_embd=16, n_layer=1, n_head=2))
    lm.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(lm.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(local_scorer, "resolve_model", lambda name: tmp_path)
    with pytest.raises(ScoringError, match="safetensors"):
        score_texts([build_scorer(foreign(model="local/me/llm"), LABELS, False)], ["a text"])
    score_texts([build_scorer("local/me/llm", LABELS, False)], ["a text"])  # the user's own choice


def test_a_local_model_of_this_machine_is_not_named_by_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    allowed(foreign(model="local/me/llm"))
    (tmp_path / "me" / "llm").mkdir(parents=True)
    with pytest.raises(ScoringError, match="not a path"):
        allowed(foreign(model="local/me/llm"))


def test_an_encoder_on_this_machine_is_not_named_by_a_stranger(evil: Path) -> None:
    assert AutoFusionClassifier.from_pretrained("me/evil").encoder == "roberta-base"
