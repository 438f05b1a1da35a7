"""The HTML report in a real browser: at a desk and on a phone, light and dark, by keyboard; nothing is requested.

Screenshots are left in `.cache/screenshots`, for people to look at.
"""

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.evaluation.html_report.write_html import write_html
from labelfusion.evaluation.reports.report_content import describe
from made_run import measured_run, one_hot

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
REASON = f"no Python packages {MISSING}: make install" if MISSING else "no Chromium: apt-get install chromium"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or bool(MISSING), reason=REASON),
]
SHOTS = Path(__file__).resolve().parents[3] / ".cache" / "screenshots"
TEXT = '<i id="planted" onclick="document.title=1">markup</i> & a rather long text about nothing ' + "w" * 120


@pytest.fixture(scope="module", params=[False, True], ids=["one-label", "several"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, count, n = np.random.default_rng(0), 12, 300
    drawn = rng.integers(0, count, n)
    said = np.where(rng.random(n) < 0.3, rng.integers(0, 3, n), drawn)
    probs = one_hot(said, count)
    labels: Any = np.eye(count)[drawn] if request.param else drawn
    names = [f"class {i} of a <long> name" for i in range(count)]
    scores = one_hot(np.where(rng.random(n) < 0.1, 0, drawn), count)
    run = measured_run(probs, labels, scores, names=names, texts=[TEXT] * n, class_rows=[9] * count)
    file = tmp_path_factory.mktemp("report") / "report.html"
    return write_html(run, describe(run, "test.csv", "news <model>", num_resamples=50), file)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(file, width, dark=False)`; fails the test if the page asked for anything, or broke its own policy."""
    contexts, asked, said = [], [], []

    def open_(file: Path, width: int = 1280, dark: bool = False) -> Any:
        size = {"width": width, "height": 800}
        scheme = "dark" if dark else "light"
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce"))
        page = contexts[-1].new_page()
        page.on("request", lambda r: asked.append(r.url) if r.url != file.as_uri() else None)
        page.on("console", lambda message: said.append(message.text))
        page.goto(file.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert asked == []
    assert said == []


def unfold(page: Any) -> None:
    for summary in page.locator("summary").all()[1:3]:
        summary.click()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_fits_and_axe_finds_nothing(
    report: Path, open_page: Callable[..., Any], width: int, dark: bool, request: pytest.FixtureRequest
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(report, width, dark)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    name = f"report-{request.node.callspec.id}.png"
    page.screenshot(path=SHOTS / name, full_page=True)
    found = Axe().run(page, options={"rules": {"target-size": {"enabled": True}}})
    assert [f"{v['id']}: {[n['html'] for n in v['nodes']]}" for v in found.response["violations"]] == []


def test_the_style_is_allowed_by_the_policy(report: Path, open_page: Callable[..., Any]) -> None:
    light, dark = (open_page(report, 1280, dark) for dark in (False, True))
    color = "getComputedStyle(document.body).backgroundColor"
    assert light.evaluate(color) != dark.evaluate(color)
    assert light.evaluate("getComputedStyle(document.querySelector('section')).borderTopStyle") == "solid"


def test_texts_and_names_are_shown_as_they_are(report: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(report)
    assert page.locator("#planted").count() == 0
    assert page.locator("blockquote").first.text_content() == TEXT
    assert page.get_by_role("heading", level=1).inner_text() == "Evaluation of news <model>"


def test_by_keyboard_alone(report: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(report, 390)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    summary, tables = False, 0
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.tagName")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        tables += page.evaluate("document.activeElement.className == 'scroll'")
        if focused == "SUMMARY":
            before = page.evaluate("document.activeElement.parentElement.open")
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentElement.open") != before
            summary = True
            break
    assert summary
    assert tables >= 2
    link = page.get_by_role("link", name="Calibration")
    link.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#calibration")
    assert abs(page.evaluate("document.querySelector('#calibration').getBoundingClientRect().top")) < 60
