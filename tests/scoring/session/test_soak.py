"""The fault suite, for a minute: the promises of docs/reliability.md; and that it sees where they are broken."""

import json
import random
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.scoring import build_scorer, score_texts
from llm_server import truth

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from ledger_server import FAULTS
from soak import soak
from soak_checks import check_bill, check_end, check_limit, check_scores, check_secrets, check_store, check_table
from soak_report import GROUPS, lines, rows
from soak_world import CANARIES, MARK, NAMES, Done, Tally, World

SCENARIOS = ["score", "budget", "score", "threads", "score"]


ROWS = [{"id": f"r{i}", "text": f"{MARK} text {i}"} for i in range(4)]
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World("t", tmp_path / "w", random.Random(0), Tally(), tmp_path) as made:
        made.server.faults, made.server.latency, made.server.jitter = {}, 0.0, 0.0
        yield made


def ask(world: World, texts: list[str], key: str = "a", **fields: Any) -> Any:
    """Scores through the real client, which stores them where the suite looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOAK_KEY", key)
        fields = {"method": "json", **fields}
        scorer = build_scorer(world.llm(**fields), NAMES, False, store=world.store)
        return score_texts([scorer], texts)[0]


def write(world: World, name: str, scores: Any) -> Path:
    path = world.folder / name
    rows = [{**row, "llm_scores": [one]} for row, one in zip(ROWS, scores, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_server_keeps_books(world: World) -> None:
    ask(world, TEXTS)
    ledger = world.server.ledger
    assert sorted(text for one in ledger for text in one.texts) == TEXTS
    assert all(one.run == "a" and one.delivered and one.dollars > 0 for one in ledger)
    assert world.server.dollars() == pytest.approx((world.server.tokens[0] * 1.0 + world.server.tokens[1] * 4.0) / 1e6)
    done = [Done("a", [], 0, "", "")]
    check_store(world, TEXTS, done)
    check_bill(world)
    check_limit(world, world.server.dollars(), done)
    assert (world.problems, world.tally.sums["paid"], world.tally.sums["twice"]) == ([], 4, 0)


def test_an_answer_that_nobody_reads_has_not_arrived(world: World) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"<text>\n{TEXTS[0]}\n</text>"}]})
    request = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
    for is_read in (True, False):
        with socket.create_connection((world.server.host, world.server.port)) as connection:
            connection.sendall(request)
            if is_read:
                connection.recv(65536)
            else:
                select.select([connection], [], [], 10)
    deadline = time.monotonic() + 10
    while not world.server.ledger[-1].unread and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one.delivered for one in world.server.ledger] == [True, False]


def test_a_server_that_was_down_comes_back_where_it_was(world: World) -> None:
    url = world.server.url
    world.server.outage()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((world.server.host, world.server.port))
    world.server.recover()
    assert world.server.url == url
    assert not np.isnan(ask(world, TEXTS[:1])).any()


def test_a_broken_promise_is_seen(world: World) -> None:
    ask(world, TEXTS)
    world.store.unlink()
    ask(world, TEXTS[:2], key="b")  # paid again
    done = [Done(key, [], 1, "", "Traceback (most recent call last)\nOops") for key in "ab"]
    check_store(world, TEXTS, done)
    check_bill(world)
    check_limit(world, world.server.dollars() / 2, done)
    check_end(world, done[0])
    right = [truth(text, NAMES) for text in TEXTS]
    out = write(world, "out.jsonl", [*right[:2], right[0], None])
    check_scores(world, check_table(world, ROWS, out), ["m"], "json")
    check_table(world, ROWS[::-1], out)
    (world.folder / "scores.log").write_text(f"{TEXTS[0]} {CANARIES[0]}")
    check_secrets(world)
    sums = world.tally.sums
    assert (sums["answers_lost"], sums["twice_unexplained"], sums["wrong"], sums["texts_lost"]) == (2, 2, 1, 2)
    assert (sums["tracebacks"], sums["secrets"], sums["texts_kept"]) == (1, 1, 1)
    assert world.tally.most["requests over the limit, not killed"] > 1
    assert len(world.problems) == 9


@pytest.mark.slow
def test_faults_kills_and_signals_lose_nothing_and_pay_nothing_twice() -> None:
    tally = soak(4.0, seed=1, jobs=3, only=SCENARIOS, count=len(SCENARIOS), quick=True)
    assert tally.wrongs == []
    sums = tally.sums
    assert sums["scenarios"] == len(SCENARIOS)
    assert sum(tally.faults.values()) > 50
    assert sums["twice"] - sums["twice_left"] <= sums["wire_open"] + sums["wire_just"]
    assert sums["limits"] == 1
    assert sums["scores"] > 200
    figures = {what: figure for what, figure, _ in rows(tally)}
    assert (
        figures["wrong scores"] == figures["texts lost (rows missing, changed or moved; no score and no cause)"] == "0"
    )
    assert len(lines(tally)) == len(figures) + 1


def test_every_kind_of_fault_is_in_the_report() -> None:
    known = [kind for kinds in GROUPS.values() for kind in kinds]
    assert set(FAULTS) <= set(known)
    assert len(known) == len(set(known))


def test_a_reply_without_answers_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelfusion.scoring.api.client.FIRST_DELAY_S", 0.001)
    for method in ("decision", "json"):
        world.server.faults = {"no_choices": 0.5}
        assert not np.isnan(ask(world, [f"{MARK} {i}" for i in range(20)], method=method)).any()
    assert world.server.reached["no_choices"] > 5
