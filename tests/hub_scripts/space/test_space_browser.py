"""The page of a Space in a real browser: what a visitor sees, at a desk and on a phone, by mouse and by keyboard.

Screenshots are left in `.cache/screenshots`, for people to look at.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from labelfusion.configuration import LabelFusionConfig
from labelfusion.hub_scripts.space.space_folder import write_space
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from llm_server import LLMServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("playwright", "axe_playwright_python", "gradio") if find_spec(name) is None]
REASON = f"no Python packages {MISSING}: make install" if MISSING else "no Chromium: apt-get install chromium"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or bool(MISSING), reason=REASON),
]
SHOTS = Path(__file__).resolve().parents[3] / ".cache" / "screenshots"
CLASSES = ["Arts & Culture", "Business", "Sport"]
KEY = "key-of-the-space-0123456789"
TEXT = "The match was great."


@pytest.fixture(scope="module")
def llm() -> Iterator[LLMServer]:
    with LLMServer(labels=CLASSES) as server:
        yield server


@dataclass
class Addresses:
    with_key: str
    without_key: str


@pytest.fixture(scope="module")
def space(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_config: Any, tiny_tokenizer: Any, llm: LLMServer
) -> Iterator[Addresses]:
    """A Space whose `app.py` runs as the Hub runs it, in a process: once with the LLM's key, once without."""
    folder = tmp_path_factory.mktemp("space")
    provider = {"model": "openai/gpt-5-nano", "api_base": llm.url, "api_key_env": "SPACE_KEY", "method": "json"}
    config = LabelFusionConfig(
        encoder_config=tiny_encoder_config,
        id2label=dict(enumerate(CLASSES)),
        llm_providers=[{**provider, "price": [1000.0, 1000.0]}],
    )
    LabelFusionForSequenceClassification(config).save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    write_space(folder / "model", folder / "space", title="News sections")
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith(("_key", "_proxy"))}
    inherited |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    processes, urls = [], []
    for environment in ({"SPACE_KEY": KEY}, {}):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with (folder / f"{port}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "app.py"],
                    cwd=folder / "space",
                    env={**inherited, "GRADIO_SERVER_PORT": str(port), **environment},
                    stdout=log,
                    stderr=log,
                )
            )
        urls.append(f"http://127.0.0.1:{port}")
    try:
        for process, url in zip(processes, urls, strict=True):
            wait_for(process, url, folder)
        yield Addresses(*urls)
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=20)


