"""Slices are flagged where a model fails, and not by chance."""

from collections.abc import Iterator

import numpy as np
import pytest
from labelfusion.evaluation.html_report.charts import Chart, Line
from labelfusion.evaluation.html_report.slices import LEVEL, compare_slices, find_slices, script_of
from made_run import measured_run, one_hot

Part = tuple[str, str, np.ndarray]


def test_chance_flags_a_slice_in_few_reports_only() -> None:
    """300 reports of 20 slices in which all rows are alike: without the correction, most would have a flag."""
    rng = np.random.default_rng(0)
    flagged = unadjusted = 0
    for _ in range(300):
        wrong = rng.random(200) < 0.2
        parts: list[Part] = [("g", str(i), rng.random(200) < 0.3) for i in range(20)]
        found = compare_slices(wrong, iter(parts))
        flagged += any(s.worse for s in found)
        unadjusted += min(s.p_holm for s in found) < 1  # Holm's factor is 20 for the smallest
    assert flagged <= 300 * LEVEL + 3 * (300 * LEVEL * (1 - LEVEL)) ** 0.5
    assert unadjusted > 0.3 * 300


def test_a_slice_where_the_model_fails_is_flagged() -> None:
    labels = np.arange(400) % 2
    texts = ["a short one" if i % 4 else "is it so? " + "word " * 30 for i in range(400)]
    said = np.where(np.arange(400) % 4 == 0, 1 - labels, labels)
    said[:40] = labels[:40]
    found = find_slices(measured_run(one_hot(said, 2), labels, one_hot(labels, 2), texts=texts))
    worse = {s.name for s in found if s.worse}
    assert "with a question mark" in worse
    assert "encoder and llm differ" in worse
    assert any("words" in name for name in worse)
    first = found[0]
    assert first.low <= first.rate <= first.high
    assert first.elsewhere < first.rate


def test_a_better_slice_is_not_flagged_and_small_ones_are_left_out() -> None:
    wrong = np.arange(200) >= 100
    parts: list[Part] = [("g", "good", np.arange(200) < 100), ("g", "few", np.arange(200) >= 195)]
    found = compare_slices(wrong, iter(parts))
    assert [(s.name, s.worse) for s in found] == [("good", False)]
    nothing: Iterator[Part] = iter([])
    assert compare_slices(wrong, nothing) == []


def test_scripts_and_novelty() -> None:
    assert [script_of(t) for t in ("abc", "привет мир", "東京は暑い", "123 !")] == [
        "Latin",
        "Cyrillic",
        "CJK",
        "no letters",
    ]
    labels = np.arange(100) % 2
    texts = ["привет" if i < 30 else "hello" for i in range(100)]
    novelty = np.where(np.arange(100) < 20, 0.9, 0.0).astype(np.float32)
    run = measured_run(one_hot(labels, 2), labels, texts=texts, novelty=novelty, novelty_size=4)
    names = {s.name for s in find_slices(run)}
    assert {"Cyrillic", "Latin", "above 0.5", "0: like the training texts"} <= names


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.8, 0.95), (0.0, 1.02), (0.0, 40.0)])
def test_axes_have_a_few_round_numbers(bounds: tuple[float, float]) -> None:
    chart = Chart("t", "x", "y", [Line("a", [bounds])], bounds, bounds)
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert 3 <= len(ticks) <= 8
        assert all(bounds[0] <= value <= bounds[1] and float(label) == value for value, label in ticks)
    assert chart.x(bounds[0]) < chart.x(bounds[1]) <= chart.width
    assert 0 <= chart.y(bounds[1]) < chart.y(bounds[0]) < chart.height
