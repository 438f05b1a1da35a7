"""The report: its Markdown and pictures for unusual classes and sources."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.evaluation.html_report.write_html import write_html
from labelfusion.evaluation.markdown import markdown_table, plain
from labelfusion.evaluation.reports.report import to_markdown, write_report
from labelfusion.evaluation.reports.report_content import describe
from made_report import make_report
from made_run import measured_run, one_hot


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("count", [2, 77])
def test_report_and_pictures(tmp_path: Path, count: int, multi_label: bool) -> None:
    report = make_report([f"class {i}" for i in range(count)], 400, multi_label)
    (tmp_path / "report.md").write_text("old")
    paths = write_report(report, tmp_path)
    assert sorted(p.name for p in paths) == sorted(p.name for p in tmp_path.iterdir())
    assert json.loads((tmp_path / "report.json").read_text()) == report
    for path in paths[2:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "report.md").read_text()
    assert "for $0.0123" in text
    assert "No answer for 3: timeout." in text
    for line in text.splitlines():  # every table row has as many cells as its header
        assert not line.startswith("|") or line.endswith("|")
    assert all(f"]({p.name})" in text for p in paths[2:])


def test_names_that_are_markup_or_formulas(tmp_path: Path) -> None:
    names = ["a|b", "$x_1$ & $y", "<script>", "größe", "x" * 90, "new\nline"]
    report = make_report(names)
    write_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "<script>" not in text
    assert "a\\|b" in text
    assert "new line" in text
    rows = [line for line in text.splitlines() if line.startswith(("| a", "| new"))]
    assert rows
    assert len({row.replace("\\|", "").count("|") for row in rows}) <= 2


def test_a_silent_llm(tmp_path: Path) -> None:
    text = to_markdown(make_report(["a", "b"], silent=True))
    assert "| openai/gpt-5-nano | – | – | – | – | – | 0.0% |" in text
    assert "| nan" not in text.lower()
    write_report(make_report(["a", "b"], silent=True), tmp_path)


def test_a_model_without_llm_is_not_compared_with_itself(tmp_path: Path) -> None:
    labels = np.arange(40) % 2
    run = measured_run(one_hot(np.where(np.arange(40) < 4, 1 - labels, labels), 2), labels)
    report = describe(run, "data", "model", num_resamples=50)
    assert list(report["sources"]) == ["Fusion"]
    assert report["comparisons"] == []
    text = write_report(report, tmp_path)[0].read_text()
    assert "Encoder alone" not in text
    assert "Is the fusion better?" not in text
    assert "The model has no LLM: the fusion is the encoder." in text
    assert "Encoder alone" not in write_html(run, report, tmp_path / "report.html").read_text()


def test_without_matplotlib_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sys

    real = builtins.__import__

    def no_matplotlib(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    monkeypatch.delitem(sys.modules, "labelfusion.evaluation.plots", raising=False)
    import labelfusion.hub_scripts

    monkeypatch.delattr(labelfusion.hub_scripts, "plots", raising=False)
    paths = write_report(make_report(["a", "b"]), tmp_path)
    assert [p.name for p in paths] == ["report.md", "report.json"]
    assert "labelfusion-transformers[plot]" in caplog.text
    assert ".png" not in (tmp_path / "report.md").read_text()


def test_plain_and_table() -> None:
    assert plain("a_b*c|<d>\n`e`") == "a\\_b\\*c\\|&lt;d> \\`e\\`"
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| :-- | --: |\n| x | 1 |"
