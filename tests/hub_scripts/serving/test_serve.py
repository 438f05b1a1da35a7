"""`labelfusion serve` as a real process: answers, batches across requests, limits, key, metrics."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from labelfusion.configuration import LabelFusionConfig
from labelfusion.scoring.open_store import open_store
from llm_server import LLMServer
from serve_process import ServeProcess

from labelfusion import AutoFusionClassifier

pytest.importorskip("fastapi", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

CLASSES = ["class0", "class1", "class2"]
TEXTS = ["the team is great", "the bank", "rain", "a very good movie , not bad !", "w0 w1 w2 w3"]
KEY = "a-key-of-the-server-0123456789"


@pytest.fixture(scope="module")
def shared_llm() -> Iterator[LLMServer]:
    with LLMServer(labels=CLASSES) as server:
        yield server


@pytest.fixture
def llm(shared_llm: LLMServer) -> Iterator[LLMServer]:
    yield shared_llm
    shared_llm.latency, shared_llm.status = 0.0, None


@pytest.fixture(scope="module")
def model(
    make_model: Callable[..., Any], tiny_tokenizer: Any, shared_llm: LLMServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    provider: dict[str, Any] = {"model": "openai/m", "name": "m", "api_base": shared_llm.url, "api_key_env": "LLM_KEY"}
    provider |= {"method": "json", "price": [1.0, 1.0], "max_concurrency": 8}
    folder = tmp_path_factory.mktemp("model")
    make_model(llm_providers=[provider]).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A server that several tests share."""
    limits = ("--max-texts", "8", "--max-characters", "200", "--max-body-mb", "0.06")
    with served(model, tmp_path_factory.mktemp("home"), *limits) as server:
        yield server.ready()
        assert server.stop() == 0
        assert "ERROR" not in server.errors
        assert "Traceback" not in server.errors


def served(model: Path, home: Path, *options: str) -> ServeProcess:
    return ServeProcess(model, home, *options, LLM_KEY="sk-secretofthellmprovider", SERVER_KEY=KEY)


def test_answers_are_those_of_the_classifier_row_by_row(
    model: Path, tmp_path: Path, server: ServeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "sk-secretofthellmprovider")
    clf = AutoFusionClassifier.from_pretrained(model)
    clf._store = open_store(tmp_path / "other.sqlite")  # type: ignore[assignment]
    names = LabelFusionConfig.from_pretrained(model).label_names
    texts = [f"{text} w{i % 10} {'good ' * (i % 7)}" for i, text in enumerate(TEXTS * 12)]
    policies = ["never", "always"]
    expected = {policy: clf.predict_sources(texts, llm_policy=policy) for policy in policies}
    before = server.metric("texts_total")
    cuts = [(i, i + 1 + i % 5) for i in range(0, len(texts) - 5, 3)]

    def answers(job: tuple[str, tuple[int, int]]) -> tuple[str, int, list[dict[str, Any]]]:
        policy, (start, stop) = job
        reply = server.predict(texts[start:stop], llm_policy=policy, return_sources=True)
        assert reply.status == 200, reply.text
        return policy, start, reply.json()

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(answers, [(policy, cut) for cut in cuts for policy in policies]))
    for policy, start, rows in found:
        result = expected[policy]
        for row, answer in enumerate(rows, start):
            best = int(result.probabilities[row].argmax())
            assert answer["label"] == names[best]
            assert answer["score"] == pytest.approx(float(result.probabilities[row, best]), abs=1e-5)
            assert list(answer["sources"]["encoder"].values()) == pytest.approx(
                result.encoder_probabilities[row].tolist(), abs=1e-5
            )
            if policy == "never":
                assert answer["sources"]["m"] is None
            else:
                said = result.llm_scores[row, 0].tolist()
                assert list(answer["sources"]["m"].values()) == pytest.approx(said, abs=1e-6)
    assert server.metric("texts_total") - before == sum(len(rows) for _, _, rows in found)
    rounds, together = server.metric("encoder_round_texts_count"), server.metric("encoder_round_texts_sum")
    assert together > rounds > 0


