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


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` has the config of a LabelFusion model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "labelfusion"
