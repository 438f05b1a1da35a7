"""Batch APIs: every text is paid once, whatever goes wrong, and the answers are in the score store."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from batch_server import BatchServer
from children import listen
from forked import Popen
from labelfusion.configuration import LLMProvider
from labelfusion.hub_scripts.batches import batch_job
from labelfusion.hub_scripts.cli import main
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.batches import batch_api as api_module
from labelfusion.scoring.batches.batch_api import LitellmBatches, OpenAIBatches
from labelfusion.scoring.batches.batch_questions import BatchQuestions
from labelfusion.scoring.providers.endpoints import resolve
from labelfusion.scoring.store.score_store import ScoreStore
from llm_server import LABELS, truth

TEXTS = [f"text {i}" for i in range(40)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`run(server, verb, *options)`: one command over `TEXTS` in `in.jsonl`."""
    monkeypatch.setattr(api_module.time, "sleep", lambda seconds: None)
    rows = [{"text": text} for text in [*TEXTS, TEXTS[0]]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(server: BatchServer, verb: str = "score", *options: str, **fields: Any) -> int:
        given = {"model": "m", "api_base": server.url, "method": "json", "price": [1.0, 4.0], **fields}
        asking = ["--llm", json.dumps(given), "--labels", ",".join(LABELS), "--store", str(tmp_path / "s.sqlite")]
        places = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
        if verb == "score":
            return main(["score", *places, *asking, "--batch", "--poll-s", "0.05", *options])
        if verb == "submit":
            return main(["batch", "submit", *places, *asking, *options])
        return main(["batch", verb, places[1], *asking[-2:], *options])

    return call


def scores(tmp_path: Path) -> list[Any]:
    return [json.loads(line)["llm_scores"][0] for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def check(tmp_path: Path) -> None:
    for text, row in zip([*TEXTS, TEXTS[0]], scores(tmp_path), strict=True):
        np.testing.assert_allclose(row, truth(text, LABELS), atol=1e-4)


def test_a_batch_gives_the_scores_of_single_requests(
    tmp_path: Path, run: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "MOST_LINES", 15)
    with BatchServer() as server:
        assert run(server) == 0
        assert server.lines == [15, 15, 10]  # equal texts once
        check(tmp_path)
        told = capsys.readouterr().err
        billed = (server.tokens[0] * 1.0 + server.tokens[1] * 4.0) / 1e6
        cost = re.search(r"have cost \$(\d+\.\d+)", told)
        assert cost is not None
        assert float(cost[1]) == pytest.approx(billed, abs=1e-4)
        assert not (tmp_path / "out.jsonl.batch").exists()
        # `score`, `fit` and `predict` find the answers: nothing is asked.
        scorer = build_scorer(
            {"model": "m", "api_base": server.url, "method": "json"}, LABELS, False, store=tmp_path / "s.sqlite"
        )
        assert score_texts([scorer], TEXTS)[1][0].cached == 40
        assert server.requests == 0
        info = ScoreStore(tmp_path / "s.sqlite").info()
        assert info[0]["cost_usd"] == pytest.approx(billed)


def test_auto_finds_what_a_batch_has_brought(tmp_path: Path, run: Callable[..., int]) -> None:
    with BatchServer() as server:
        assert run(server, method="auto") == 0
        scorer = build_scorer({"model": "m", "api_base": server.url}, LABELS, False, store=tmp_path / "s.sqlite")
        assert score_texts([scorer], TEXTS)[1][0].cached == 40
        assert server.requests == 0


def test_the_three_steps(tmp_path: Path, run: Callable[..., int], capsys: Any) -> None:
    with BatchServer(hold_s=3600.0) as server:
        assert run(server, "status") == 2
        assert "submit one first" in capsys.readouterr().err
        assert run(server, "submit") == 1
        assert "40 questions submitted in 1 batches" in capsys.readouterr().err
        assert not list((tmp_path / "out.jsonl.batch").glob("*.jsonl"))  # no texts are left behind
        assert run(server, "submit") == 1
        assert "nothing new" in capsys.readouterr().out
        assert len(server.batches) == 1
        assert run(server, "status") == 1
        assert "in_progress" in capsys.readouterr().out
        assert run(server, "collect") == 1
        server.batches["batch_0"]["ends"] = 0.0
        assert run(server, "collect") == 0
        assert run(server, "status") == 0
        assert "collected" in capsys.readouterr().out
        assert run(server, "submit", "--prompt", "few-shot", "--examples", str(tmp_path / "in.jsonl")) == 2
        assert run(server, "submit", "--multi-label") == 2
        assert "other settings (multi_label)" in capsys.readouterr().err
        assert run(server) == 0
        check(tmp_path)
        assert server.paid.total() == 40


def test_what_expires_or_fails_is_asked_again_and_what_is_refused_is_not(
    tmp_path: Path, run: Callable[..., int], capsys: Any
) -> None:
    with BatchServer(expire=0.4, fail_batches=1, errors={500: 0.2, 400: 0.1}, faults={"refusal": 0.1}) as server:
        assert run(server) == 0
        told = capsys.readouterr().err
        assert "token_limit_exceeded" in told
        assert "batch_expired" in told
        assert set(server.paid.values()) == {1}
        rows = scores(tmp_path)
        missing = sum(row is None for row in rows[:40])
        assert 40 - missing == len(server.paid) - server.injected["refusal"]
        assert missing
        assert len(server.batches) >= 3
        requests = len(server.batches)
        (tmp_path / "out.jsonl").unlink()
        assert run(server, "submit") == 1  # a new job asks once more what has no answer
        assert len(server.batches) == requests + 1
        assert server.lines[-1] == missing


def test_a_server_that_answers_nothing_ends_the_run(tmp_path: Path, run: Callable[..., int], capsys: Any) -> None:
    with BatchServer(errors={503: 1.0}) as server:
        assert run(server) == 1
        assert len(server.batches) == 3
    assert "40 x HTTP 503" in capsys.readouterr().err


def test_a_reply_that_is_lost_makes_no_second_batch(tmp_path: Path, run: Callable[..., int]) -> None:
    with BatchServer(lose=2) as server:
        assert run(server) == 0
        assert len(server.batches) == 1
        check(tmp_path)


def test_batches_of_others_are_left_alone(tmp_path: Path, run: Callable[..., int]) -> None:
    with BatchServer() as server:
        server.files["x"] = b""
        for number in range(7):
            server._create(
                {"endpoint": "/v1/chat/completions", "input_file_id": "x", "metadata": {"labelfusion": f"{number}"}}
            )
        assert run(server) == 0
        assert len(server.batches) == 8


def test_files_are_as_large_as_the_api_allows(
    tmp_path: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job, "MOST_BYTES", 20_000)
    with BatchServer() as server:
        assert run(server) == 0
        assert len(server.lines) > 1
        sent = [
            file for name, file in server.files.items() if name in {b["input_file_id"] for b in server.batches.values()}
        ]
        assert all(len(file) <= 20_000 for file in sent)
        assert sum(server.lines) == 40


def test_a_limit_in_dollars_bounds_what_is_submitted(tmp_path: Path, run: Callable[..., int], capsys: Any) -> None:
    with BatchServer(fail_batches=1) as server:
        assert run(server, "submit") == 1
        expected = re.search(r"expected to cost \$(\d+\.\d+)", capsys.readouterr().err)
        assert expected is not None
        assert run(server, "collect") == 1
        assert run(server, "score", "--max-cost-usd", str(float(expected[1]) / 2)) == 1
        assert 15 <= server.paid.total() <= 25


class Killed(BaseException):
    pass


def test_the_job_may_be_killed_anywhere(
    tmp_path: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each write, upload, creation and collection."""
    monkeypatch.setattr(batch_job, "MOST_LINES", 25)
    deadly = [(batch_job, "_write"), (OpenAIBatches, "create"), (OpenAIBatches, "upload"), (ScoreStore, "put_many")]
    original = {name: getattr(owner, name) for owner, name in deadly}
    left = [0]

    def mortal(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            result = original[name](*args, **kwargs)
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return result

        return call

    for owner, name in deadly:
        monkeypatch.setattr(owner, name, mortal(name))
    kills = 0
    for place in range(1, 200):
        for path in tmp_path.iterdir():
            if path.name != "in.jsonl":
                subprocess.run(["rm", "-rf", str(path)], check=True)
        with BatchServer() as server:
            left[0] = place
            try:
                assert run(server) == 0
                break
            except Killed:
                kills += 1
            left[0] = 0
            assert run(server) == 0
            check(tmp_path)
            assert server.paid.total() == 40, place
            assert server.requests == 0
    assert kills > 20


@pytest.mark.slow
def test_twenty_thousand_texts_and_five_kills(tmp_path: Path) -> None:
    texts = [f"text number {i}" for i in range(20_000)]
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "in.parquet")
    rng = random.Random(0)
    with BatchServer(hold_s=1.0, expire=0.1, expired_batches=2, errors={500: 0.01}) as server:
        llm = {"model": "m", "api_base": server.url, "method": "json", "price": [0.5, 2.0]}
        command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "score", str(tmp_path / "in.parquet")]
        command += [str(tmp_path / "out.parquet"), "--llm", json.dumps(llm), "--labels", ",".join(LABELS), "--batch"]
        command += ["--poll-s", "0.2", "--store", str(tmp_path / "s.sqlite")]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        kills = runs = 0
        while runs < 30:
            runs += 1
            process = Popen(command, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
            if kills < 5:
                begun = time.monotonic()
                while not (tmp_path / "out.parquet.batch").exists() and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0.0, 1.5) if time.monotonic() - begun > 0 else 0.0)
                if process.poll() is None:
                    process.kill()
                    kills += 1
            _, err = process.communicate(timeout=250)
            if process.returncode == 0:
                break
        assert process.returncode == 0, err
        assert kills == 5
        assert len(server.paid) == 20_000
        assert set(server.paid.values()) == {1}
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert out["text"].tolist() == texts
    assert all(row[0] is not None for row in out["llm_scores"])


def test_what_cannot_be_asked_by_batch_is_said(tmp_path: Path, run: Callable[..., int], capsys: Any) -> None:
    with BatchServer() as server:
        assert run(server, "score", "--no-cache") == 2
        assert "`--no-cache`" in capsys.readouterr().err
        assert run(server, method="decision") == 2
        assert "decisions cannot be asked by batch" in capsys.readouterr().err
        assert run(server, texts_per_request=4) == 2
        assert "one text a request" in capsys.readouterr().err
        assert not server.batches
    assert main(["batch", "collect", "a", "b"]) == 2
    assert "takes OUT" in capsys.readouterr().err
    with pytest.raises(ScoringError, match=r"lists no batches of 'anthropic'.*azure, mistral"):
        LitellmBatches(resolve(LLMProvider("anthropic/claude-haiku-4-5")))
    local = build_scorer({"model": "callable/x"}, LABELS, False, function=lambda texts: None)
    with pytest.raises(ScoringError, match="no batch API"):
        BatchQuestions(local, ScoreStore(":memory:"))


def test_batch_prices(tmp_path: Path) -> None:
    pytest.importorskip("litellm")
    scorer = build_scorer("openai/gpt-5-nano", LABELS, False, store=tmp_path / "s.sqlite")
    price = BatchQuestions(scorer, ScoreStore(":memory:")).price
    assert price is not None
    assert price.input == pytest.approx(0.025e-6)  # half of 0.05 dollars per million tokens
    assert price.output == pytest.approx(0.2e-6)


def test_multi_label_confidences_wait_for_their_scale(tmp_path: Path) -> None:
    labels = ["a", "b", "c"]
    with BatchServer(labels=labels, multi_label=True) as server:
        provider = {"model": "m", "api_base": server.url, "method": "json"}
        store = ScoreStore(tmp_path / "s.sqlite")
        questions = BatchQuestions(build_scorer(provider, labels, True, store=store), store)
        keys = [key.hex() for key in questions.keys(["x", "y"])]

        def line(key: str, said: list[float]) -> str:
            content = json.dumps(dict(zip(labels, said, strict=True)))
            body = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}
            return json.dumps({"custom_id": key, "response": {"status_code": 200, "body": body}, "error": None})

        told = questions.collect(
            [line(keys[0], [1, 0, 1]), line(keys[1], [90, 5, 0]), "broken", line("0" * 64, [1, 1, 1])], set(keys)
        )
        assert told.answered == 2
        found = store.get_many([bytes.fromhex(key) for key in keys])
        np.testing.assert_allclose(found[bytes.fromhex(keys[0])], [0.01, 0.0, 0.01])
