"""Scoring through two real servers with SmolLM2, child processes on loopback: llama.cpp's and `transformers serve`.

What comes back is compared with asking the same server directly. SmolLM2 follows few instructions, so that some texts
have no answer here, with either way of asking. llama.cpp's log-probabilities move once a prompt is cached: `NEAR`.
"""

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import listen
from forked import Popen, run
from labelfusion.configuration import LLMProvider
from labelfusion.scoring.api.api_scorer import APIScorer
from labelfusion.scoring.methods.decision import DecisionMethod
from labelfusion.scoring.methods.registry import METHODS
from labelfusion.scoring.score_batch import ScoreBatch, ScoringError
from labelfusion.scoring.store.score_store import ScoreStore
from real_servers import RealServer, missing_packages

pytestmark = pytest.mark.slow
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
TEXTS = [
    "A new phone chip was announced by the maker.",
    "The striker scored twice in the cup final.",
    "Stocks fell after the central bank raised its rate.",
]
LONG = "The bank raised its rate. " * 400
KEY, VARIABLE = "sk-only-on-loopback-0123456789", "REAL_SERVER_TEST_KEY"
NEAR = 0.1
LETTERS_ONLY = {"grammar": 'root ::= "A" | "B" | "C" | "D"'}  # llama.cpp's own: the votes can be read


