"""The decision routes of `labelfusion serve`: a server is the LLM of another model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from serve_process import ServeProcess

from labelfusion import AutoFusionClassifier

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

TEXTS = ["the team is great", "the bank", "rain, and then sun", "w0 w1 w2 w3"]
CLASSES = ["class0", "class1", "class2"]


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_server_is_the_llm_of_another_model(
    saved_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multi_label: bool
) -> None:
    monkeypatch.setenv("SERVER_KEY", "a-key-of-the-server-0123456789")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = saved_model(num_providers=0, multi_label=multi_label)
    expected = AutoFusionClassifier.from_pretrained(folder).predict_proba(TEXTS)
    with ServeProcess(folder, tmp_path / "home", "--api-key-env", "SERVER_KEY") as server:
        server.ready()
        asker = {"model": "openai/served", "api_base": f"{server.url}/v1", "api_key_env": "SERVER_KEY"}
        other = saved_model(llm_providers=[asker], multi_label=multi_label, seed=1)
        clf = AutoFusionClassifier.from_pretrained(other, cache=False)
        found = clf.predict_sources(TEXTS)
        assert found.llm_called.all()
        assert not found.errors
        np.testing.assert_allclose(found.llm_scores[:, 0], expected, atol=1e-5)
        assert server.metric("texts_total", authorization="Bearer a-key-of-the-server-0123456789") == len(TEXTS)

        key = {"authorization": "Bearer a-key-of-the-server-0123456789"}
        kind = {"type": "choice", "criteria": dict.fromkeys(CLASSES)}
        questions = {name: {"type": "noul"} for name in CLASSES} if multi_label else {"topic": kind}
        reply = server.post("/v1/systemone", {"state": TEXTS[1], "questions": questions}, **key)
        assert reply.status == 200, reply.text
        answers = reply.json()["answers"]
        if multi_label:
            assert [answers[name]["noul"] for name in CLASSES] == pytest.approx(expected[1].tolist(), abs=1e-5)
        else:
            assert list(answers["topic"]["probabilities"].values()) == pytest.approx(expected[1].tolist(), abs=1e-5)
            assert answers["topic"]["choice"] == CLASSES[int(expected[1].argmax())]
        _check_errors(server, key, multi_label)
        (model,) = server.get("/v1/models", **key).json()["data"]
        assert model["id"] == folder.name


def _check_errors(server: ServeProcess, key: dict[str, str], multi_label: bool) -> None:
    choice = {"type": "choice", "choices": [{"value": name} for name in CLASSES[1:]]}
    cases = [
        ("/v1/decisions", {"input": "rain", "questions": [choice]}, "questions[0].choices", "class"),
        ("/v1/decisions", {"input": "rain", "questions": [{"type": "predicate"}]}, "questions[0].name", "class0"),
        ("/v1/decisions", {"input": "rain", "questions": [{"type": "essay"}]}, "questions[0].type", "choice"),
        ("/v1/decisions", {"input": "rain", "questions": []}, "questions", "at least 1"),
        ("/v1/decisions", {"questions": [choice]}, "input", "required"),
        ("/v1/systemone", {"state": 3, "questions": {"a": {"type": "noul"}}}, "state", "string"),
        ("/v1/systemone", {"state": "rain", "questions": {"a": {"type": "noul"}}}, "questions.a", "class0"),
        ("/v1/systemone", {"state": " ", "questions": {"class0": {"type": "noul"}}}, "state", "blank"),
    ]
    for path, body, field, words in cases:
        reply = server.post(path, body, **key)
        assert reply.status == 400, (body, reply.text)
        error = reply.json()["error"]
        assert (error["param"], error["type"]) == (field, "invalid_request_error"), (body, reply.text)
        assert words in error["message"], (body, reply.text)
    applies = "may apply" if multi_label else "must be the classes"
    assert applies in server.post(*cases[0][:2], **key).json()["error"]["message"]


def test_the_encoder_answers_where_no_llm_can_be_queried(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    provider = {"model": "openai/m", "name": "m", "api_key_env": "NO_SUCH_KEY", "price": [1.0, 1.0]}
    with ServeProcess(saved_model(llm_providers=[provider]), tmp_path / "home") as server:
        reply = server.ready().predict(TEXTS)
        assert reply.status == 200
        assert reply.headers["x-labelfusion-notice"] == "llm-unavailable"
        assert reply.headers["x-labelfusion-asked"] == "0"
        wanted = server.predict(TEXTS, llm_policy="always")
        assert wanted.status == 503
        assert wanted.json()["field"] == "parameters.llm_policy"
        assert "NO_SUCH_KEY" not in wanted.text
        assert server.stop() == 0
        assert "NO_SUCH_KEY" in server.errors
