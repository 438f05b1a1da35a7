"""Ctrl-C, SIGTERM and SIGHUP in every command that asks: what is on the wire is stored, and asked no more."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import listen
from forked import Popen, run
from labelfusion.configuration import LabelFusionConfig
from labelfusion.scoring import build_scorer
from labelfusion.scoring.asker import Asker
from labelfusion.scoring.session.background import Job
from labelfusion.scoring.store.score_store import ScoreStore
from llm_server import LABELS, LLMServer

PATIENCE_S = 120
STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


def start(tmp_path: Path, command: list[str]) -> "subprocess.Popen[str]":
    return Popen(
        [sys.executable, "-m", "labelfusion.hub_scripts.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        preexec_fn=listen,
    )


def interrupt(process: "subprocess.Popen[str]", server: LLMServer, requests: int, how: str) -> str:
    """Send the signal after so many requests, with some on the wire. Returns: what the process said."""
    end = time.monotonic() + PATIENCE_S
    while server.requests < requests or server.in_flight < 8:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(getattr(signal, how))
    return process.communicate(timeout=PATIENCE_S)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "how"), [("predict", "SIGTERM"), ("train", "SIGHUP"), ("evaluate", "SIGINT")])
def test_a_signal_in_a_command_that_asks(
    tmp_path: Path, saved_model: Callable[..., Path], tiny_encoder_dir: Path, verb: str, how: str
) -> None:
    rows = [{"text": f"text number {i}", "label": LABELS[i % 4]} for i in range(120)]
    data = tmp_path / "in.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with LLMServer(latency=0.5) as server:
        llm: dict[str, Any] = {"model": "m", "api_base": server.url, "method": "json", "max_concurrency": 16}
        model = str(saved_model(num_labels=4, id2label=dict(enumerate(LABELS)), llm_providers=[llm]))
        fitted = ["--encoder", str(tiny_encoder_dir), "--llm", json.dumps(llm), "--encoder-training", "probe"]
        command = {
            "predict": ["predict", model, str(data), str(tmp_path / "out.jsonl")],
            "train": ["train", str(data), "--output-dir", str(tmp_path / "trained"), *fitted],
            "evaluate": ["evaluate", model, str(data)],
        }[verb]
        error = interrupt(process := start(tmp_path, command), server, 40, how)
        assert process.returncode == STATUS[how]
        paid, store = len(server.paid), ScoreStore(tmp_path / "hf/labelfusion/scores.sqlite")
        assert 40 <= paid < 120
        assert sum(row["answers"] for row in store.info()) == paid == server.requests
        said = error.strip().splitlines()[-1]
        assert said.startswith(f"labelfusion {verb}: interrupted ({how}). ")
        assert f"{paid} LLM answers of this run are kept in" in said
        assert "Traceback" not in error
        server.latency = 0
        again = start(tmp_path, command)
        assert again.wait(PATIENCE_S) == 0
        assert len(server.paid) == 120
        assert set(server.paid.values()) == {1}


def test_a_stopped_run_tells_its_questions_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = Job.cancel

    def seen(job: "Job[Any]") -> None:  # the loop gets to know of one before the next is sent
        cancel(job)
        time.sleep(0.1)

    def interrupted(*_: Any) -> None:
        while server.in_flight < 4:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "cancel", seen)
    with LLMServer(latency=0.5) as server:
        llm: dict[str, Any] = {"model": "m", "api_base": server.url, "method": "json"}
        store = ScoreStore(tmp_path / "s.sqlite")
        config = LabelFusionConfig(id2label=dict(enumerate(LABELS)), llm_providers=[llm])
        asking = Asker(config, [build_scorer(llm, LABELS, False, store=store.path)]).submit(["a", "b", "c", "d"])
        monkeypatch.setattr(asking._job._result, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            asking.result()
        assert sum(row["answers"] for row in store.info()) == len(server.paid) == 4


IN_A_DESTRUCTOR = """
import signal, sys, threading, time
from labelfusion.hub_scripts.stopping import Stopped, stoppable

class Inconvenient:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0)  # the handler runs, and Python drops what it raises

def work():  # keeps the main thread waiting
    while True:
        sum(range(20_000))

for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
handler, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
for _ in range(20):
    try:
        with stoppable():
            Inconvenient()
            time.sleep(60)
    except Stopped as stopped:
        print(stopped.number == signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == (handler, hook)
"""


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    done = run([sys.executable, "-c", IN_A_DESTRUCTOR], capture_output=True, text=True, timeout=300, preexec_fn=listen)
    assert (done.returncode, done.stdout) == (0, "True\n" * 20), done.stderr
