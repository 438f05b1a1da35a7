"""Every Python snippet of the README, run in order as a reader would, against a stand-in LLM and a tiny encoder."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from llm_server import LLMServer

ROOT = Path(__file__).parents[2]
SECTIONS = {"business": "market stock price bank", "sports": "team game match goal", "culture": "film movie plot actor"}


def snippets() -> list[str]:
    """Those of the README, then those of the page on Trainer and PEFT that continues it."""
    readme, interfaces = (ROOT / name for name in ("README.md", "docs/interfaces.md"))
    found = [re.findall(r"```python\n(.*?)```", p.read_text(encoding="utf-8"), re.DOTALL) for p in (readme, interfaces)]
    return [*found[0], *found[1][2:]]  # pipeline and model are on both


def write_data(path: Path, n: int) -> None:
    names = list(SECTIONS)
    rows = [(f"the {SECTIONS[names[i % 3]].split()[i % 4]} was good w{i % 10} {i}", names[i % 3]) for i in range(n)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)


def test_the_snippets_run(tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    write_data(tmp_path / "train.csv", 27)
    write_data(tmp_path / "test.csv", 12)
    found = snippets()
    assert len(found) == 6
    with LLMServer(labels=sorted(SECTIONS)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        space: dict[str, Any] = {}
        for snippet in found:
            exec(compile(snippet.replace('"roberta-base"', repr(tiny_encoder_dir)), "README.md", "exec"), space)
        assert server.requests > 0
    assert space["output"].logits.shape == (1, 3)
    assert set(space["answer"]["sources"]) == {"encoder", "openai/gpt-5-nano"}
    assert space["answer"]["llm_called"]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert space["model"].config.label_names == ["business", "sports"]
    assert 0 <= space["report"]["fusion"]["accuracy"] <= 1


def test_what_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (ROOT / target.partition("#")[0]).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
    from labelfusion.hub_scripts.cli import VERBS

    for verb in re.findall(r"^labelfusion (\w+)", text, re.MULTILINE):
        assert verb in VERBS
        assert (ROOT / "hub_scripts" / "commands" / f"{verb}.py").exists(), verb
