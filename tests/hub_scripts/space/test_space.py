"""The Space that shows a model: its files, and what its page answers. In a browser: test_space_browser.py."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer, point_client_at
from huggingface_hub import SpaceCard, constants
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.publish.hub import push_folder
from labelfusion.hub_scripts.publish.secret_files import refuse_secret_files
from labelfusion.hub_scripts.space.space_folder import write_space
from labelfusion.hub_scripts.space.space_page import Demonstration, why_not
from labelfusion.hub_scripts.space.space_view import dollars
from llm_server import LLMServer
from packaging.requirements import Requirement

from labelfusion import LLMProvider

CLASSES = {0: "sport", 1: "<b>money</b>", 2: "tech"}


def served(server: LLMServer, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"model": "openai/gpt-5-nano", "api_base": server.url, "method": "json", "price": [1000.0, 1000.0], **fields}
    ]


def demonstrate(model: Path, **options: Any) -> Demonstration:
    page = Demonstration(model, **options)
    page.clf.cache = False
    return page


# --- The folder ------------------------------------------------------------------------------------------------------


def test_a_space_with_the_model_in_it(
    tmp_path: Path, saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved_model(llm_providers=["openai/gpt-5-nano", "mistral/small"])
    (model / "evaluation").mkdir()
    (model / "evaluation" / "report.json").write_text("{}")
    (model / "modeling_labelfusion.py").write_text("")
    texts = ['A "quoted" text\\', "größer\nals"]
    space = write_space(model, tmp_path / "space", title="My {news}", examples=texts, max_cost_usd=0.25)
    assert {p.name for p in space.iterdir()} == {
        *("README.md", "app.py", "requirements.txt", ".gitattributes", "model")
    }
    kept = {p.name for p in (space / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= kept
    assert not kept & {"evaluation", "modeling_labelfusion.py", "README.md"}
    data = SpaceCard.load(space / "README.md").data
    assert (data.sdk, data.app_file, data.title) == ("gradio", "app.py", "My {news}")
    assert tuple(map(int, str(data.python_version).split("."))) >= (3, 11)
    text = (space / "README.md").read_text()
    assert "OPENAI_API_KEY, the key of mistral." in text
    assert "$0.25" in text
    requirement = Requirement((space / "requirements.txt").read_text().strip())
    assert requirement.name == "labelfusion-transformers"
    assert requirement.extras == {"space", "openai", "litellm"}

    called: dict[str, Any] = {}
    page = ModuleType("page")
    page.serve = lambda *args, **options: called.update(args=args, **options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "labelfusion.hub_scripts.space_app", page)
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert called == {"args": (space / "model",), "title": "My {news}", "examples": texts, "max_cost_usd": 0.25}
    monkeypatch.setenv("MAX_COST_USD", "3")
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert called["max_cost_usd"] == 3.0
    called.clear()
    runpy.run_path(str(space / "app.py"))
    assert called == {}  # importing it starts nothing


def test_a_space_of_a_model_on_the_hub(
    tmp_path: Path, saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with HubServer() as hub:
        point_client_at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        push_folder(saved_model(num_providers=0), "me/news")
        space = write_space("me/news", "space")
    assert {p.name for p in space.iterdir()} == {"README.md", "app.py", "requirements.txt", ".gitattributes"}
    data = SpaceCard.load(space / "README.md").data
    assert (data.models, data.title) == (["me/news"], "news")
    app = (space / "app.py").read_text()
    assert '"me/news",' in app
    assert "Path" not in app
    compile(app, "app.py", "exec")


def test_the_command(tmp_path: Path, saved_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    model, space = str(saved_model(num_providers=1)), tmp_path / "space"
    assert main(["export", model, str(space), "--space", "--title", "Mine", "--example", "a", "--example", "b"]) == 0
    assert "hf upload" in capsys.readouterr().out
    app = (space / "app.py").read_text()
    assert '"Mine"' in app
    assert '"b",' in app
    assert main(["export", model, str(tmp_path / "repository"), "--title", "Mine"]) == 2
    assert "goes with --space" in capsys.readouterr().err


def test_a_space_is_written_again_but_over_nothing_else(tmp_path: Path, saved_model: Callable[..., Path]) -> None:
    model = saved_model(num_providers=0)
    write_space(model, tmp_path / "space")
    assert "The encoder answers alone here" in (write_space(model, tmp_path / "space") / "README.md").read_text()
    (tmp_path / "space" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        write_space(model, tmp_path / "space")
    with pytest.raises(ValueError, match="other things than a Space"):
        write_space(model, model)
    with pytest.raises(ValueError, match="is not a LabelFusion model"):
        write_space(tmp_path / "space", tmp_path / "other")
    write_space(model, tmp_path / "space", overwrite=True)
    assert (tmp_path / "space" / "thesis.txt").read_text() == "mine"


def test_no_secret_gets_into_a_space(
    tmp_path: Path, saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "correct horse battery")
    space = write_space(saved_model(llm_providers=["openai/gpt-5-nano"]), tmp_path / "space")
    refuse_secret_files([p for p in space.rglob("*") if p.is_file()], space)
    with pytest.raises(ValueError, match=r"app\.py"):
        write_space(saved_model(num_providers=1), tmp_path / "other", examples=["correct horse battery"])


# --- The page's answers ----------------------------------------------------------------------------------------------


def test_an_answer_says_what_each_source_says_and_what_it_cost(saved_model: Callable[..., Path]) -> None:
    with LLMServer(labels=list(CLASSES.values())) as server:
        page = demonstrate(saved_model(llm_providers=served(server), id2label=CLASSES))
        html = page.answer("the team is great", "always")
        assert server.requests == 1
        assert "The LLM was queried." in html
        assert "Cost of this answer: $0." in html
        assert page.spent_usd > 0
        assert dollars(page.spent_usd) in html
        for heading in ("Fusion", "Encoder", "openai/gpt-5-nano"):
            assert f"<h2>{heading}</h2>" in html
        assert html.count("<li>") == 9
        assert "<b>money</b>" not in html
        assert "&lt;b&gt;money" in html

        result = page.clf.predict_sources(["the team is great"], llm_policy="never")
        html = page.answer("the team is great", "never")
        assert "The LLM was not queried." in html
        assert "Cost of this answer: $0. " in html
        assert f"{100 * result.encoder_probabilities.max():.0f} %" in html
        assert server.requests == 1
        assert "Type a text" in page.answer("  ")


def test_the_budget_of_the_page_is_shared_and_kept(saved_model: Callable[..., Path]) -> None:
    with LLMServer(labels=list(CLASSES.values())) as server:
        page = demonstrate(saved_model(llm_providers=served(server), id2label=CLASSES), max_cost_usd=0.5)
        for i in range(8):
            html = page.answer(f"the match w{i}", "always")
        asked = server.requests
        assert 1 <= asked < 8
        assert page.spent_usd <= 0.5 + page.spent_usd / asked
        assert "The LLM was queried" not in html
        assert "encoder" in html


def test_an_llm_that_fails_leaves_the_encoder(
    saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLMServer(labels=list(CLASSES.values()), status=401) as server:
        monkeypatch.setenv("MY_KEY", "sk-abcdefgh12345678ijklmnop")
        model = saved_model(llm_providers=served(server, api_key_env="MY_KEY"), id2label=CLASSES)
        html = demonstrate(model).answer("the team is great", "always")
    assert 'role="alert"' in html
    assert "The encoder answers alone" in html
    assert "sk-abc" not in html
    assert html.count("<li>") == 6


def test_without_a_key_the_encoder_answers_and_the_page_says_why(
    saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    reasons = {
        "openai/gpt-5-nano": "OPENAI_API_KEY",
        "recorded": "no model to query",
        "callable/mine": "not saved",
        "mistral/mistral-small": "MISTRAL_API_KEY",
    }
    for model, words in reasons.items():
        assert words in (why_not(LLMProvider(model)) or ""), model
    assert why_not(LLMProvider("local/somewhere")) is None
    assert why_not(LLMProvider("openai/x", api_base="http://localhost:8000")) is None
    monkeypatch.setenv("MISTRAL_API_KEY", "x")
    assert why_not(LLMProvider("mistral/mistral-small")) is None

    page = demonstrate(saved_model(llm_providers=["openai/gpt-5-nano"], id2label=CLASSES))
    assert not page.can_ask
    html = page.answer("the team is great", "always")
    assert "Needs a key: set the secret OPENAI_API_KEY" in html
    assert "The LLM was not queried." in html


def test_of_two_llms_one_without_a_key(saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with LLMServer(labels=list(CLASSES.values())) as server:
        providers = [{"model": "openai/other"}, *served(server)]
        page = demonstrate(saved_model(llm_providers=providers, id2label=CLASSES))
        assert page.can_ask
        html = page.answer("the team is great today", "always")
    assert "Needs a key" in html
    assert html.count("<li>") == 9  # fusion, encoder and the LLM that can be asked
    assert 'role="alert"' not in html


def test_many_classes_and_several_a_text(saved_model: Callable[..., Path]) -> None:
    names = {i: f"class {i}" for i in range(30)}
    page = demonstrate(saved_model(num_labels=30, multi_label=True, id2label=names, thresholds=[1.0] * 30), llm=uneven)
    html = page.answer("the team", "always")
    assert "None of the classes" in html
    assert "24 more classes" in html
    assert html.count("<li>") == 90


def uneven(texts: list[str]) -> Any:
    return np.full((len(texts), 30), 0.3)


def test_dollars() -> None:
    assert [dollars(v) for v in (0.0, 2e-7, 0.000012, 0.0031, 0.1, 12.3)] == [
        *("$0", "under $0.000001", "$0.000012", "$0.0031", "$0.10", "$12.30")
    ]
