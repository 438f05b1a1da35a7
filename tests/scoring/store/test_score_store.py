"""The score store: what is kept, how fast, and what survives threads, processes and accidents."""

import asyncio
import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from labelfusion.scoring import ScoringError, build_scorer, score_texts, submit
from labelfusion.scoring.store.score_store import Answer, ScoreStore, question_key
from labelfusion.scoring.store.sqlite_file import StoreBusyError, unusable
from llm_server import LABELS, LLMServer


def answer(i: int, model: str = "m", cost: float = 0.5) -> Answer:
    return Answer(question_key({"i": i}), np.full(4, i / 1e6, dtype=np.float32), model, "json", 10, 2, cost)


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "deep" / "folder" / "scores.sqlite")


def test_answers_come_back_bit_equal(store: ScoreStore) -> None:
    scores = np.array([0.1, 1 / 3, 1e-7, 0.5666666], dtype=np.float32)
    store.put_many([Answer(b"k" * 32, scores, "m", "json", 1, 2, 0.25)])
    found = store.get_many([b"k" * 32, b"x" * 32])
    assert list(found) == [b"k" * 32]
    np.testing.assert_array_equal(found[b"k" * 32], scores)
    assert store.get_many([]) == {}


def test_ten_thousand_answers_are_quick(store: ScoreStore) -> None:
    answers = [answer(i) for i in range(10_000)]
    started = time.perf_counter()
    for i in range(0, 10_000, 100):
        store.put_many(answers[i : i + 100])
    stored = time.perf_counter() - started
    started = time.perf_counter()
    found = store.get_many([a.key for a in answers])
    assert len(found) == 10_000
    assert stored < 10
    assert time.perf_counter() - started < 5


def test_info_clear_and_export(store: ScoreStore) -> None:
    store.put_many([answer(i) for i in range(5)] + [answer(i, "other", 1.0) for i in range(5, 8)])
    store.put_method(b"model", "m", "json")
    rows = store.info()
    assert [(r["model"], r["answers"], r["prompt_tokens"], r["cost_usd"]) for r in rows] == [
        ("m", 5, 50, 2.5),
        ("other", 3, 30, 3.0),
    ]
    exported = list(store.export())
    assert len(exported) == 8
    assert set(exported[0]) == {
        "key", "model", "method", "scores", "prompt_tokens", "completion_tokens", "cost_usd", "created",
    }  # fmt: skip
    assert store.clear(model="other") == 3
    assert store.get_method(b"model") is None
    assert store.clear(before=time.time() - 60) == 0
    assert store.clear() == 5
    assert store.info() == []


def test_the_same_question_is_the_same_key_in_any_order() -> None:
    assert question_key({"a": 1, "b": "\ud800"}) == question_key({"b": "\ud800", "a": 1})
    assert question_key({"a": 1}) != question_key({"a": 2})


def test_many_threads(store: ScoreStore) -> None:
    def work(part: int) -> None:
        for i in range(part * 200, part * 200 + 200):
            store.put_many([answer(i)])
            assert store.get_many([answer(i).key])

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.get_many([answer(i).key for i in range(1600)])) == 1600


def write(path: str, part: int, barrier: "Callable[[], int]") -> None:
    barrier()
    store = ScoreStore(path)
    for i in range(part * 100, part * 100 + 100):
        store.put_many([answer(i)])


