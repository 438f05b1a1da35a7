"""Saves and loads a classifier: the model folder, plus a small file with the classifier's own settings."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .configuration import LabelFusionConfig
from .label_arrays import OUTPUTS, check_output, class_array
from .llms import LLM
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .modeling_labelfusion.tokenizer_files import hub_out_of_reach, is_here, load_tokenizer
from .scoring.providers.consent import is_hub_id

STATE_FILE = "auto_classifier.json"
KEPT = (
    "multi_label",
    "label_columns",
    "text_column",
    "text_pair_column",
    "label_column",
    "empty_texts",
    "annotators",
    "batch_size",
    "max_length",
    "cache",
)


def save(clf: Any, folder: Path) -> None:
    """Write model, tokenizer and the settings of a fitted classifier."""
    clf.model_.save_pretrained(folder)
    clf.tokenizer_.save_pretrained(folder)
    params = {name: getattr(clf, name) for name in KEPT}
    state = {"classes": clf.classes_.tolist(), "output": clf._output, "params": params}
    (folder / STATE_FILE).write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(cls: type[Any], folder_or_repo: str | Path, llm: LLM | list[LLM], options: dict[str, Any]) -> Any:
    """A fitted classifier of class `cls`, see `AutoFusionClassifier.from_pretrained`."""
    source = str(folder_or_repo)
    with _named(source):
        model = LabelFusionForSequenceClassification.from_pretrained(source)
    classes, output, known = _read_state(_state_file(source), source, model.config.label_names)
    params = {"multi_label": model.config.multi_label, **known, **options}
    declared: Any = list(model.config.providers) or None
    chosen = llm if llm is not None else declared
    encoder = model.config.encoder_config._name_or_path or "roberta-base"
    if model.config.source and not is_hub_id(encoder):
        # The next `fit` loads the encoder: an untrusted config must not name a local path.
        encoder = "roberta-base"
    clf: Any = cls(encoder=encoder, llm=chosen, labels=classes, **params)  # type: ignore[call-arg]
    clf.model_ = model.to(torch_device(clf.device)).eval()
    clf.tokenizer_ = load_tokenizer(source)
    clf.classes_ = class_array(classes)
    clf._output = output
    clf.report_ = model.config.fusion_report or {}
    clf.is_fitted_ = True
    return clf


def load_config(source: str) -> LabelFusionConfig:
    """The config of a saved model in the folder or Hub repository `source`.

    Raises:
        OSError: If there is no LabelFusion model.
    """
    with _named(source):
        return LabelFusionConfig.from_pretrained(source)


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Raise errors that say what is missing, if `source` is no LabelFusion model."""
    path = Path(source).expanduser()
    if path.exists():
        names = {file.name for file in path.iterdir()} if path.is_dir() else set()
        missing = None
        if not names & {"config.json", "adapter_config.json"}:  # or an adapter of PEFT
            missing = "config.json"
        elif not any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
            missing = "model.safetensors"
        if missing:
            has = f"it has no {missing}" if path.is_dir() else "it is a file"
            raise OSError(
                f"{source!r} is not a LabelFusion model: {has}. Expected a folder that `save_pretrained` wrote."
            )
    try:
        yield
    except OSError as error:
        if is_here(source):
            raise
        hub = "the Hub could not be reached" if hub_out_of_reach(error) else "none on the Hub"
        raise OSError(
            f"No LabelFusion model {source!r}: no folder of this name in {os.getcwd()}, and {hub}. "
            "Expected what `save_pretrained` or `labelfusion train --output-dir` wrote."
        ) from error


def saved_settings(source: str, names: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """The K classes and the constructor's arguments of a saved classifier.

    Args:
        source: Folder or Hub id of a model. Without a classifier's settings the result is `names` and nothing.
        names: The model's class names.

    Raises:
        OSError: If the settings are damaged.
    """
    classes, _, known = _read_state(_state_file(source), source, names)
    return classes, known


def _state_file(source: str) -> str | None:
    from transformers.utils import cached_file

    found: str | None = cached_file(source, STATE_FILE, _raise_exceptions_for_missing_entries=False)
    return found


def torch_device(device: str | None) -> str:
    """`device`, or a GPU if there is one.

    Raises:
        ValueError: If PyTorch cannot use it here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, absent, or not built into this PyTorch
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`device` is {device!r}, which PyTorch cannot use here ({reason}). Give 'cpu', 'cuda' or 'cuda:0' if "
            "there is a GPU, or None: a GPU if there is one. See docs/troubleshooting.md#training."
        ) from None
    return device


def _read_state(path: str | None, source: str, names: list[str]) -> tuple[list[Any], str, dict[str, Any]]:
    """The K classes, the form of the predictions and the constructor's arguments in the file at `path`, if it exists.

    Raises:
        OSError: If it is damaged.
    """
    if path is None:
        return names, OUTPUTS[0], {}
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        classes, params = state.get("classes", names), state.get("params", {})
        if len(classes) != len(names):
            raise ValueError(f"{len(classes)} classes, the model has {len(names)}")
        output = check_output(state.get("output", OUTPUTS[0]))
        return list(classes), output, {name: params[name] for name in KEPT if name in params}
    except (ValueError, TypeError, AttributeError) as error:  # JSONDecodeError is a ValueError
        raise OSError(f"{STATE_FILE} of {source!r} is damaged ({error}): copy or download it again.") from None
