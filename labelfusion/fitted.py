"""What a fitted classifier is made of, and how it reads data and computes answers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from .evaluation.diagnosis.training_label_errors import Review
from .llms import LLM, ScorerCache, as_list
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .modeling_labelfusion.encoding import TextEncoder, encode_texts
from .pickling import packed, unpacked
from .pipelines.inference import Inference, infer
from .pipelines.inputs import read_inputs
from .routing.risk import RiskControl
from .routing.run_options import Routing
from .training.data import LabelledTexts, TableLayout, is_table, prepare


class FittedFusion(ClassifierMixin, BaseEstimator):
    """A model with its tokenizer, classes and LLMs; `FusionPredictor` adds what users call."""

    encoder: str | dict[str, Any]
    llm: LLM | list[LLM]
    labels: list[Any] | None
    multi_label: bool
    label_columns: list[str] | None
    text_column: str
    text_pair_column: str | None
    label_column: str | None
    empty_texts: str
    annotators: str
    batch_size: int
    max_length: int | None
    bf16: bool | str
    backend: str
    cache: bool
    device: str | None
    progress: bool

    model_: LabelFusionForSequenceClassification
    tokenizer_: Any
    classes_: NDArray[Any]
    _output = "names"  # the default of `predict`
    report_: dict[str, Any]
    _review: Review

    def _infer(self, texts: Any, llm_scores: Any = None, **options: Any) -> tuple[Inference, RiskControl | None]:
        """Answers for n texts, and the risk control that decides on abstention; options as in `Routing.parse`."""
        self._check_fitted()
        # Raise for an invalid policy or an impossible guarantee before any LLM is queried.
        routing = Routing.parse(self.model_.config, **options)
        return self._answer(texts, routing, llm_scores), routing.control

    def _answer(self, texts: Any, routing: Routing, llm_scores: Any = None) -> Inference:
        """Answers for n texts."""
        texts = self._read_texts(texts)
        given = texts.llm_scores if llm_scores is None else llm_scores
        rows = read_inputs(texts.texts, given, self.empty_texts)
        encoder = TextEncoder(self.model_, self.tokenizer_, **self.encoding_options(), progress=self.progress)
        parts = list(infer(encoder, rows, routing, self._scorers))
        return Inference.concatenate(parts or [Inference.empty(self.model_.config)])

    def _read_texts(self, texts: Any) -> LabelledTexts:
        """A list of texts, or data with a text column, without labels."""
        if isinstance(texts, str):
            raise ValueError(f"`texts` is one string; pass a list of texts: [{texts[:30]!r}].")
        if isinstance(texts, LabelledTexts):
            return texts
        if not is_table(texts):
            return LabelledTexts(list(texts), None, None, [])
        kept = "keep" if self.empty_texts == "skip" else self.empty_texts
        known, count = self.classes_.tolist(), self.model_.config.num_providers
        return self._prepare(texts, known, count, require_labels=False, empty_texts=kept)

    def _prepare(
        self,
        data: Any,
        classes: Any,
        num_providers: int | None,
        empty_texts: str | None = None,
        annotators: str | None = None,
        **options: Any,
    ) -> LabelledTexts:
        """`prepare` with the settings of this classifier."""
        layout = TableLayout(
            text_column=self.text_column,
            text_pair_column=self.text_pair_column,
            label_column=self.label_column,
            label_columns=self.label_columns,
            empty_texts=empty_texts or self.empty_texts,
            annotators=annotators or self.annotators,
        )
        known: dict[str, Any] = {"multi_label": self.multi_label, "num_providers": num_providers or None}
        return prepare(data, classes=classes, layout=layout, **known, **options)

    def _prepare_measured(self, data: Any) -> LabelledTexts:
        """Prepare labelled data for the fitted model; classes that it does not know are allowed.

        A text of several annotators counts once, with its majority class.
        """
        known, count = self.classes_.tolist(), self.model_.config.num_providers
        return self._prepare(data, known, count, unseen_classes=True, annotators="majority")

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 `(n, hidden_size)`: the encoder's embeddings, without the features that other heads append."""
        found = encode_texts(self.model_, self.tokenizer_, texts, **self.encoding_options())
        return found[:, : self.model_.config.hidden_size].numpy()

    def encoding_options(self) -> dict[str, Any]:
        """Encoding arguments of `pipelines.inference.infer`."""
        named = ("batch_size", "max_length", "bf16", "backend")
        return {name: getattr(self, name) for name in named}

    def _scorers(self, pool: Any = None, cache: bool | None = None) -> list[Any]:
        """See `ScorerCache`; `pool` and `cache` default to those of this classifier."""
        built: ScorerCache = self.__dict__.setdefault("_built", ScorerCache())
        pool, cache = pool or getattr(self, "_pool", None), self.cache if cache is None else cache
        options: dict[str, Any] = {"cache": cache, "progress": self.progress, "embed": self._embed}
        options["store"] = getattr(self, "_store", None)
        return built.get(self.model_.config, as_list(self.llm), pool=pool, **options)

    def __sklearn_tags__(self) -> Tags:
        """scikit-learn's tags: the input is a list of texts, not a matrix of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array, tags.input_tags.string = True, False, True
        tags.classifier_tags.multi_label = self.multi_label
        tags.target_tags.two_d_labels = self.multi_label
        tags.no_validation = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """State for `pickle`: plain data instead of model and tokenizer; no scorers, which belong to this process."""
        state: dict[str, Any] = super().__getstate__()
        return packed({name: value for name, value in state.items() if name != "_built"})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(unpacked(state))

    def _check_fitted(self) -> None:
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(
                "This AutoFusionClassifier is not fitted yet: call `fit`, or load one by `from_pretrained`."
            )