def wait_for(process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    opener, deadline = urllib.request.build_opener(urllib.request.ProxyHandler({})), time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return opener.open(url, timeout=5).close()
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"app.py did not start:\n{(folder / url.rpartition(':')[2]).with_suffix('.log').read_text()}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(url, width, dark=False)`; fails the test if the page asked any other host for anything."""
    contexts, strangers = [], []

    def open_(url: str, width: int = 1280, dark: bool = False) -> Any:
        size = {"width": width, "height": 740 if width < 600 else 800}
        contexts.append(browser.new_context(viewport=size, color_scheme="dark" if dark else "light"))
        page = contexts[-1].new_page()
        page.on("request", lambda r: strangers.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
        page.goto(url)
        page.get_by_label("Text").wait_for()
        page.locator(".loading").wait_for(state="detached")  # Gradio's word beside a page that is there already
        page.wait_for_function("[...document.querySelectorAll('.gallery-item')].every(e => e.textContent.trim())")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert strangers == []


def classify(page: Any, policy: str | None = None) -> str:
    page.get_by_label("Text").fill(TEXT)
    if policy:
        page.get_by_role("radio", name=policy).check()
    page.get_by_role("button", name="Classify").click()
    page.locator(".lf-answer").wait_for()
    return str(page.locator("#lf-result").inner_text())


def complaints(page: Any) -> list[str]:
    """What axe finds against WCAG 2.2 AA and good practice."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"rules": {"target-size": {"enabled": True}}})
    return [f"{v['id']}: {[n['html'] for n in v['nodes']]}" for v in found.response["violations"]]


def test_a_visitor_sees_every_source_and_the_cost(
    space: Addresses, open_page: Callable[..., Any], llm: LLMServer
) -> None:
    page = open_page(space.with_key)
    assert "News sections" in page.title()
    assert page.get_by_role("heading", level=1).inner_text() == "News sections"
    before = llm.requests
    shown = classify(page, "Always")
    assert llm.requests == before + 1
    for words in (
        "Fusion",
        "Encoder",
        "openai/gpt-5-nano",
        "The LLM was queried.",
        "Cost of this answer: $0.",
        *CLASSES,
    ):
        assert words in shown
    assert page.locator(".lf-source").count() == 3
    widths = page.locator(".lf-fusion .lf-fill").evaluate_all("bars => bars.map(b => b.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 20
    page.screenshot(path=SHOTS / "desktop.png", full_page=True)
    page.get_by_role("radio", name="Never").check()
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("The LLM was not queried.").wait_for()
    assert llm.requests == before + 1
    assert KEY not in page.content()


def test_an_example_fills_the_text(space: Addresses, open_page: Callable[..., Any]) -> None:
    page = open_page(space.with_key)
    page.get_by_role("button", name="The central bank").click()
    page.wait_for_function("document.querySelector('#lf-text textarea').value.startsWith('The central bank left')")


@pytest.mark.parametrize("width", [375, 320])
def test_on_a_phone_nothing_is_cut_off(space: Addresses, open_page: Callable[..., Any], width: int) -> None:
    page = open_page(space.with_key, width)
    classify(page, "Always")
    page.wait_for_function("document.querySelector('.lf-verdict').getBoundingClientRect().top < innerHeight")  # in view
    page.screenshot(path=SHOTS / f"phone{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = "nodes => nodes.filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.outerHTML)"
    assert page.locator("#lf-result *, button, textarea, label, h1, p").evaluate_all(cut) == []


def test_by_keyboard_alone(space: Addresses, open_page: Callable[..., Any]) -> None:
    page = open_page(space.with_key)
    outline = "() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle; }"

    def tab_to(wanted: str) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", wanted):
                assert page.evaluate(outline) != "none", f"the focus on {wanted} does not show"
                return
        raise AssertionError(f"{wanted} cannot be reached by Tab")

    tab_to("#lf-text textarea")
    page.keyboard.type(TEXT)
    tab_to("#lf-policy input")
    tab_to("#lf-policy input[value=always]")
    page.keyboard.press("Space")
    assert page.get_by_role("radio", name="Always").is_checked()
    tab_to("#lf-classify")
    page.keyboard.press("Enter")
    page.locator(".lf-answer").wait_for()
    assert page.get_by_role("radiogroup", name="Ask the LLM").count() == 1
    assert "The LLM was queried." in page.locator("#lf-result").inner_text()
    assert page.locator("#lf-result").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, True)])
def test_contrast_labels_and_roles(space: Addresses, open_page: Callable[..., Any], width: int, dark: bool) -> None:
    page = open_page(space.with_key, width, dark)
    assert complaints(page) == []
    classify(page, "Always")
    page.screenshot(path=SHOTS / f"axe-{width}.png", full_page=True)
    assert complaints(page) == []


def test_without_a_key_the_page_works_and_says_so(space: Addresses, open_page: Callable[..., Any]) -> None:
    page = open_page(space.without_key, 375)
    assert "set the secret SPACE_KEY" in page.locator("#lf-notes").inner_text()
    assert page.get_by_role("radio").count() == 0
    shown = classify(page)
    assert "The LLM was not queried." in shown
    assert page.locator(".lf-bars").count() == 2
    page.screenshot(path=SHOTS / "no-key.png", full_page=True)
    assert complaints(page) == []