def test_the_shapes_are_those_of_the_endpoint_handler(server: ServeProcess) -> None:
    answers = server.predict(TEXTS).json()
    assert [set(a) for a in answers] == [{"label", "score"}] * len(TEXTS)
    assert server.post("/predict", {"inputs": TEXTS[0]}).json() == [pytest.approx(answers[0])]
    scores = [[[0.98, 0.01, 0.01]], [None]]
    informed = server.predict(TEXTS[:2], llm_scores=scores, return_sources=True, llm_policy="never").json()
    assert informed[0]["sources"]["m"]["class0"] == pytest.approx(0.98)
    assert informed[1]["sources"]["m"] is None
    one = server.predict(TEXTS[0], llm_scores=scores[0], return_sources=True, llm_policy="never").json()
    assert one[0]["score"] == pytest.approx(informed[0]["score"], abs=1e-5)
    row = {"text": TEXTS[0], "llm_scores": scores[0]}
    assert server.predict(row, return_sources=True, llm_policy="never").json()[0]["score"] == pytest.approx(
        one[0]["score"], abs=1e-5
    )
    assert len(server.predict({"text": TEXTS[0]}, top_k=2).json()[0]) == 2
    assert len(server.predict(TEXTS, top_k=None, batch_size=2, max_length=8).json()[0]) == 3


def test_health_answers_while_an_llm_keeps_every_thread_waiting(model: Path, tmp_path: Path, llm: LLMServer) -> None:
    llm.latency = 3600.0  # until the server below is killed
    with served(model, tmp_path / "home", "--threads", "2", "--max-waiting", "3") as server:
        server.ready()
        waiting = [threading.Thread(target=_ignored, args=(server, text), daemon=True) for text in TEXTS[:3]]
        for thread in waiting:
            thread.start()
        while llm.in_flight < 2 or server.metric("requests_in_progress") < 3:
            time.sleep(0.02)
        assert server.get("/health").json() == {"status": "ready"}
        busy = server.predict("rain")
        assert busy.status == 503
        assert busy.headers["retry-after"] == "1"


def _ignored(server: ServeProcess, text: str) -> None:
    with suppress(OSError, http.client.HTTPException):
        server.predict(text)


def test_a_share_of_the_server_is_one_of_all_requests(model: Path, tmp_path: Path, llm: LLMServer) -> None:
    with served(model, tmp_path / "home", "--llm-policy", "0.25") as server:
        server.ready()
        before = llm.requests
        asked = sum(
            int(server.predict(f"share w{i % 10} w{i // 10}").headers["x-labelfusion-asked"]) for i in range(80)
        )
        assert 18 <= asked <= 22  # a share of one text alone would be none
        assert llm.requests - before == asked
        own = server.predict([f"rain w{i}" for i in range(8)], llm_policy=0.5)
        assert own.headers["x-labelfusion-asked"] == "4"


def test_the_key(model: Path, tmp_path: Path) -> None:
    with served(model, tmp_path / "home", "--llm-policy", "never", "--api-key-env", "SERVER_KEY", "--access-log") as s:
        s.ready()  # without a key
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}, {"x": "é"}):
            for reply in (s.post("/predict", {"inputs": "rain"}, **headers), s.get("/metrics", **headers)):
                assert reply.status == 401
                assert reply.headers["www-authenticate"] == "Bearer"
                assert KEY not in reply.text
        assert s.post(f"/predict?key={KEY}&text=rain", {"inputs": "rain"}).status == 401
        right = {"authorization": f"Bearer {KEY}"}
        assert s.post("/predict", {"inputs": "rain film"}, **right).status == 200
        assert s.get("/metrics", **right).status == 200
        assert s.post("/v1/decisions", {"input": "rain film", "questions": []}, **right).status == 400
        assert s.get(f"/{KEY}", **right).status == 404
        assert s.stop() == 0
        assert "POST /predict 200" in s.errors
        assert not any(word in s.errors for word in (KEY, "wrong", "rain", "film", "sk-secret"))


@pytest.mark.parametrize("key", ["", "ключ"])
def test_a_key_that_no_header_can_hold(model: Path, tmp_path: Path, key: str) -> None:
    server = ServeProcess(model, tmp_path / "home", "--api-key-env", "EMPTY_KEY", EMPTY_KEY=key)
    with pytest.raises(AssertionError, match=r"`--api-key-env`: the environment variable EMPTY_KEY must hold"), server:
        pass
    assert server.process.returncode == 2


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with ServeProcess(tmp_path / "nothing", tmp_path / "home") as server:
        server._end()
        assert server.process.returncode == 2
        assert "labelfusion serve: error" in server.errors


