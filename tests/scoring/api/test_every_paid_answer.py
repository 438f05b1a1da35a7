"""Every paid answer is kept: signals, other runs at the same time, and stores that cannot be written."""

import asyncio
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from children import listen
from forked import Popen
from labelfusion.configuration import LLMProvider
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.api.api_scorer import APIScorer
from labelfusion.scoring.session.background import submit
from labelfusion.scoring.session.cancellation import on_wire
from labelfusion.scoring.store.score_store import ScoreStore
from llm_server import LABELS, LLMServer

NAMES = ",".join(LABELS)
PATIENCE_S = 120  # of the tests, on a machine that is busy with other things


def texts(count: int) -> list[str]:
    return [f"text number {i}" for i in range(count)]


def provider(server: LLMServer, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "api_base": server.url, "method": "json", **fields}


def start(arguments: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
    return Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
        **options,
    )


def until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.01)


def stored(path: Path) -> int:
    return sum(row["answers"] for row in ScoreStore(path).info())


def claims(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM claims").fetchone()[0])
    finally:
        connection.close()


def score_command(tmp_path: Path, server: LLMServer, count: int = 300) -> list[str]:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(count)))
    options = ["--llm", "m", "--api-base", server.url, "--labels", NAMES, "--store", str(tmp_path / "s.sqlite")]
    files = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
    return ["-m", "labelfusion.hub_scripts.cli", "score", *files, *options, "--method", "json"]


# --- Signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_signal_stops_asking_and_stores_what_is_on_the_wire(tmp_path: Path, how: str, status: int) -> None:
    with LLMServer(latency=0.5) as server:
        command = score_command(tmp_path, server)
        process = start(command)
        until(lambda: server.requests >= 50, process)
        process.send_signal(getattr(signal, how))
        error = process.communicate(timeout=PATIENCE_S)[1]
        assert process.returncode == status
        paid = len(server.paid)
        assert 50 <= paid < 300
        assert stored(tmp_path / "s.sqlite") == paid == server.requests
        assert claims(tmp_path / "s.sqlite") == 0
        said = error.strip().splitlines()[-1]
        assert said == (
            f"labelfusion score: interrupted ({how}). {paid} LLM answers of this run are kept in "
            f"{tmp_path / 's.sqlite'}: the same command goes on there."
        )
        assert "Traceback" not in error
        server.latency = 0
        assert start(command).wait(PATIENCE_S) == 0
        assert len(server.paid) == 300
        assert set(server.paid.values()) == {1}


