"""Exports a saved model as a repository with its code that works without this package."""

import shutil
from pathlib import Path

from ..cards.llm_needs import clients
from ..io.model_folder import check_model_folder
from .flat_code import FILES

# Files that are not exported: caches, checkpoints, pickled data, reports with texts.
IGNORED = (".*", "checkpoint-*", "__pycache__", "*.pkl", "*.pickle", "*.pt", "*.bin", "*.tmp", "*.html", "*.htm")


def export_model(source: str | Path, folder: str | Path, repo_id: str | None = None) -> Path:
    """Write a saved model as a self-contained repository: its files, its code, and a config that names both.

    The repository loads with `trust_remote_code=True` if this package is not installed, and without it otherwise. API
    models are queried through the `openai` client or litellm if installed. An Inference Endpoint can run it unchanged:
    `handler.py` answers the requests, and `requirements.txt` names the clients that its LLMs need.

    Args:
        source: Folder of a saved model, with its tokenizer.
        folder: New or empty folder, or one that was exported before.
        repo_id: Name of the repository, for its card. Default: the folder's.

    Returns:
        `folder`.

    Raises:
        ValueError: If `source` holds no LabelFusion model, or `folder` holds something else.
    """
    from ...configuration import LabelFusionConfig
    from ..cards.model_card import update_card

    source, folder = Path(source), Path(folder)
    check_model_folder(source)
    if source.resolve() != folder.resolve():
        if folder.exists() and any(folder.iterdir()) and not (folder / f"{next(iter(FILES))}.py").is_file():
            raise ValueError(f"{str(folder)!r} is not empty: give a new folder for the exported repository.")
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*IGNORED), dirs_exist_ok=True)
    config = LabelFusionConfig.from_pretrained(folder)
    config.self_contained = True
    config.save_pretrained(folder)  # with the code
    shutil.copy(Path(__file__).with_name("handler.py"), folder / "handler.py")
    if needed := clients(config):
        (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in needed), encoding="utf-8")
    update_card(folder, repo_id)
    return folder
