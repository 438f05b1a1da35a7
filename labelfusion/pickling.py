"""The state of a fitted classifier as plain data, for `pickle`, `joblib`, `cloudpickle` and `skops`."""

import tempfile
from pathlib import Path
from typing import Any

from .modeling_labelfusion import LabelFusionForSequenceClassification
from .modeling_labelfusion.tokenizer_files import load_tokenizer


def packed(state: dict[str, Any]) -> dict[str, Any]:
    """Replace the model by its config and weights, and the tokenizer by its files, as strings and bytes.

    A model whose modules were changed, by PEFT for instance, is kept as it is.
    """
    state = dict(state)
    if "model_" in state:
        state["model_"] = state["model_"].plain_state() or state["model_"]
    if "tokenizer_" in state:
        with tempfile.TemporaryDirectory() as folder:
            state["tokenizer_"].save_pretrained(folder)
            state["tokenizer_"] = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
    return state


def unpacked(state: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `packed`. States of earlier versions, with a module in them, pass through."""
    state = dict(state)
    if isinstance(state.get("model_"), dict):
        state["model_"] = LabelFusionForSequenceClassification.from_plain_state(state["model_"])
    if isinstance(state.get("tokenizer_"), dict):
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state["tokenizer_"].items():
                (Path(folder) / Path(name).name).write_bytes(content)
            state["tokenizer_"] = load_tokenizer(folder)
    return state