@pytest.mark.slow
def test_guidelines_that_come_after_ctrl_c_are_kept(tmp_path: Path) -> None:
    with LLMServer(latency=1.5, labels=sorted(LABELS)) as server:
        server.answer = lambda system, user: json.dumps(dict.fromkeys(server.labels, 25)) if system else "Be an editor."
        command = [*score_command(tmp_path, server, 20), "--guidelines", "auto"]
        process = start(command)
        until(lambda: server.requests == 1, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        server.latency = 0.0
        assert start(command).wait(PATIENCE_S) == 0
        assert server.requests == 1 + 20  # and the guidelines once


def _score_in_a_child(url: str, path: str) -> None:
    submit(build_scorer(LLMProvider("m", api_base=url, method="json"), LABELS, False, store=path).score(["a text"]))
    until(lambda: bool(on_wire))  # nobody waits for the answer


@pytest.mark.slow
def test_what_is_on_the_wire_is_stored_at_the_end_of_a_child_process(tmp_path: Path) -> None:
    with LLMServer(latency=2.0) as server:
        path = tmp_path / "s.sqlite"
        child = multiprocessing.get_context("fork").Process(target=_score_in_a_child, args=(server.url, str(path)))
        child.start()
        child.join(PATIENCE_S)
        assert child.exitcode == 0
        assert len(server.paid) == stored(path) == 1


@pytest.mark.slow
def test_the_second_signal_leaves_at_once_and_the_first_waits_no_longer_than_it_says(tmp_path: Path) -> None:
    with LLMServer(latency=600) as server:
        process = start(score_command(tmp_path, server))
        until(lambda: server.in_flight >= 20, process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None  # drains
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 143
    with LLMServer(latency=600) as server:
        folder = tmp_path / "another run"
        folder.mkdir()
        process = start(score_command(folder, server))
        until(lambda: server.in_flight >= 20, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130  # of 600 s
        assert claims(folder / "s.sqlite") == 0


@pytest.mark.slow
def test_after_sigkill_only_what_was_on_the_wire_is_asked_again(tmp_path: Path) -> None:
    with LLMServer(latency=0.2) as server:
        command = score_command(tmp_path, server)
        process = start([*command, "--max-concurrency", "8"])
        until(lambda: server.requests >= 100, process)
        process.kill()
        process.wait()
        on_the_wire = 8 + server.just_delivered()
        server.latency = 0
        assert start(command).wait(PATIENCE_S) == 0  # the claims of the dead are void
        assert sum(count - 1 for count in server.paid.values()) <= on_the_wire


STREAM = """
import signal, sys
url, store, folder = sys.argv[1:]
import labelfusion
from transformers import pipeline
pipe = pipeline("labelfusion-classification", model=folder, llm=[{"model": "m", "api_base": url, "method": "json"}],
                llm_options={"store": store}, device="cpu")
try:
    for answer in pipe(f"text number {i}" for i in range(2000)):
        pass
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""


@pytest.mark.slow
def test_a_stream_in_python_does_the_same(tmp_path: Path, saved_model: Callable[..., Path]) -> None:
    folder = saved_model(num_labels=4, id2label=dict(enumerate(LABELS)), llm_providers=["openai/judge"])
    with LLMServer(latency=0.3) as server:
        process = start(["-c", STREAM, server.url, str(tmp_path / "s.sqlite"), str(folder)])
        until(lambda: server.requests >= 150, process)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE_S)
        assert (out, process.returncode) == ("interrupted\n", 0), error
        assert stored(tmp_path / "s.sqlite") == len(server.paid) == server.requests < 2000


def test_a_reply_that_comes_after_the_run_is_stored_before_the_process_ends(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from labelfusion.scoring import build_scorer, submit\n"
        "from labelfusion.scoring.session.deadlines import Patience\n"
        "from labelfusion.scoring.session.run_context import Run\n"
        "s = build_scorer({'model': 'm', 'api_base': sys.argv[1], 'method': 'json'}, sys.argv[3].split(','), False,\n"
        "                 store=sys.argv[2])\n"
        "def query(out): return s.score(['a'], Run(dispatch=out))\n"
        "async def ask(): return await s._coordinator() and await Patience(0.3).first(query, None, True)\n"
        "print(submit(ask()).result())"
    )
    with LLMServer(latency=1.5) as server:
        process = start(["-c", code, server.url, str(tmp_path / "s.sqlite"), NAMES])
        out, error = process.communicate(timeout=PATIENCE_S)
        assert out == "(None, True)\n", error
        assert stored(tmp_path / "s.sqlite") == len(server.paid) == 1


# --- Runs at the same time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["json", "auto"])
def test_threads_with_a_scorer_each_ask_once(tmp_path: Path, method: str) -> None:
    with LLMServer(latency=0.05) as server:
        found: list[Any] = []

        def work() -> None:
            scorer = build_scorer(provider(server, method=method), LABELS, False, store=tmp_path / "s.sqlite")
            found.append(score_texts([scorer], texts(150))[1][0])

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(found) == 16
        assert all(batch.mask.all() for batch in found)
        assert len(server.paid) == 150
        assert sum(server.paid.values()) <= 150 + 1
        assert server.requests <= 150 + 5  # `auto` is refused a few times


WORKER = """
import sys
from labelfusion.scoring import build_scorer, score_texts
url, store, method, count = sys.argv[1:]
scorer = build_scorer({"model": "m", "api_base": url, "method": method, "max_concurrency": 8},
                      ["World", "Sports", "Business", "Sci/Tech"], False, store=store)
print("ready", flush=True)
sys.stdin.readline()
batch = score_texts([scorer], [f"text number {i}" for i in range(int(count))])[1][0]
print(int(batch.mask.sum()), flush=True)
"""


def workers(server: LLMServer, path: Path, method: str, number: int, count: int) -> "list[subprocess.Popen[str]]":
    command = ["-c", WORKER, server.url, str(path), method, str(count)]
    processes = [start(command, stdin=subprocess.PIPE) for _ in range(number)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("method", ["json", "auto"])
def test_processes_ask_once(tmp_path: Path, method: str) -> None:
    with LLMServer(latency=0.1) as server:
        processes = workers(server, tmp_path / "s.sqlite", method, 6, 200)
        answers = [process.communicate("go\n", timeout=PATIENCE_S) for process in _started(processes)]
        assert [out for out, _ in answers] == ["200\n"] * 6, answers
        assert len(server.paid) == 200
        assert sum(server.paid.values()) <= 200 + 2
        assert server.requests <= 200 + 2 + 3  # what `auto` tries in vain
        assert claims(tmp_path / "s.sqlite") == 0


def _started(processes: "list[subprocess.Popen[str]]") -> "list[subprocess.Popen[str]]":
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


@pytest.mark.slow
def test_what_another_process_gives_up_or_dies_of_is_asked_here(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with LLMServer(latency=600) as server:
        for how in (signal.SIGKILL, signal.SIGINT):
            (other,) = workers(server, path, "json", 1, 4)
            before = server.requests
            _started([other])
            until(lambda before=before: server.requests == before + 4, other)  # type: ignore[misc]
            scorer = build_scorer(provider(server), LABELS, False, store=path)
            found: list[Any] = []
            thread = threading.Thread(
                target=lambda scorer=scorer, found=found: found.append(score_texts([scorer], texts(4))[1][0])
            )
            before = server.requests
            thread.start()
            time.sleep(0.5)
            assert server.requests == before  # waits for the other
            server.latency = 0
            other.send_signal(how)
            other.wait(PATIENCE_S)
            thread.join(PATIENCE_S)
            assert found[0].mask.all()
            server.latency = 600
            ScoreStore(path).clear()


def test_runs_whose_texts_have_no_answer_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Each asks about the half that the other waits for, and gets nothing for it."""
    results: list[Any] = []
    with LLMServer(latency=0.2, faults={"refusal": 1.0}) as server:

        def ask(part: list[str]) -> None:  # on an event loop of its own: to the store, another process
            scorer = build_scorer(provider(server, max_concurrency=8), LABELS, False, store=tmp_path / "scores.sqlite")
            results.append(asyncio.run(scorer.score(part)))

        orders = texts(16), texts(16)[::-1]
        threads = [threading.Thread(target=ask, args=(order,), daemon=True) for order in orders]
        for thread in threads:
            thread.start()
        until(lambda: len(results) == 2)
        for batch in results:
            assert batch.errors == dict.fromkeys(range(16), "refused")
        assert server.requests == 32  # refusals are no answers
    assert claims(tmp_path / "scores.sqlite") == 0


def test_a_claim_whose_owner_is_silent_ends(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with LLMServer() as server:
        scorer = build_scorer(provider(server), LABELS, False, store=path)
        assert isinstance(scorer, APIScorer)
        key = scorer.questions.key("json", "a")
        ScoreStore(path).close()
        other = sqlite3.connect(path)
        other.execute("INSERT INTO claims VALUES (?, 'elsewhere 1 2 3', ?)", (key, time.time() + 1))
        other.commit()
        other.close()
        assert score_texts([scorer], ["a", "b"])[1][0].mask.all()
        assert server.paid == {"a": 1, "b": 1}


def test_claims_are_extended_while_a_request_is_on_the_wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelfusion.scoring.api.coordination.CLAIM_S", 0.3)
    monkeypatch.setattr("labelfusion.scoring.store.score_store.CLAIM_S", 0.3)
    path = tmp_path / "s.sqlite"
    with LLMServer(latency=1.5) as server:
        scorer = build_scorer(provider(server), LABELS, False, store=path)
        thread = threading.Thread(target=lambda: score_texts([scorer], ["a"]))
        thread.start()
        until(lambda: server.requests == 1)
        seen = set()
        connection = sqlite3.connect(path)
        while thread.is_alive():
            seen |= {row[0] for row in connection.execute("SELECT expires FROM claims")}
            time.sleep(0.02)
        connection.close()
        assert len(seen) > 2
        assert claims(path) == 0


# --- Stores that cannot be written -----------------------------------------------------------------------------------


def fill_up(path: Path) -> None:
    """No page more than the file has."""
    store = ScoreStore(path)
    limited = ScoreStore._connect

    def connect(self: ScoreStore) -> sqlite3.Connection:
        connection = limited(self)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    ScoreStore._connect = connect  # type: ignore[method-assign]
    store.close()


def test_a_full_disk_is_said_once_and_no_more_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ScoreStore, "_connect", ScoreStore._connect)  # put back afterwards
    path = tmp_path / "s.sqlite"
    with LLMServer(latency=0.02) as server:
        scorer = build_scorer(provider(server, max_concurrency=4), LABELS, False, store=path)
        fill_up(path)
        _, (batch,) = score_texts([scorer], texts(1000))
        paid = len(server.paid)
        assert 0 < paid < 900  # as many as find room in the pages that there are
        assert batch.mask.sum() == paid  # what is paid is returned
        told = [record.message for record in caplog.records]
        assert len(told) == 1
        assert "stopped early: no answer can be kept" in told[0]
        assert ".." not in told[0]
        assert f"The score store {path} cannot be used (database or disk is full). Make room on its disk" in told[0]
        with pytest.raises(ScoringError, match="Make room on its disk"):
            score_texts([scorer], texts(1000))
        assert len(server.paid) == paid  # nothing more, and nothing twice
        assert set(server.paid.values()) == {1}
        free = build_scorer(provider(server), LABELS, False, cache=False)
        assert score_texts([free], ["more"])[1][0].mask.all()
        monkeypatch.undo()  # there is room again
        store = ScoreStore(path)
        scorer._store.close()  # type: ignore[attr-defined]
        batch = score_texts([scorer], texts(1000))[1][0]
        assert batch.mask.all()
        assert batch.cached == paid
        assert set(server.paid.values()) == {1}
        assert sum(row["answers"] for row in store.info()) == 1000


@pytest.mark.skipif(os.getuid() != 0, reason="takes another user's eyes")
@pytest.mark.slow
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_said_before_anything_is_paid(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "of root"
    folder.mkdir()
    if what == "file":
        ScoreStore(folder / "s.sqlite").close()
        (folder / "s.sqlite").chmod(0o644)
    with LLMServer() as server:
        code = (
            "import os, sys; from labelfusion.scoring import build_scorer, score_texts\n"
            "llm = {'model': 'm', 'api_base': sys.argv[1], 'method': 'json'}\n"
            "score_texts([build_scorer(llm, ['a', 'b'], False, store=':memory:')], ['imports everything'])\n"
            "os.setuid(65534)\n"
            "score_texts([build_scorer(llm, ['a', 'b'], False, store=sys.argv[2])], ['x', 'y'])"
        )
        for parent in [folder, *folder.parents][:-1]:
            if parent.stat().st_uid == 0 and str(parent).startswith(str(tmp_path.parent.parent)):
                parent.chmod(0o755)
        process = start(["-c", code, server.url, str(folder / "s.sqlite")])
        error = process.communicate(timeout=PATIENCE_S)[1]
        assert "ScoringError: The score store" in error
        assert "writable" in error
        assert server.requests == 1


def test_the_answers_of_a_call_that_cannot_store_are_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with LLMServer() as server:
        scorer = build_scorer(provider(server), LABELS, False, store=path)
        assert score_texts([scorer], ["a"])[1][0].mask.all()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("DROP TABLE claims")  # somebody has damaged it meanwhile
        with pytest.raises(ScoringError, match=r"no such table: claims.*Move it away"):
            score_texts([scorer], ["a", "b"])
        assert server.paid == {"a": 1}
        other.close()
