"""Servers that start slowly, ask for a key, or give no usable answer: what the client and the command do and say."""

import logging
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from labelfusion.hub_scripts.cli import main
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.api import client, method_choice
from labelfusion.training.score_checks import warn_if_uninformative
from llm_server import LABELS, LLMServer

LOADING = (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "AWAIT_S", 0.05)
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(method_choice, "_remembered", {})


def ask(url: str, **fields: Any) -> Any:
    provider = {"model": "m", "api_base": url, "method": "json", **fields}
    return score_texts([build_scorer(provider, LABELS, False, cache=False)], ["one", "two", "three"])[1][0]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_server_that_loads_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    looks = []

    def special(path: str, body: dict[str, Any], text: str) -> Any:
        looks.append(text)
        return LOADING if len(looks) < 40 else None

    with LLMServer(special=special) as server, caplog.at_level(logging.WARNING):
        batch = ask(server.url, wait_for_server_s=60)
        assert batch.errors == {}
        assert (
            caplog.text.count("the server is not ready (HTTP 503 unavailable_error): waiting for it, 60 s at most") == 1
        )
        looks.clear()
        batch = ask(server.url)
        assert all("503" in reason for reason in batch.errors.values())


def test_a_server_that_has_not_started_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    port, servers = free_port(), []
    start = threading.Timer(0.7, lambda: servers.append(LLMServer(port=port).__enter__()))
    start.start()
    try:
        batch = ask(f"http://127.0.0.1:{port}/v1", wait_for_server_s=60, method="auto")
        assert batch.errors == {}
        assert "not ready (connection failed): waiting for it" in caplog.text
    finally:
        start.join()
        servers[0].__exit__()


def test_waiting_has_an_end() -> None:
    batch = ask(f"http://127.0.0.1:{free_port()}/v1", wait_for_server_s=0.2)
    assert all(reason.startswith("connection failed") for reason in batch.errors.values())
    with pytest.raises(ValueError, match="wait_for_server_s"):
        ask("http://127.0.0.1:1/v1", wait_for_server_s=-1)


def test_a_server_that_asks_for_a_key_names_how_to_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a-key")
    with LLMServer(status=401) as server:
        with pytest.raises(ScoringError, match=r"none was sent: .*`api_key_env`"):
            ask(server.url)
        with pytest.raises(ScoringError, match=r"key was refused .* read from MINE"):
            ask(server.url, api_key_env="MINE")


def score(tmp_path: Path, url: str, *options: str) -> int:
    source = tmp_path / "in.csv"
    pd.DataFrame({"text": [f"text {i}" for i in range(6)], "label": [LABELS[i % 4] for i in range(6)]}).to_csv(source)
    base = ["score", str(source), str(tmp_path / "out.parquet"), "--llm", "m", "--api-base", url, "--no-cache"]
    return main([*base, *options])


def test_options_about_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINE", "a-key")
    slow = LLMServer(keep=True, faults={"hang": 0.4}, special=None)
    with slow as server:
        options = "--timeout", "0.5", "--wait-for-server", "9", "--api-key-env", "MINE", "--method", "json"
        assert score(tmp_path, server.url, *options) == 0
        assert {headers["authorization"] for headers in server.headers} == {"Bearer a-key"}
        assert server.injected["hang"] > 0
    with LLMServer(status=401) as server:
        assert score(tmp_path, server.url) == 2
        assert "`--api-key-env" in capsys.readouterr().err


def test_the_command_tells_which_method_it_tries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LLMServer() as server:
        assert score(tmp_path, server.url) == 0
    told = capsys.readouterr().err
    assert told.count("m: trying the method 'logprob'") == 1
    assert "m: the method 'logprob' is left: HTTP 400 unsupported_value" in told


def test_a_run_without_any_scores_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LLMServer(faults={"prose": 1.0}) as server:
        assert score(tmp_path, server.url, "--method", "json") == 1
    assert "No row has got any scores" in capsys.readouterr().err


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_llm_no_better_than_the_class_frequencies_is_named(
    multi_label: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 4)) < 0.3).astype(np.float32) if multi_label else rng.integers(0, 4, 200)
    good = 0.6 * (truth if multi_label else np.eye(4)[truth]) + 0.4 * rng.random((200, 4))
    blind, always = rng.random((200, 4)), np.tile([0.7, 0.1, 0.1, 0.1], (200, 1))
    warn_if_uninformative(
        np.stack([good, blind, always, np.full((200, 4), np.nan)], 1), truth, multi_label, list("gbas")
    )
    assert [record.args[0] for record in caplog.records] == ["b", "a"]  # type: ignore[index]
    warn_if_uninformative(blind[:20, None], truth[:20], multi_label, ["few"])
    assert len(caplog.records) == 2


def test_a_rare_class_that_is_recognised_counts() -> None:
    truth = np.zeros(200, dtype=np.int64)
    truth[:20] = 1
    scores = np.tile([0.6, 0.4], (200, 1))
    scores[:45] = [0.4, 0.6]  # right about 175 of 200, fewer than always naming the first class
    with pytest.MonkeyPatch.context() as patch:
        said: list[Any] = []
        patch.setattr("labelfusion.training.score_checks.logger.warning", lambda *args: said.append(args))
        warn_if_uninformative(scores[:, None], truth, False, ["m"])
    assert said == []
