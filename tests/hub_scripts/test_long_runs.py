"""Long runs over files: one budget, however often the run is stopped, and files that are not as their first rows."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Popen, run
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.io.journal import Journal
from labelfusion.hub_scripts.io.tables import Table, check_columns, sample_texts
from llm_server import LLMServer
from made_data import NAMES, frame

from labelfusion import AutoFusionClassifier, LLMProvider


def test_the_budget_holds_over_interruptions(
    tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("labelfusion.scoring.store.score_store.default_path", lambda: tmp_path / "scores.sqlite")
    with LLMServer(labels=NAMES) as server:
        llm = LLMProvider("m", api_base=server.url, method="json", price=(100.0, 100.0), max_concurrency=4)
        options: dict[str, Any] = {"encoder": tiny_encoder_dir, "encoder_training": "probe", "fusion": "pool"}
        clf = AutoFusionClassifier(llm=llm, max_scored_rows=20, **options)
        clf.fit(frame(60).drop(columns="llm_scores")).save_pretrained(tmp_path / "model")
        texts = [f"a movie w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(600)]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        before, a_text = sum(server.tokens), clf.report_["cost_usd"] / 20
        limit = 200 * a_text

        def billed() -> float:
            return (sum(server.tokens) - before) * 1e-4

        out = tmp_path / "out.jsonl"
        command = ["predict", *(str(tmp_path / name) for name in ("model", "in.jsonl", "out.jsonl"))]
        command += ["--max-cost-usd", str(limit)]
        put = Journal.put

        def stopped(self: Journal, record: dict[str, Any]) -> None:
            put(self, record)
            time.sleep(1.0)  # the next rows are paid meanwhile
            raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "put", stopped)
        for _ in range(3):
            assert main(command) == 130
        assert 0.5 * limit < billed() < limit + 8 * a_text
        monkeypatch.setattr(Journal, "put", put)
        assert main(command) == 0
        assert billed() < limit + 8 * a_text
        assert len(out.read_text().splitlines()) == 600
        assert not (tmp_path / "out.jsonl.journal").exists()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [[], ["--max-cost-usd", "1"]])
def test_a_killed_run_that_goes_on_tells_what_both_have_cost(
    tmp_path: Path, saved_model: Callable[..., Path], limit: list[str]
) -> None:
    with LLMServer(labels=NAMES, latency=0.2, thinks=lambda text: 50) as server:
        llm: dict[str, Any] = {"model": "m", "api_base": server.url, "method": "json", "price": [1.0, 4.0]}
        llm["max_concurrency"] = 16
        model = saved_model(num_labels=2, id2label=dict(enumerate(NAMES)), llm_providers=[llm])
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(300)))
        command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "predict", str(model)]
        command += [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), *limit]
        env = {**os.environ, "HF_HOME": str(tmp_path / "hf")}
        process = Popen(command, env=env, stderr=subprocess.DEVNULL)
        while server.requests < 160:  # more than a window
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        while server.in_flight:
            time.sleep(0.01)
        killed = server.billed(1.0, 4.0)[0]
        server.latency = 0.0
        done = run(command, env=env, capture_output=True, text=True, check=True)
        in_all, one = server.billed(1.0, 4.0)
    told = re.search(r"for \$([\d.]+) in all, \$([\d.]+) of it in this run", done.stdout)
    assert told is not None, done.stdout
    # What is noted ahead, for requests on their way, comes to a few requests at most.
    assert in_all - 2e-4 <= float(told[1]) <= in_all + 16 * one
    assert float(told[2]) == pytest.approx(in_all - killed, abs=16 * one)


def test_fitting_and_the_test_share_one_limit(
    tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("labelfusion.scoring.store.score_store.default_path", lambda: tmp_path / "scores.sqlite")
    with LLMServer(labels=NAMES, thinks=lambda text: 50) as server:
        llm = {"model": "m", "api_base": server.url, "method": "json", "price": [1.0, 4.0], "max_concurrency": 4}
        frame(60).drop(columns="llm_scores").to_json(tmp_path / "train.jsonl", orient="records", lines=True)
        rows = [{"text": f"another text {i}", "label": NAMES[i % 2]} for i in range(100)]
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["train", str(tmp_path / "train.jsonl"), "--test", str(tmp_path / "test.jsonl")]
        command += ["--encoder", tiny_encoder_dir, "--encoder-training", "probe", "--fusion", "pool"]
        command += ["--llm", json.dumps(llm), "--output-dir", str(tmp_path / "model"), "--max-cost-usd", "0.04"]
        assert main(command) == 0
        spent, one = server.billed(1.0, 4.0)
    assert 0.035 < spent <= 0.04 + one
    said = [record.getMessage() for record in caplog.records if "No more LLM queries" in record.getMessage()]
    assert len(said) == 1
    assert "`max_cost_usd` of $0.04 reached" in said[0]


def test_the_journal_remembers_what_was_spent(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {})
    for start in (0, 5):
        journal.put({"start": start, "rows": 5})
        journal.spend(1.0 + start)
    journal.cut(5)
    again = Journal(tmp_path / "j", {})
    assert (again.spent, [record["start"] for record in again.records()]) == (6.0, [0])


@pytest.mark.parametrize("begun", ["", "{", '{"run":', '{"run":{"inp'])
def test_a_journal_that_was_not_begun_is_begun_anew(tmp_path: Path, begun: str) -> None:
    (tmp_path / "j").write_text(begun)
    Journal(tmp_path / "j", {"input": 1}).put({"start": 0, "rows": 5})
    assert len(list(Journal(tmp_path / "j", {"input": 1}).records())) == 1
    with pytest.raises(ValueError, match="with other settings"):
        Journal(tmp_path / "j", {"input": 2})


@pytest.mark.parametrize("other", ["id,text", "id,text\n1,a\n", '{"text": "x"}\n'])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, other: str) -> None:
    (tmp_path / "j").write_text(other)
    with pytest.raises(ValueError, match="is not the journal of a run"):
        Journal(tmp_path / "j", {})
    assert (tmp_path / "j").read_text() == other


def test_texts_are_drawn_from_all_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i // 500} {i}" if i % 2 else " "}) + "\n" for i in range(1000)))
    texts = sample_texts(Table(str(path)), "text", 100)
    assert texts == sample_texts(Table(str(path)), "text", 100)
    assert len(set(texts)) == 100
    assert 30 < sum(text.startswith("0") for text in texts) < 70
    with path.open("a") as file:
        file.write('{"text": "x", "late": 1}\n')
    with pytest.raises(ValueError, match=r"Row 1000 of in.jsonl has the columns \['late'\]"):
        check_columns(Table(str(path)), tmp_path / "out.parquet")
    check_columns(Table(str(path)), tmp_path / "out.jsonl")