BAD: list[tuple[Any, str | None, str]] = [
    (b"", None, "JSON"),
    (b"{", None, "JSON"),
    (b"[" * 50_000, None, "JSON"),
    (b'{"inputs": ' + b"9" * 5000 + b"}", None, "JSON"),
    (b"\xff\xfe\x00", None, "JSON"),
    ([], None, "JSON object"),
    ({}, "inputs", "a text or a list of texts"),
    ({"inputs": []}, "inputs", "a text or a list of texts"),
    ({"inputs": ["a", 3]}, "inputs[1]", "must be a text"),
    ({"inputs": ["a", {"label": "b"}]}, "inputs[1]", "must be a text"),
    ({"inputs": [["a"]]}, "inputs[0]", "must be a text"),
    ({"inputs": ["a", " \n"]}, "inputs[1]", "empty or blank"),
    ({"inputs": {"text": "a", "text_pair": "b"}}, "inputs", "text_pair"),
    ({"inputs": ["a"] * 9}, "inputs", "8 in one request"),
    ({"inputs": ["a", "b" * 201]}, "inputs[1]", "201 characters"),
    ({"inputs": "a", "parameters": {"llm": "openai/gpt-5"}}, "parameters.llm", "known are top_k"),
    ({"inputs": "a", "parameters": {"llm_policy": "sometimes"}}, "parameters.llm_policy", "'always', 'never'"),
    ({"inputs": "a", "parameters": {"llm_policy": None}}, "parameters.llm_policy", "share"),
    ({"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k", "greater than 0"),
    ({"inputs": "a", "parameters": {"top_k": "3"}}, "parameters.top_k", "integer"),
    ({"inputs": "a", "parameters": {"max_cost_usd": -1}}, "parameters.max_cost_usd", "0"),
    (b'{"inputs": "a", "parameters": {"max_cost_usd": NaN}}', "parameters.max_cost_usd", "finite"),
    ({"inputs": "a", "parameters": {"deadline_s": 0}}, "parameters.deadline_s", "greater than 0"),
    ({"inputs": "a", "parameters": {"llm_scores": [[2, 0, 0]]}}, "parameters.llm_scores", "probabilit"),
    ({"inputs": ["a"], "parameters": {"llm_scores": []}}, "parameters.llm_scores", "0 entries for 1 texts"),
    ({"inputs": ["a"], "parameters": {"llm_scores": [{"a": 1}]}}, "parameters.llm_scores", "expected (1, 3)"),
    ({"inputs": "a", "parameters": {"max_risk": 0.1}}, "parameters.max_risk", "max_risk"),
    ({"inputs": "a", "parameters": {"target_accuracy": 0.9}}, "parameters.target_accuracy", "curve"),
    ({"inputs": "a", "parameters": [1]}, "parameters", "valid dictionary"),
]


def test_requests_that_cannot_be_right(server: ServeProcess) -> None:
    for body, field, words in BAD:
        reply = server.post("/predict", body)
        assert reply.status == 400, (body, reply.text)
        assert reply.json()["field"] == field, (body, reply.text)
        assert words in reply.json()["error"], (body, reply.text)
    for reply in (server.post("/predict", b" " * 60_001), server.post("/predict", {"inputs": "b" * 60_001})):
        assert reply.status == 413
        assert "--max-body-mb" in reply.json()["error"]
    assert server.request("POST", "/predict", (b" " * 1000 for _ in range(70))).status == 413  # chunked
    assert server.request("POST", "/predict", b'{"inputs": "a"}').status in (200, 400)  # no content type
    assert (server.get("/predict").status, server.get("/unknown").status) == (405, 404)
    for text in ("\x00", "\ud800 rain", "‮", "{{7*7}} <script>", "a" * 200):
        reply = server.predict(text)
        assert reply.status in (200, 400), (text, reply.text)
    assert server.predict("rain").status == 200


def test_metrics_count_what_happened(server: ServeProcess, llm: LLMServer) -> None:
    names = ("texts_total", "asked_texts_total", "missing_answers_total", "request_seconds_count", "cost_usd_total")
    before = {name: server.metric(name) for name in names}
    assert server.predict(["new w1", "new w2", "new w3"]).headers["x-labelfusion-asked"] == "3"
    llm.status = 400
    refused = server.predict("new w4", return_sources=True)
    assert refused.json()[0]["llm_missing"]
    assert refused.headers["x-labelfusion-missing"] == "1"
    assert server.predict(3).status == 400
    texts, asked, missing, seconds, dollars = (server.metric(name) - before[name] for name in names)
    assert (texts, asked, missing, seconds) == (4, 4, 1, 3)
    assert dollars > 0
    text = server.get("/metrics").text
    assert 'labelfusion_requests_total{route="/predict",status="400"}' in text
    assert "/unknown" not in text
    assert "process_resident_memory_bytes" in text
    assert json.loads(server.get("/openapi.json").text)["paths"].keys() >= {"/predict", "/health"}
