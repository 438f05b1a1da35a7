"""Writes a Gradio Space of a model: the three files that a Space needs, and the model if it has no Hub id."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards.llm_needs import api_providers, clients, consents, keys
from ..io.model_folder import check_model_folder, is_model_folder
from ..publish.hub import published_files
from ..publish.secret_files import refuse_secret_files

if TYPE_CHECKING:
    from ...configuration import LabelFusionConfig

GRADIO = "6.31.0"  # the Gradio version that the page is tested with
PYTHON = "3.11"
WRITTEN = ("README.md", "app.py", "requirements.txt", ".gitattributes", "model")

_APP = '''"""The page of this Space, built by `labelfusion.hub_scripts.space_app`; the LLMs' keys are its secrets."""

import os
from pathlib import Path

from labelfusion.hub_scripts.space_app import serve

if __name__ == "__main__":
    serve(
        {model},
        title={title},
        examples={examples},
        max_cost_usd=float(os.environ.get("MAX_COST_USD", "{max_cost_usd:g}")),
    )
'''

_README = """
# {title}

A text classifier that fuses an encoder with LLMs: type a text, see what each of them says, whether an LLM was asked,
and what that cost. {source}

{keys}

Copy this folder to a Space of yours:

```bash
hf upload USER/NAME . . --repo-type space
```

On a machine of yours: `pip install -r requirements.txt`, then `python app.py`.
"""


def write_space(
    model: str | Path,
    out_dir: str | Path,
    *,
    title: str | None = None,
    examples: list[str] | None = None,
    max_cost_usd: float = 1.0,
    overwrite: bool = False,
) -> Path:
    """Write the folder of a Gradio Space that shows a model. Gradio need not be installed.

    Args:
        model: Folder of a model, which is copied into the Space; or a Hub id, which the Space loads.
        out_dir: Folder to write.
        title: Heading of the page. Default: the model's name.
        examples: Texts that visitors can try; they are published. Default: `space_app.EXAMPLES`.
        max_cost_usd: US dollars that all visitors together may spend on LLMs until the Space is started again; the
            variable `MAX_COST_USD` of the Space overrides it.
        overwrite: Allow a folder that holds other files.

    Returns:
        The folder.

    Raises:
        ValueError: For a folder without a LabelFusion model, a folder with other things in it, or a file that holds
            something like a credential.
    """
    from huggingface_hub import SpaceCard, SpaceCardData

    from labelfusion.saving import load_config

    from .space_page import EXAMPLES

    folder, out = Path(model), Path(out_dir)
    local = folder.is_dir()
    if local:
        check_model_folder(folder)
    strangers = sorted(p.name for p in out.iterdir() if p.name not in WRITTEN) if out.is_dir() else []
    if (strangers or is_model_folder(out)) and not overwrite:
        raise ValueError(
            f"{str(out)!r} holds other things than a Space {strangers[:3]}; give another folder, or --overwrite."
        )
    config = load_config(str(model))
    if config.text_pairs:
        raise ValueError("The model classifies pairs of texts, and the page of a Space takes single texts.")
    title = title or (folder.resolve().name if local else str(model).split("/")[-1])
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "model", ignore_errors=True)
    if local:
        _copy_model(folder, out / "model")
    card = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=PYTHON,
        app_file="app.py",
        models=None if local else [str(model)],
        emoji="⚖️",
        colorFrom="blue",
        colorTo="gray",
        pinned=False,
        tags=["labelfusion", "text-classification"],
    )
    source = "The model is in the folder `model`." if local else f"The model is [{model}](https://hf.co/{model})."
    body = _README.format(title=title, source=source, keys=_keys(config, max_cost_usd))
    (out / "README.md").write_text(str(SpaceCard(f"---\n{card.to_yaml()}\n---\n{body}")), encoding="utf-8")
    app = _APP.format(
        model='Path(__file__).with_name("model")' if local else _literal(str(model)),
        title=_literal(title),
        examples=_literal(list(EXAMPLES if examples is None else examples), 8),
        max_cost_usd=max_cost_usd,
    )
    if not local:
        app = app.replace("from pathlib import Path\n", "")
    (out / "app.py").write_text(app, encoding="utf-8")
    (out / "requirements.txt").write_text(_requirements(config), encoding="utf-8")
    (out / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", encoding="utf-8")
    refuse_secret_files([p for p in out.rglob("*") if p.is_file()], out)
    return out


def _copy_model(folder: Path, target: Path) -> None:
    """What `from_pretrained` reads: no code, no cards, no reports."""
    target.mkdir()
    for name in published_files(folder):
        if "/" not in name and not name.endswith((".md", ".py")) and not name.startswith("."):
            shutil.copy(folder / name, target / name)


def _keys(config: "LabelFusionConfig", max_cost_usd: float) -> str:
    if not api_providers(config):
        here = any(p.is_local for p in config.providers)
        return (
            "Its LLM runs in the Space itself" if here else "The encoder answers alone here"
        ) + ": it needs no secret."
    budget = f"All visitors together can spend ${max_cost_usd:g} until the Space is started again; the variable "
    budget += "`MAX_COST_USD` sets another limit."
    if settings := consents(config):
        named = ", ".join(f"`{name}={value}`" for name, value in settings.items())
        budget += f"\n\nIts author chose a server or a key. If you trust that, set as variables of the Space: {named}."
    if not (needed := keys(config)):
        return budget
    return (
        f"Set as secrets of the Space (Settings, Variables and secrets): {', '.join(needed)}. Without, the encoder "
        f"answers alone, and the page says so. {budget}"
    )


def _requirements(config: "LabelFusionConfig") -> str:
    from labelfusion import __version__

    extras = ["space", *clients(config)]
    if config.source and api_providers(config):
        extras.append("litellm")  # for its price list: prices in the config of a Hub model are not trusted
    if any(p.model.startswith("embedded/") for p in config.providers):
        extras.append("embedded")
    return f"labelfusion-transformers[{','.join(sorted(set(extras)))}]>={__version__}\n"


def _literal(value: str | list[str], indent: int = 0) -> str:
    """Python source of a text, or of a list of texts with one per line."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    lines = [f"{' ' * (indent + 4)}{_literal(v)},\n" for v in value]
    return f"[\n{''.join(lines)}{' ' * indent}]"
