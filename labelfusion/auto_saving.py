"""Saving, loading and publishing an `AutoFusionClassifier`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from .configuration import LLMProvider
from .configuration.exporter import exporter
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .modeling_labelfusion.tokenizer_files import load_tokenizer
from .scoring.providers.consent import is_hub_id

STATE_FILE = "auto_classifier.json"
KEPT = (
    "multi_label",
    "label_columns",
    "text_column",
    "label_column",
    "empty_texts",
    "annotators",
    "batch_size",
    "max_length",
    "cache",
)
LLM: TypeAlias = str | LLMProvider | dict[str, Any] | Callable[[list[str]], Any] | None


class SavedClassifierMixin:
    """A model folder, with one small file for what the classifier knows beyond the model."""

    model_: LabelFusionForSequenceClassification
    tokenizer_: Any
    classes_: NDArray[Any]
    report_: dict[str, Any]
    device: str | None

    def save_pretrained(self, folder: str | Path) -> None:
        """Save model, tokenizer and the classifier's own settings, for `from_pretrained` of any of the three ways."""
        self._check_fitted()
        folder = Path(folder)
        self.model_.save_pretrained(folder)
        self.tokenizer_.save_pretrained(folder)
        state = {"classes": self.classes_.tolist(), "params": {k: getattr(self, k) for k in KEPT}}
        (folder / STATE_FILE).write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, token: str | None = None, self_contained: bool = False
    ) -> str:
        """Save to a repository on the Hugging Face Hub, with a model card; returns its address.

        `self_contained=True` adds the code, for users who have not installed this package.
        """
        import tempfile

        self._check_fitted()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            known = exporter()
            assert known is not None  # `labelfusion` has registered one
            return known.push_folder(folder, repo_id, private=private, token=token, self_contained=self_contained)

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | Path, llm: LLM | list[LLM] = None, **options: Any) -> Self:
        """Load a fitted classifier.

        Args:
            folder_or_repo: Folder or Hub id of a LabelFusion model, however it was made.
            llm: What to ask instead of the declared LLMs; needed where one of them is a Python function.
            **options: Constructor arguments, such as `device`, `batch_size` or `progress`.
        """
        from transformers.utils import cached_file

        source = str(folder_or_repo)
        model = LabelFusionForSequenceClassification.from_pretrained(source)
        path = cached_file(source, STATE_FILE, _raise_exceptions_for_missing_entries=False)
        classes, known = _read_state(path, source, model.config.label_names)
        params = {"multi_label": model.config.multi_label, **known, **options}
        declared: Any = list(model.config.providers) or None
        chosen = llm if llm is not None else declared
        encoder = model.config.encoder_config._name_or_path or "roberta-base"
        if model.config.source and not is_hub_id(encoder):  # for another `fit`: a stranger names no path here
            encoder = "roberta-base"
        clf: Any = cls(encoder=encoder, llm=chosen, labels=classes, **params)  # type: ignore[call-arg]
        clf.model_ = model.to(clf._device()).eval()
        clf.tokenizer_ = load_tokenizer(source)
        clf.classes_ = np.array(classes, dtype=object if isinstance(classes[0], str) else None)
        clf.report_ = model.config.fusion_report or {}
        clf.is_fitted_ = True
        return clf

    def _device(self) -> str:
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # unknown, absent, or not built into this PyTorch
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"`device` is {device!r}, which PyTorch cannot use here ({reason}). Give 'cpu', 'cuda' or 'cuda:0' if "
                "there is a GPU, or None: a GPU if there is one."
            ) from None
        return device

    def _check_fitted(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(
                "This AutoFusionClassifier is not fitted yet: call `fit`, or load one by `from_pretrained`."
            )


def _read_state(path: str | None, source: str, names: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """The K classes and the constructor's arguments in the file at `path`, if there is one.

    Raises:
        OSError: If it is damaged.
    """
    if path is None:
        return names, {}
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
        classes, params = state.get("classes", names), state.get("params", {})
        if len(classes) != len(names):
            raise ValueError(f"{len(classes)} classes, the model has {len(names)}")
        return list(classes), {name: params[name] for name in KEPT if name in params}
    except (ValueError, TypeError, AttributeError) as error:  # JSONDecodeError is a ValueError
        raise OSError(f"{STATE_FILE} of {source!r} is damaged ({error}): copy or download it again.") from None
