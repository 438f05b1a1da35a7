"""Score stores that a team shares: PostgreSQL, segments in a folder, and copying between stores."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from forked import Popen, run
from labelfusion.hub_scripts.cli import main
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.open_store import open_store, store_file
from labelfusion.scoring.store.claims import owner_name
from labelfusion.scoring.store.score_store import ScoreStore
from labelfusion.scoring.store.segment_store import SegmentStore
from labelfusion.scoring.store.stored_answers import Answer, Store, StoreBusyError, question_key
from llm_server import LABELS, LLMServer
from postgres_server import PASSWORD, PostgresServer, binaries

Make = Callable[[], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra postgres)")
    with PostgresServer() as found:
        yield found


@pytest.fixture(params=["sqlite", "segments", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Opens the same store again at each call; empty at first."""
    if request.param == "sqlite":
        return lambda: open_store(tmp_path / "scores.sqlite")
    if request.param == "segments":
        machines = iter(range(100))
        return lambda: SegmentStore(str(tmp_path / "shared"), tmp_path / f"machine{next(machines)}.sqlite")
    url = request.getfixturevalue("server").url
    open_store(url).clear()
    return lambda: open_store(url)


def answer(i: int, model: str = "m", cost: float = 0.5) -> Answer:
    return Answer(question_key({"i": i}), np.full(4, i / 1e6, dtype=np.float32), model, "json", 10, 2, cost)


def shown(store: Any) -> None:
    """Segments become visible to others when they are published."""
    if isinstance(store, SegmentStore):
        store.publish()


def test_every_store_keeps_the_same_contract(make: Make) -> None:
    store = make()
    assert isinstance(store, Store)
    assert store.get_many([]) == {}
    store.put_many([answer(i) for i in range(5)] + [answer(i, "other", 1.0) for i in range(5, 8)])
    store.put_many([answer(1)])
    shown(store)
    again = make()
    found = again.get_many([answer(i).key for i in (1, 7, 99)])
    assert set(found) == {answer(1).key, answer(7).key}
    np.testing.assert_array_equal(found[answer(7).key], answer(7).scores)
    assert again.get_many([answer(1).key], num_labels=3) == {}
    assert again.get_many([answer(1).key], 4, sums_to_one=True) == {}
    rows = [(row["model"], row["answers"], row["prompt_tokens"], row["cost_usd"]) for row in again.info()]
    assert rows == [("m", 5, 50, 2.5), ("other", 3, 30, 3.0)]
    records = [record for batch in again.records() for record in batch]
    assert [record[0] for record in records] == sorted(answer(i).key for i in range(8))
    assert again.add_records(records) == 0
    store.put_method(b"key", "m", "json")
    assert (store.get_method(b"key"), store.get_method(b"no")) == ("json", None)
    assert [entry["method"] for entry in store.methods()] == ["json"]
    assert store.forget_methods(b"no") == 0
    assert store.forget_methods() == 1
    assert store.clear(model="other") == 3
    assert store.clear(before=time.time() - 60) == 0
    assert store.clear() == 5
    assert store.info() == []
    store.close()
    again.close()


def test_claims_exclude_each_other(make: Make) -> None:
    one = make()
    two = one if isinstance(one, SegmentStore) else make()
    keys = [answer(i).key for i in range(4)]
    mine, theirs = owner_name(1), owner_name(2)
    one.put_many([answer(0)])
    assert one.claim(keys[:3], mine).free == set(keys[1:3])
    look = two.claim(keys, theirs)
    assert (set(look.found), look.taken, look.free) == ({keys[0]}, set(keys[1:3]), {keys[3]})
    assert two.look(keys, mine).free == set(keys[1:3])
    one.put_many([answer(1)], mine)
    one.release([keys[2]], mine)
    look = two.look(keys, theirs)
    assert (set(look.found), look.taken, look.free) == ({keys[0], keys[1]}, set(), set(keys[2:]))
    assert two.claim(keys, theirs).free == set(keys[2:])
    assert one.claim(keys, mine).taken == set(keys[2:])
    assert one.claim([keys[1]], mine).free == set()  # answered: no claim is left behind
    assert two.claim([keys[1]], theirs).taken == set()


