"""The file of the score store: versions, permissions, and what is damaged or somebody else's."""

import os
import sqlite3
import stat
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelfusion.hub_scripts.cli import main
from labelfusion.scoring import ScoringError
from labelfusion.scoring.store.score_store import Answer, ScoreStore
from labelfusion.scoring.store.sqlite_file import STORE_VERSION

OLD = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY, model TEXT NOT NULL, method TEXT NOT NULL, scores BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, created REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE methods (key BLOB PRIMARY KEY, method TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
"""
KEY = b"k" * 32


def answer(key: bytes = KEY, scores: Any = (0.25, 0.75)) -> Answer:
    return Answer(key, np.asarray(scores, dtype=np.float32), "m", "json", 10, 2, 0.5)


def execute(path: Path, script: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    if values:
        connection.execute(script, values)
    else:
        connection.executescript(script)
    connection.commit()
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.sqlite"


def test_a_store_of_an_earlier_release_is_read_on(path: Path) -> None:
    execute(path, OLD)
    blob = np.array([0.5, 0.5], dtype=np.float32).tobytes()
    execute(path, "INSERT INTO answers VALUES (?, 'm', 'json', ?, 1, 2, 0.5, 1.0)", KEY, blob)
    path.chmod(0o644)
    store = ScoreStore(path)
    assert store.get_many([KEY])[KEY].tolist() == [0.5, 0.5]
    assert store.claim([KEY, b"other"], "me").free == {b"other"}
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (STORE_VERSION,)
    connection.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_store_of_a_newer_release_is_refused(path: Path) -> None:
    ScoreStore(path).close()
    execute(path, f"PRAGMA user_version = {STORE_VERSION + 1};")
    with pytest.raises(ScoringError, match=r"scores.sqlite cannot be used .*newer release.*Update"):
        ScoreStore(path)


def test_the_file_is_its_owners_alone_and_the_folder_is_left(path: Path) -> None:
    mode = path.parent.stat().st_mode
    before = os.umask(0)
    try:
        store = ScoreStore(path)
        store.put_many([answer()])
    finally:
        os.umask(before)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["scores.sqlite", "scores.sqlite-shm", "scores.sqlite-wal"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode == mode
    path.chmod(0o660)  # who shares it on purpose may
    ScoreStore(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("CREATE TABLE cookies (id INTEGER);", "another program's database"),
        ("CREATE TABLE answers (question TEXT, answer TEXT);", "has the columns"),
        (OLD + "CREATE TABLE claims (id INTEGER);", "its table 'claims' has the columns"),
        (OLD + "PRAGMA user_version = -3;", "another program's database"),
    ],
)
def test_another_programs_database_is_left_alone(path: Path, script: str, message: str) -> None:
    execute(path, script)
    content = path.read_bytes()
    with pytest.raises(ScoringError, match=f"scores.sqlite cannot be used .*{message}.*Move it away"):
        ScoreStore(path)
    if "answers" not in script:
        assert path.read_bytes() == content


@pytest.mark.parametrize("column", ["cost_usd", "created", "prompt_tokens"])
def test_a_text_where_a_number_must_be_is_said(path: Path, column: str, capsys: pytest.CaptureFixture[str]) -> None:
    ScoreStore(path).put_many([answer()])
    execute(path, f"UPDATE answers SET {column} = 'much'")
    assert main(["cache", "info", "--store", str(path)]) == 2
    assert "1 rows of its table 'answers' hold something else" in capsys.readouterr().err
    assert main(["cache", "export", "--store", str(path)]) == 2
    assert main(["cache", "clear", "--yes", "--store", str(path)]) == 0
    assert main(["cache", "info", "--store", str(path)]) == 0


def test_clear_ends_claims(path: Path) -> None:
    store = ScoreStore(path)
    assert store.claim([KEY], "elsewhere 1 2 3").free == {KEY}
    assert store.claim([KEY], "me").taken == {KEY}
    assert main(["cache", "clear", "--yes", "--store", str(path)]) == 0
    assert store.claim([KEY], "me").free == {KEY}


def test_a_claim_is_for_one_and_ends_with_the_answer(path: Path) -> None:
    one, other = ScoreStore(path), ScoreStore(path)
    assert one.claim([b"a", b"b"], "elsewhere 1 2 3").free == {b"a", b"b"}
    assert other.claim([b"a", b"b", b"c"], "elsewhere 1 2 4").taken == {b"a", b"b"}
    one.put_many([answer(b"a")], "elsewhere 1 2 3")
    one.release([b"b"], "elsewhere 1 2 4")  # not its own
    look = other.claim([b"a", b"b", b"c"], "elsewhere 1 2 4")
    assert (set(look.found), look.free, look.taken) == ({b"a"}, {b"c"}, {b"b"})
    one.release([b"b"], "elsewhere 1 2 3")
    assert other.look([b"b"], "elsewhere 1 2 4").free == {b"b"}
    execute(path, "UPDATE claims SET expires = ?", time.time() + 1e6)  # of a clock that went wrong
    assert one.claim([b"c"], "elsewhere 1 2 3").free == {b"c"}


def test_a_lock_is_waited_for_in_every_operation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ScoreStore(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    operations = [
        lambda: store.put_many([answer()]),
        lambda: store.claim([b"x"], "me"),
        lambda: store.release([b"x"], "me"),
        lambda: store.put_method(b"x", "m", "json"),
        lambda: store.clear(),
    ]
    for operation in operations:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.05, lambda: other.execute("COMMIT"))
        timer.start()
        operation()
        timer.join()
    monkeypatch.setattr("labelfusion.scoring.store.sqlite_file.BUSY_S", 0.05)
    other.execute("BEGIN IMMEDIATE")
    for operation in operations:
        with pytest.raises(ScoringError, match="another process has held its lock"):
            operation()
    other.close()


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30), st.binary(min_size=1, max_size=40))
def test_any_scores_come_back_bit_equal(path: Path, scores: list[float], key: bytes) -> None:
    store = ScoreStore(path)
    store.put_many([answer(key, scores)])
    np.testing.assert_array_equal(store.get_many([key], len(scores))[key], np.array(scores, dtype=np.float32))
    assert store.get_many([key], len(scores) + 1) == {}
    store.close()


BLOBS = st.one_of(st.binary(max_size=24), st.text(max_size=8), st.integers(-(2**40), 2**40), st.floats())


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(BLOBS)
def test_damaged_scores_are_never_answers(path: Path, blob: Any) -> None:
    store = ScoreStore(path)
    store.put_many([answer(), answer(b"sound")])
    try:
        execute(path, "UPDATE answers SET scores = ? WHERE key = ?", blob, KEY)
    except sqlite3.IntegrityError:  # NaN is NULL
        return
    found = store.get_many([KEY, b"sound"], 2, sums_to_one=True)
    assert found[b"sound"].tolist() == [0.25, 0.75]
    if KEY in found:
        assert found[KEY].shape == (2,)
        assert found[KEY].sum() == pytest.approx(1, abs=1e-3)
    for record in store.export():
        assert all(0 <= score <= 1 + 1e-6 for score in record["scores"])
    store.close()


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_file_is_an_error_or_what_it_was(path: Path, data: st.DataObject) -> None:
    for name in path.parent.iterdir():
        name.unlink()
    store = ScoreStore(path)
    answers = [answer(bytes([i]) * 32, [i / 256, 1 - i / 256]) for i in range(200)]
    store.put_many(answers)
    store.close()
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content) - 1)) :]
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        junk = data.draw(st.binary(min_size=1, max_size=300))
        content[start : start + len(junk)] = junk
    path.write_bytes(content)
    found: dict[bytes, Any] = {}
    try:
        again = ScoreStore(path)
        found = again.get_many([a.key for a in answers], 2, sums_to_one=True)
        again.info()
        again.close()
    except ScoringError as error:
        message = str(error)
        found = {}
        assert_named = str(path) in message
    else:
        assert_named = True
    assert assert_named
    assert all(scores.shape == (2,) and abs(scores.sum() - 1) < 1e-3 for scores in found.values())