@pytest.fixture(scope="module")
def llama() -> Iterator[RealServer]:
    """llama.cpp with a key and 4 slots of 1,024 tokens."""
    if missing := missing_packages("llama.cpp"):
        pytest.skip(f"needs {', '.join(missing)}")
    with RealServer("llama.cpp", key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def serve() -> Iterator[RealServer]:
    """`transformers serve`."""
    if missing := missing_packages("transformers"):
        pytest.skip(f"needs {', '.join(missing)}")
    with RealServer("transformers") as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


def provider(server: RealServer, method: str, **fields: Any) -> LLMProvider:
    fields |= {"api_key_env": VARIABLE} if server.key else {}
    return LLMProvider(server.model, api_base=server.url, method=method, max_concurrency=4, **fields)


def score(server: RealServer, method: str, texts: list[str], store: Path | None = None, **fields: Any) -> ScoreBatch:
    return asyncio.run(scorer(server, method, store, **fields).score(texts))


def scorer(server: RealServer, method: str, store: Path | None = None, **fields: Any) -> APIScorer:
    return APIScorer(provider(server, method, **fields), LABELS, False, store=store, cache=store is not None)


def direct(server: RealServer, method: str, text: str, **fields: Any) -> dict[str, Any]:
    """The server's own reply to the question that `method` puts."""
    return server.ask(scorer(server, method, **fields).questions.method(method, text).body([text]))


def letters(reply: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Probability of each letter among the alternatives to the first token."""
    tokens = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return np.array([sum(math.exp(t["logprob"]) for t in tokens if t["token"].strip().upper() == x) for x in "ABCD"])


def test_llama_log_probabilities_are_those_that_it_gives_directly(llama: RealServer) -> None:
    batch = score(llama, "logprob", TEXTS)
    assert not np.isnan(batch.scores[0]).any()
    for row, text in enumerate(TEXTS):
        given = letters(direct(llama, "logprob", text))
        if row in batch.errors:
            assert "no option letter" in batch.errors[row]
            assert given.sum() < 0.5 + NEAR
        else:
            assert batch.scores[row] == pytest.approx(given / given.sum(), abs=NEAR)
    assert batch.usage.requests == len(TEXTS)


def test_llama_keeps_to_the_schema(llama: RealServer) -> None:
    batch = score(llama, "json", TEXTS[:2])
    for row, text in enumerate(TEXTS[:2]):
        written = direct(llama, "json", text)["choices"][0]["message"]["content"]
        assert list(json.loads(written)) == LABELS
        assert "JSON" not in batch.errors.get(row, "")


def test_llama_refuses_more_votes_than_it_has_slots_and_is_asked_one_by_one(llama: RealServer) -> None:
    batch = score(llama, "vote", TEXTS[:2], votes=5, params={"max_tokens": 2, "seed": 3, **LETTERS_ONLY})
    assert batch.errors == {}
    assert batch.usage.requests == 10
    shares = batch.scores * 5
    assert shares == pytest.approx(shares.round(), abs=1e-4)
    assert shares.sum(axis=1) == pytest.approx(5)
    assert batch.scores.max(axis=1).min() < 1  # each vote has a seed of its own


def test_a_text_beyond_the_context_is_missing_with_that_reason(llama: RealServer, tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    batch = score(llama, "auto", [LONG, LONG + "!", *TEXTS], store)
    assert batch.method == "logprob"  # two texts that are too long say nothing about the method
    assert {row: batch.errors[row] for row in (0, 1)} == dict.fromkeys(
        (0, 1), "text too long for the model (HTTP 400 exceed_context_size_error)"
    )
    assert not np.isnan(batch.scores[2]).any()
    again = score(llama, "auto", TEXTS[:1], store)
    assert again.method == "logprob"
    assert again.cached == 1
    assert again.usage.requests == 0


@pytest.mark.parametrize(("given", "said"), [(None, "401|REAL_SERVER_TEST_KEY"), ("sk-wrong", "the key was refused")])
def test_llama_wants_its_key(llama: RealServer, monkeypatch: pytest.MonkeyPatch, given: str | None, said: str) -> None:
    if given is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(ScoringError, match=said) as error:
        score(llama, "auto", TEXTS)
    assert VARIABLE in str(error.value)
    assert "sk-" not in str(error.value)


def test_a_run_outlives_a_restart_of_its_server(tmp_path: Path) -> None:
    texts = [f"{text} ({i})" for i in range(3) for text in TEXTS]
    left: list[int] = []

    def restart(server: RealServer) -> None:
        while not stored(tmp_path):
            time.sleep(0.02)
        server.stop()
        left.append(len(texts) - stored(tmp_path))
        server.start()

    with RealServer("llama.cpp") as server:
        thread = threading.Thread(target=restart, args=(server,))
        thread.start()
        fields: dict[str, Any] = {"votes": 1, "params": {"max_tokens": 2, **LETTERS_ONLY}}
        batch = score(server, "vote", texts, tmp_path / "store.sqlite", **fields)
        thread.join()
    assert left[0] > 0
    assert batch.errors == {}


def test_an_interrupted_command_goes_on_where_it_stopped(llama: RealServer, tmp_path: Path) -> None:
    texts = [f"{text} ({i})" for i in range(12) for text in TEXTS]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    llm = {**provider(llama, "vote", votes=1, params={"max_tokens": 2, **LETTERS_ONLY}).to_dict(), "max_concurrency": 1}
    command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "score", "in.jsonl", "out.jsonl"]
    command += ["--labels", ",".join(LABELS), "--llm", json.dumps(llm), "--store", "store.sqlite"]
    first = Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, env=os.environ, preexec_fn=listen)
    while first.poll() is None and stored(tmp_path) < 2:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    kept = stored(tmp_path)
    assert 2 <= kept < len(texts)
    done = run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert f"{len(texts)} answered, {kept} of them from the store, 0 missing" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    assert all(max(row["llm_scores"][0]) == 1 for row in rows)


def stored(folder: Path) -> int:
    path = folder / "store.sqlite"
    return sum(row["answers"] for row in ScoreStore(path).info()) if path.exists() else 0


def test_serve_gives_no_log_probabilities_and_says_so(serve: RealServer) -> None:
    reply = direct(serve, "logprob", TEXTS[0])
    assert "logprobs" not in reply["choices"][0]
    batch = score(serve, "logprob", TEXTS)
    assert batch.errors == dict.fromkeys(range(3), "unusable answer: the reply holds no log-probabilities")


def test_auto_takes_the_decisions_of_serve_as_they_are_given(serve: RealServer) -> None:
    asked = scorer(serve, "auto")
    batch = asyncio.run(asked.score(TEXTS))
    assert (batch.method, batch.errors) == ("decision", {})
    method = asked.questions.method("decision")
    assert isinstance(method, DecisionMethod)
    for text, scores in zip(TEXTS, batch.scores, strict=True):
        (answer,) = serve.ask(method.systemone(method.body([text])), "/systemone")["answers"].values()
        assert scores == pytest.approx([answer["probabilities"][label] for label in LABELS], abs=0.01)


def test_auto_leaves_log_probabilities_that_do_not_come(serve: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {name: method for name, method in METHODS.items() if name != "decision"}
    monkeypatch.setattr("labelfusion.scoring.api.questions.METHODS", others)
    asked = scorer(serve, "auto", params={"max_tokens": 8, "seed": 7}, votes=1)
    batch = asyncio.run(asked.score([f"{text} ({i})" for i in range(3) for text in TEXTS]))
    assert asked._choice._refused == {"logprob": 2}  # accepted, status 200, and not in the reply
    assert np.isnan(batch.scores).all()  # SmolLM2 writes neither JSON nor a letter here
    assert set(batch.errors) == set(range(9))
    assert re.search("the vote names no option|cut off by the token limit", batch.errors[0])


def test_serve_is_asked_for_each_vote(serve: RealServer) -> None:
    batch = score(serve, "vote", TEXTS[:1], votes=3, params={"max_tokens": 4})
    assert batch.usage.requests == 3


def test_a_model_that_serve_does_not_have(serve: RealServer) -> None:
    asked = APIScorer(LLMProvider("some/model", api_base=serve.url), LABELS, False, cache=False)
    with pytest.raises(ScoringError, match="has no model 'some/model'"):
        asyncio.run(asked.score(TEXTS))
