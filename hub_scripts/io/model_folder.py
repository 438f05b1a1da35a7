"""The folder of a saved model."""

import json
from pathlib import Path


def check_model_folder(folder: Path) -> None:
    """Raise if a folder holds no LabelFusion model.

    Raises:
        ValueError: Saying what is missing.
    """
    if not is_model_folder(folder):
        raise ValueError(
            f"{str(folder)!r} is not a LabelFusion model: it has no config.json of one. Expected a folder that "
            "`save_pretrained` or `labelfusion train --output-dir` wrote."
        )
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{str(folder)!r} is not a LabelFusion model: it has a config, but no weights (*.safetensors). Expected a "
            "folder that `save_pretrained` or `labelfusion train --output-dir` wrote."
        )


def check_model_target(folder: Path, overwrite: bool | None = None) -> None:
    """Check that a model can be written into a folder: that it is new, empty, or holds an earlier model.

    Args:
        folder: The folder.
        overwrite: The option `--overwrite`, with which the folder may hold other things; None: there is none.

    Raises:
        ValueError: If it is a file, or holds other things.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`--output-dir`: {str(folder)!r} is a file.")
    if folder.is_dir() and any(folder.iterdir()) and not is_model_folder(folder) and not overwrite:
        instead = "" if overwrite is None else ", or --overwrite"
        raise ValueError(
            f"`--output-dir`: {str(folder)!r} holds other things than a LabelFusion model; give another folder"
            f"{instead}."
        )


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` has the config of a LabelFusion model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "labelfusion"
