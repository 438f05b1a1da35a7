"""Progress in a terminal and in a log file."""

import io
import sys
from contextlib import suppress

import pytest
from labelfusion.configuration import progress_bar as module
from labelfusion.configuration.progress_bar import ProgressLines, is_watched, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_whole_lines_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(4000, "Encoding") as bar:
        for _ in range(40):
            clock[0] += 2
            bar.update(100)
            bar.set_postfix_str("$0.1000", refresh=False)
    text = capsys.readouterr().err
    assert "\r" not in text
    assert text.splitlines() == [
        "Encoding: 1,500 of 4,000 texts, 30 s, 50.0 a second, 50 s left, $0.1000",
        "Encoding: 3,000 of 4,000 texts, 60 s, 50.0 a second, 20 s left, $0.1000",
        "Encoding: 4,000 of 4,000 texts, 80 s, 50.0 a second, $0.1000",
    ]


def test_short_work_leaves_no_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(10, "Encoding") as bar:
        clock[0] += 0.5
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_the_rate_is_that_of_this_run_and_the_total_may_be_unknown(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(None, "predict", initial=900) as bar:
        clock[0] += 120
        bar.update(60)
    assert capsys.readouterr().err == "predict: 960 texts, 2 min, 0.5 a second\n"


def test_an_interrupted_run_says_how_far_it_came(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(KeyboardInterrupt), progress_bar(10, "predict") as bar:
        clock[0] += 5
        bar.update(5)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "predict: 5 of 10 texts, 5 s, 1.0 a second, 5 s left\n"


def test_nothing_is_shown_if_that_is_asked(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(10, "Encoding", disable=True) as bar:
        clock[0] += 100
        bar.update(10)
        bar.set_postfix_str("$1")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_rewrites_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_watched()  # pytest captures stderr
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert is_watched()
    assert not isinstance(progress_bar(10, "Encoding"), ProgressLines)
    monkeypatch.setattr(module, "SECONDS_SHOWN_FROM", 0.0)
    with progress_bar(10, "Encoding") as bar:
        bar.update(10)
    assert "\rEncoding: 100%" in terminal.getvalue()
