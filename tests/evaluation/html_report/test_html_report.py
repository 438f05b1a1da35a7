"""The HTML report: what it shows, that nothing in it is markup of the data, and the command."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.evaluation.diagnosis.measurement import Measurement
from labelfusion.evaluation.html_report.html_content import shown_text
from labelfusion.evaluation.html_report.write_html import code, dollars, to_html, write_html
from labelfusion.evaluation.reports.report_content import describe
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.publish.hub import published_files
from made_data import frame
from made_run import measured_run, one_hot

from labelfusion import AutoFusionClassifier

MARKUP = '<b id="planted">bold</b> & <img alt="x"> {{ 7 * 7 }} "quoted" \'single\' `tick`'


class Reader(HTMLParser):
    """Elements and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "rect", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def made(count: int = 4, multi_label: bool = False, llm: bool = True, n: int = 200, **options: Any) -> Measurement:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, count, n)
    labels: Any = (np.eye(count)[drawn] + (rng.random((n, count)) < 0.1) > 0).astype(float) if multi_label else drawn
    said = np.where(rng.random(n) < 0.3, rng.integers(0, count, n), drawn)
    probs = one_hot(said, count) + rng.random((n, count)) * 0.05
    probs = probs.clip(0, 0.99) if multi_label else probs / probs.sum(axis=1, keepdims=True)
    return measured_run(probs, labels, one_hot(drawn, count) if llm else None, class_rows=[20] * count, **options)


def page(run: Measurement, **options: Any) -> str:
    return to_html(run, describe(run, "d.csv", "m", num_resamples=50), **options)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("count", "llm"), [(2, True), (4, False), (40, True)])
def test_every_section_is_there(count: int, llm: bool, multi_label: bool) -> None:
    run = made(count, multi_label, llm, 400)
    found = read(page(run))
    ids = {attrs.get("id") for _, attrs in found.elements}
    links = [str(attrs["href"]) for tag, attrs in found.elements if tag == "a"]
    assert len(links) == 12
    assert {link.removeprefix("#") for link in links} <= ids
    tables = [tag for tag, _ in found.elements if tag == "table"]
    assert len(tables) >= 6
    assert all("scope" in attrs for tag, attrs in found.elements if tag == "th")
    assert f"{int(run.wrong.sum())} rows wrong of 400" in re.sub(r"\s+", " ", found.text)
    assert "nan" not in re.sub(r"\w*nance|explanation", "", found.text.lower())
    shown = [attrs for _, attrs in found.elements if "matrix" in str(attrs.get("class"))]
    assert bool(shown) == (count <= 20 and not multi_label)


def test_texts_classes_and_names_are_never_markup() -> None:
    names = ["a" + MARKUP, "b" + MARKUP, "c", "d"]
    html = to_html(run := made(names=names, texts=[MARKUP + str(i) for i in range(200)]), describe(run, MARKUP, MARKUP))
    found = read(html)
    assert not [tag for tag, attrs in found.elements if tag in ("b", "img") or attrs.get("id") == "planted"]
    assert "{{ 7 * 7 }}" in found.text
    assert MARKUP in found.text


def test_no_script_no_request_no_inline_style() -> None:
    html = page(made())
    found = read(html)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "form", "base", "image", "use"}
    for _, attrs in found.elements:
        assert not [name for name in attrs if name == "style" or name.startswith("on") or name == "src"]
        assert str(attrs.get("href") or "#").startswith("#")
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'; style-src 'sha256-" in html


def test_without_texts_none_is_in_the_file(tmp_path: Path) -> None:
    run = made(texts=[f"private {i}" for i in range(200)])
    report = describe(run, "d.csv", "m", num_resamples=50)
    assert "private" in write_html(run, report, tmp_path / "a.html").read_text()
    assert "private" not in write_html(run, report, tmp_path / "b.html", texts=False).read_text()


def test_strange_texts_are_shown(tmp_path: Path) -> None:
    assert shown_text("a\x00b\u202ec\ud83d") == "a\ufffdb\ufffdc\ufffd"
    assert len(shown_text("x" * 5000)) == 600
    run = made(texts=["\ud83d \x00 \x1b[31m مرحبا"] * 200)
    assert "مرحبا" in write_html(run, describe(run, "d", "m", num_resamples=50), tmp_path / "a.html").read_text()


def test_numbers_and_code() -> None:
    assert [dollars(x) for x in (None, 0, 0.00123, 12.345)] == ["–", "$0", "$0.0012", "$12.35"]
    assert code("set `a<b` & go") == "set <code>a&lt;b</code> &amp; go"
    assert code("a `single <tick") == "a `single &lt;tick"


def test_nothing_wrong_and_nothing_answered() -> None:
    labels = np.arange(60) % 3
    perfect = page(measured_run(one_hot(labels, 3), labels, one_hot(labels, 3)))
    assert "The fusion makes no error on these rows." in perfect
    silent = page(measured_run(one_hot(labels, 3), labels, np.full((60, 3), np.nan)))
    assert "the curve needs an answer for every text" in silent


def test_command_and_classifier(tmp_path: Path, tiny_encoder_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    clf = AutoFusionClassifier(tiny_encoder_dir, llm="recorded", encoder_training="probe").fit(frame(90))
    clf.save_pretrained(tmp_path / "model")
    test = frame(60, seed=5)
    test.to_json(tmp_path / "test.jsonl", orient="records", lines=True)
    words = ["evaluate", str(tmp_path / "model"), str(tmp_path / "test.jsonl")]
    file = tmp_path / "model" / "evaluation" / "report.html"
    assert main([*words, "--html", str(file)]) == 0
    assert f"HTML:   {file}" in capsys.readouterr().out
    found = read(file.read_text(encoding="utf-8"))
    assert "60 rows of test.jsonl" in found.text
    assert "evaluation/report.html" not in published_files(tmp_path / "model")  # it shows texts
    assert "evaluation/report.md" in published_files(tmp_path / "model")
    assert main([*words, "--html", str(tmp_path / "report.pdf")]) == 2
    assert "`--html`" in capsys.readouterr().err
    clf.evaluate(test, html=tmp_path / "new" / "page.html")
    assert "60 rows of the data" in read((tmp_path / "new" / "page.html").read_text(encoding="utf-8")).text