def test_claims_of_the_dead_end(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store, keys = open_store(server.url), [answer(i).key for i in range(3)]
    store.clear()
    machine, _, _, _ = owner_name(0).split()
    assert store.claim(keys, f"{machine} 999999999 1 0").free == set(keys)
    assert store.claim(keys, owner_name(1)).free == set(keys)  # dead, on this machine: void at once
    store.clear()
    elsewhere = "another-machine/1 5 77 0"
    monkeypatch.setattr("labelfusion.scoring.store.postgres_store.CLAIM_S", 1.0)
    assert store.claim(keys, elsewhere).free == set(keys)
    assert store.claim(keys, owner_name(1)).taken == set(keys)
    time.sleep(0.6)
    store.extend(keys[:1], elsewhere)
    time.sleep(0.6)
    look = store.claim(keys, owner_name(1))
    assert (look.taken, look.free) == ({keys[0]}, set(keys[1:]))


def test_nothing_waits_on_the_event_loop(server: PostgresServer) -> None:
    store = open_store(server.url)
    with pytest.raises(StoreBusyError):
        store.put_many([answer(1)], wait=False)


def test_many_threads_claim_each_question_once(server: PostgresServer) -> None:
    open_store(server.url).clear()
    keys = [answer(i).key for i in range(400)]
    won: list[bytes] = []

    def work(part: int) -> None:
        store, rng = open_store(server.url), np.random.default_rng(part)
        for _ in range(40):
            some = [keys[i] for i in rng.permutation(400)[:20]]
            free = store.claim(some, owner_name(100 + part)).free
            won.extend(free - set(won))
            store.put_many(
                [Answer(key, answer(1).scores, "m", "json", 1, 1, 1.0) for key in free], owner_name(100 + part)
            )

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(set(won)) == open_store(server.url).info()[0]["answers"]


def test_the_password_is_nowhere(
    server: PostgresServer, capsys: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    store = open_store(server.url)
    assert PASSWORD not in repr(store) + store.path + str(store.identity)
    wrong = server.url.replace(PASSWORD, "wr0ng-" + PASSWORD)
    for url in (wrong, server.url.replace(f":{server.port}", ":1"), server.url + "%", server.url.replace("@", "%zz@")):
        with pytest.raises(ScoringError) as caught:
            open_store(url)
        assert PASSWORD not in str(caught.value)
        assert main(["cache", "info", "--store", url]) == 2
    (tmp_path / "in.csv").write_text("text\nx\ny\n")
    with LLMServer() as llm:
        command = ["score", str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"), "--labels", ",".join(LABELS)]
        command += ["--llm", json.dumps({"model": "m", "api_base": llm.url, "method": "json"}), "--store", server.url]
        assert main(command) == 0
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "x.csv").write_text("text\nx\ny\n")
        assert main([*command[:1], str(folder), str(tmp_path / "out"), *command[3:]]) == 0
        assert llm.requests == 2
    assert main(["cache", "info", "--store", server.url]) == 0
    told = capsys.readouterr()
    assert f"postgresql://127.0.0.1:{server.port}/postgres" in told.out
    files = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    assert PASSWORD not in told.out + told.err + caplog.text + files


def test_a_store_of_another_release_is_refused(server: PostgresServer) -> None:
    import psycopg

    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("UPDATE labelfusion_version SET version = 99")
        try:
            with pytest.raises(ScoringError, match=r"format 99 of another release"):
                open_store(server.url)
        finally:
            connection.execute("UPDATE labelfusion_version SET version = 1")


def test_a_role_that_may_make_no_tables_can_use_the_store(server: PostgresServer) -> None:
    import psycopg

    store = open_store(server.url)
    store.put_many([answer(1)])
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE plain LOGIN PASSWORD 'plain1234'")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain")
    url = f"postgresql://plain:plain1234@127.0.0.1:{server.port}/postgres"
    assert answer(1).key in open_store(url).get_many([answer(1).key])


WORKER = """
import sys
from labelfusion.scoring import build_scorer, score_texts
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
url, api, part = sys.argv[1:]
scorer = build_scorer({"model": "m", "api_base": api, "method": "json", "max_concurrency": 8}, LABELS, False, store=url)
texts = [f"text {i}" for i in range(400)]
order = texts[int(part) * 100:] + texts[:int(part) * 100]
scores, batches = score_texts([scorer], order)
assert not batches[0].errors, batches[0].errors
"""


@pytest.mark.slow
@pytest.mark.parametrize("restart", [False, True])
def test_processes_share_a_database(server: PostgresServer, restart: bool) -> None:
    """Four processes, the same texts; with the database restarted in the middle."""
    open_store(server.url).clear()
    with LLMServer(latency=0.1) as llm:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, server.url, llm.url]
        processes = [
            Popen([*command, str(part)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for part in range(4)
        ]
        if restart:
            while len(llm.paid) < 60:
                time.sleep(0.02)
            server.stop("immediate")  # a crash
            time.sleep(2.0)
            server.start()
        for process in processes:
            _, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
            assert "Traceback" not in err
        assert len(llm.paid) == 400
        twice = llm.paid.total() - 400
        assert twice <= 4  # 1 %
    answers = open_store(server.url).info()
    assert [row["answers"] for row in answers] == [400]


def test_segments_are_exchanged_and_survive_a_kill(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    one = SegmentStore(shared, tmp_path / "one.sqlite")
    one.put_many([answer(i) for i in range(3)])
    assert list((tmp_path / "shared").iterdir()) == []  # many answers make one segment
    one.publish()
    (segment,) = (tmp_path / "shared").iterdir()
    assert pq.read_table(segment).num_rows == 3
    two = SegmentStore(shared, tmp_path / "two.sqlite")
    assert len(two.get_many([answer(i).key for i in range(3)])) == 3
    two.put_many([answer(9)])
    two.publish()
    two.publish()
    assert len(list((tmp_path / "shared").iterdir())) == 2
    assert one.pull() == 1
    # A process that is killed before it has published: the next one on the same machine does.
    child = (
        "import os, sys; from labelfusion.scoring.store.segment_store import SegmentStore\n"
        "from labelfusion.scoring.store.stored_answers import Answer; import numpy as np\n"
        "s = SegmentStore(sys.argv[1], sys.argv[2])\n"
        "s.put_many([Answer(b'k' * 32, np.full(4, 0.25, np.float32), 'm', 'json', 1, 1, 1.0)])\n"
        "os._exit(9) if len(sys.argv) > 3 else None"
    )
    local = str(tmp_path / "three.sqlite")
    assert run([sys.executable, "-c", child, shared, local, "die"]).returncode == 9
    assert one.pull() == 0
    SegmentStore(shared, local)
    assert one.pull() == 1
    # One that ends in the usual way publishes at its end.
    run([sys.executable, "-c", child.replace("k'", "e'"), shared, local], check=True)
    assert one.pull() == 1


def test_a_damaged_segment_is_an_error_that_names_the_store(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ScoringError, match=r"shared score store .*shared cannot be used"):
        SegmentStore(str(tmp_path / "shared"), tmp_path / "one.sqlite")


def test_stores_are_merged(
    tmp_path: Path, server: PostgresServer, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    open_store(server.url).clear()
    for name, numbers in (("a", range(6)), ("b", range(3, 9))):
        store = ScoreStore(tmp_path / f"{name}.sqlite")
        store.put_many([answer(i, name) for i in numbers])
        store.close()
    places = [str(tmp_path / "a.sqlite"), str(tmp_path / "b.sqlite")]
    for target in (str(tmp_path / "c.sqlite"), server.url, f"segments:{tmp_path / 'shared'}"):
        assert main(["cache", "merge", *places, "--store", target]) == 0
        assert "6 answers, 3 of them new" in capsys.readouterr().out
        rows = open_store(target).info()
        assert [(row["model"], row["answers"], row["cost_usd"]) for row in rows] == [("a", 6, 3.0), ("b", 3, 1.5)]
    assert main(["cache", "merge", server.url, "--store", str(tmp_path / "d.sqlite")]) == 0
    first = next(ScoreStore(tmp_path / "a.sqlite").records())[0]
    assert first in next(ScoreStore(tmp_path / "d.sqlite").records())  # the time of the answer too
    assert main(["cache", "merge", "--store", places[0]]) == 2
    assert main(["cache", "merge", places[0], "--store", places[0]]) == 2
    assert main(["cache", "merge", str(tmp_path / "none.sqlite"), "--store", places[0]]) == 2
    assert not (tmp_path / "none.sqlite").exists()
    assert main(["cache", "export", str(tmp_path / "out.jsonl"), "--store", server.url]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9


def test_the_store_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELFUSION_STORE", str(tmp_path / "team.sqlite"))
    assert store_file() == tmp_path / "team.sqlite"
    with LLMServer() as llm:
        provider = {"model": "m", "api_base": llm.url, "method": "json"}
        for _ in range(2):
            score_texts([build_scorer(provider, LABELS, False)], ["a"])
        assert llm.requests == 1
    assert (tmp_path / "team.sqlite").exists()