def test_many_processes_that_all_make_the_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(6)
    path = str(tmp_path / "scores.sqlite")
    processes = [context.Process(target=write, args=(path, part, barrier.wait)) for part in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sum(row["answers"] for row in ScoreStore(path).info()) == 600


def test_a_forked_child_opens_the_file_anew(store: ScoreStore) -> None:
    store.put_many([answer(1)])
    child = os.fork()
    if child == 0:
        try:
            store.put_many([answer(2)])
            os._exit(0 if len(store.get_many([answer(1).key, answer(2).key])) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    store.put_many([answer(3)])
    assert len(store.get_many([answer(i).key for i in (1, 2, 3)])) == 3


def test_a_writer_in_the_way_is_waited_for_elsewhere(store: ScoreStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        store.put_many([answer(1)], wait=False)
    with LLMServer() as server:
        scorer = build_scorer({"model": "m", "api_base": server.url, "method": "json"}, LABELS, False, store=store)
        future = submit(scorer.score(["a", "b"]))
        time.sleep(0.5)
        assert not future.done()  # waits for the other writer, without stopping the loop
        assert submit(asyncio.sleep(0, "alive")).result(5) == "alive"
        other.execute("COMMIT")
        other.close()
        assert future.result(20).errors == {}
    assert sum(row["answers"] for row in store.info()) == 2
    store.put_many([answer(1)], wait=False)


def test_another_kind_of_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, not a data base" * 100)
    with pytest.raises(ScoringError, match=r"notes.txt cannot be used.*--no-cache"):
        ScoreStore(path)
    assert path.read_text().startswith("these are my notes")


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    whole = ScoreStore(path)
    whole.put_many([answer(i) for i in range(3000)])
    whole.close()
    content = bytearray(path.read_bytes())
    content[8192 : len(content) // 2] = bytes(len(content) // 2 - 8192)
    path.write_bytes(content)
    with pytest.raises(ScoringError, match=r"score store .*scores.sqlite cannot be used .*Move it away"):
        ScoreStore(path).get_many([answer(i).key for i in range(3000)])


def test_a_store_that_cannot_be_written_costs_no_answer(
    store: ScoreStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise unusable(store.path, "database or disk is full", "Make room on its disk")

    monkeypatch.setattr(store, "put_many", full)
    with LLMServer() as server:
        scorer = build_scorer({"model": "m", "api_base": server.url, "method": "json"}, LABELS, False, store=store)
        _, batches = score_texts([scorer], ["a", "b"])
    assert batches[0].errors == {}
    assert "disk is full" in caplog.text


def cached(
    server: LLMServer, store: ScoreStore, labels: list[str] | None = None, texts: str = "abc", **fields: object
) -> int:
    provider = {"model": "m", "api_base": server.url, "method": "json", **fields}
    scorer = build_scorer(provider, labels or LABELS, False, store=store)
    return score_texts([scorer], list(texts))[1][0].cached


def test_everything_that_changes_the_answer_changes_the_key(store: ScoreStore) -> None:
    with LLMServer(offers={"json_schema", "temperature", "n", "logprobs"}) as server, LLMServer() as other:
        assert cached(server, store) == 0
        assert cached(server, store) == 3
        assert cached(server, store, texts="abcd") == 3
        assert cached(server, store, price=(1, 2), max_concurrency=2, timeout_s=9, name="n") == 3  # these do not
        assert cached(other, store) == 0
        assert cached(server, store, model="m2") == 0
        assert cached(server, store, method="vote") == 0
        assert cached(server, store, method="vote", votes=3) == 0
        assert cached(server, store, params={"seed": 1}) == 0
        assert cached(server, store, guidelines="Mind.") == 0
        assert cached(server, store, texts_per_request=3) == 0
        examples = [{"text": "x", "label": "World"}]
        assert cached(server, store, prompt="few-shot", examples=examples) == 0
        assert cached(server, store, prompt="few-shot", examples=examples) == 3
        assert cached(server, store) == 3


def test_the_order_of_the_classes_is_a_part_of_the_key(store: ScoreStore) -> None:
    with LLMServer() as server:
        cached(server, store)
    with LLMServer(labels=LABELS[::-1], port=server.port) as again:
        assert again.url == server.url
        assert cached(again, store, LABELS[::-1]) == 0


def test_failed_answers_are_not_stored(store: ScoreStore) -> None:
    texts = [f"text {i}" for i in range(40)]
    with LLMServer(faults={"refusal": 0.2, "prose": 0.2}) as server:
        scorer = build_scorer({"model": "m", "api_base": server.url, "method": "json"}, LABELS, False, store=store)
        first = score_texts([scorer], texts)[1][0]
        assert 5 < len(first.errors) < 35
        second = score_texts([scorer], texts)[1][0]
        assert second.cached == first.mask.sum()
        assert second.usage.requests == len(first.errors)


def test_without_a_store_nothing_is_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelfusion.scoring.store import score_store as module

    monkeypatch.setattr(module, "default_path", lambda: tmp_path / "s.sqlite")
    with LLMServer() as server:
        provider = {"model": "m", "api_base": server.url, "method": "json"}
        for _ in range(2):
            scorer = build_scorer(provider, LABELS, False, cache=False)
            assert score_texts([scorer], ["a"])[1][0].cached == 0
        assert server.requests == 2
        assert list(tmp_path.iterdir()) == []
        score_texts([build_scorer(provider, LABELS, False)], ["a"])
        assert (tmp_path / "s.sqlite").exists()
