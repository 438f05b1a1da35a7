"""Methods of a fitted classifier: prediction, evaluation and saving."""

import tempfile
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from .configuration.exporter import exporter
from .evaluation.encoder_label_errors import suspected_by_encoder
from .evaluation.label_errors import suspected_labels
from .evaluation.metrics import is_right
from .evaluation.source_metrics import risk_metrics, source_metrics
from .label_arrays import as_answers, check_output, read_target
from .llms import LLM, ScorerCache, as_list
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .modeling_labelfusion.encoding import TextEncoder, encode_texts
from .pickling import packed, unpacked
from .pipelines.formatting import hold_back
from .pipelines.inference import Inference, infer
from .pipelines.inputs import Row, read_inputs
from .routing.policy import Policy
from .routing.risk import RiskControl
from .routing.run_options import Routing
from .saving import load, save
from .scoring.budget import Budget
from .training.data import LabelledTexts, TableLayout, is_table, prepare, with_labels


class FusionPredictor(ClassifierMixin, BaseEstimator):
    """A fitted fusion; `AutoFusionClassifier` adds the constructor and `fit`."""

    encoder: str | dict[str, Any]
    llm: LLM | list[LLM]
    labels: list[Any] | None
    multi_label: bool
    label_columns: list[str] | None
    text_column: str
    label_column: str | None
    empty_texts: str
    annotators: str
    batch_size: int
    max_length: int | None
    bf16: bool
    cache: bool
    device: str | None
    progress: bool

    model_: LabelFusionForSequenceClassification
    tokenizer_: Any
    classes_: NDArray[Any]
    _output = "names"  # the default of `predict`
    report_: dict[str, Any]
    _review: tuple[NDArray[np.float64], NDArray[np.float32] | None, NDArray[Any], NDArray[np.int64] | None]

    def predict(
        self, texts: Any, max_risk: float | None = None, output: str | None = None, **options: Any
    ) -> NDArray[Any]:
        """Predict classes.

        Args:
            texts: List of n texts, or data with a text column (and `llm_scores`).
            max_risk: Abstain (return None) so that at most this share of all texts gets a wrong answer. `predict_sets`
                returns the classes that may be true.
            output: `"names"` of classes, or `"indicator"`: 0/1 with one column per class, as scikit-learn's metrics
                take them for multi-label. Default: `"indicator"` if `fit` got such a matrix as `y`, else `"names"`.
            **options: Those of `predict_sources`: `llm_policy` (`"always"`, `"never"`, `"auto"` or a share of the
                texts), `max_cost_usd`, `target_accuracy`, `deadline_s`, `llm_scores` `(n, P, K)`.

        Returns:
            Array of n classes; multi-label: of n lists of classes. None for a text that is missing (`empty_texts`) or
            an answer that is held back. With `"indicator"`: int64 `(n, K)`, or float64 with NaN in such rows.
        """
        wanted = check_output(output or self._output)
        result, control = self._infer(texts, max_risk=max_risk, **options)
        answered: NDArray[np.bool_] = np.asarray(~np.isnan(result.probabilities).any(axis=1))
        if control is not None:
            answered &= hold_back(result, self.model_.config, control)[0]
        return as_answers(result.probabilities, answered, self.classes_, self.model_.config, wanted)

    def predict_proba(self, texts: Any, **options: Any) -> NDArray[np.float32]:
        """Calibrated probabilities, float32 `(n, K)`; the arguments are those of `predict`."""
        return self.predict_sources(texts, **options).probabilities

    def predict_log_proba(self, texts: Any, **options: Any) -> NDArray[np.float32]:
        """Logarithms of `predict_proba`, float32 `(n, K)`; minus infinity for a probability of 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(texts, **options))

    def predict_sources(
        self,
        texts: Any,
        llm_policy: Policy = "always",
        max_cost_usd: float | Budget | None = None,
        llm_scores: Any = None,
        target_accuracy: float | None = None,
        deadline_s: float | None = None,
        hedge_s: float | str | None = None,
    ) -> Inference:
        """Predictions of fusion, encoder and each LLM for n texts; options: `routing.run_options.Routing.parse`.

        Returns:
            [`Inference`]: `probabilities` and `encoder_probabilities` `(n, K)`, `llm_scores` `(n, P, K)` (NaN: no
            answer), `llm_called` and `cost_usd` `(n,)`, and `errors` by row.
        """
        options = {"llm_policy": llm_policy, "max_cost_usd": max_cost_usd, "target_accuracy": target_accuracy}
        waiting = {"deadline_s": deadline_s, "hedge_s": hedge_s}
        return self._infer(texts, llm_scores=llm_scores, **options, **waiting)[0]

    def _infer(self, texts: Any, llm_scores: Any = None, **options: Any) -> tuple[Inference, RiskControl | None]:
        """Answers for n texts, and the risk control that decides on abstention; options as in `Routing.parse`."""
        self._check_fitted()
        # Raise for an invalid policy or an impossible guarantee before any LLM is queried.
        routing = Routing.parse(self.model_.config, **options)
        return self._answer(texts, routing, llm_scores), routing.control

    def _answer(self, texts: Any, routing: Routing, llm_scores: Any = None) -> Inference:
        """Answers for n texts."""
        if isinstance(texts, str):
            raise ValueError(f"`texts` is one string; pass a list of texts: [{texts[:30]!r}].")
        if not isinstance(texts, LabelledTexts):
            kept = "keep" if self.empty_texts == "skip" else self.empty_texts
            if is_table(texts):
                known, count = self.classes_.tolist(), self.model_.config.num_providers
                texts = self._prepare(texts, known, count, require_labels=False, empty_texts=kept)
            else:
                texts = LabelledTexts(list(texts), None, None, [])
        given = texts.llm_scores if llm_scores is None else llm_scores
        rows = read_inputs(texts.texts, given, self.empty_texts)
        encoder = TextEncoder(self.model_, self.tokenizer_, **self.encoding_options(), progress=self.progress)
        parts = list(infer(encoder, rows, routing, self._scorers))
        return Inference.concatenate(parts or [Inference.empty(self.model_.config)])

    def stream_sources(
        self, rows: Iterable[Row], llm_policy: Policy = "always", max_cost_usd: Any = None, **options: Any
    ) -> Generator[Inference, None, None]:
        """`predict_sources` for a stream of `(text, llm_scores or None)`, in windows, with bounded memory."""
        self._check_fitted()
        encoder = TextEncoder(self.model_, self.tokenizer_, **self.encoding_options())
        routing = Routing.parse(self.model_.config, llm_policy, max_cost_usd, **options)
        return infer(encoder, rows, routing, self._scorers)

    def __sklearn_tags__(self) -> Tags:
        """scikit-learn's tags: the input is a list of texts, not a matrix of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array, tags.input_tags.string = True, False, True
        tags.classifier_tags.multi_label = self.multi_label
        tags.target_tags.two_d_labels = self.multi_label
        tags.no_validation = True
        return tags

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        """float32 `(n, hidden_size)`: the encoder's embeddings, without the features that other heads append."""
        found = encode_texts(self.model_, self.tokenizer_, texts, **self.encoding_options())
        return found[:, : self.model_.config.hidden_size].numpy()

    def encoding_options(self) -> dict[str, Any]:
        """Encoding arguments of `pipelines.inference.infer`."""
        return {"batch_size": self.batch_size, "max_length": self.max_length, "bf16": self.bf16}

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
            label_column=self.label_column,
            label_columns=self.label_columns,
            empty_texts=empty_texts or self.empty_texts,
            annotators=annotators or self.annotators,
        )
        known: dict[str, Any] = {"multi_label": self.multi_label, "num_providers": num_providers or None}
        return prepare(data, classes=classes, layout=layout, **known, **options)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Accuracy (multi-label: exact match), for scikit-learn's model selection.

        A row whose class was not in the training data counts as wrong, with a warning.
        """
        config = self.model_.config
        data = self._prepare_measured(with_labels(X, read_target(y, self.multi_label), self.label_column))
        assert data.labels is not None  # `prepare` guarantees it
        probabilities = self.predict_sources(data).probabilities
        right = is_right(probabilities, data.labels, config.decision_rule)
        return float(np.average(right, weights=sample_weight))

    def evaluate(
        self,
        data: Any,
        llm_policy: Policy = "always",
        max_cost_usd: float | Budget | None = None,
        llm_scores: Any = None,
        max_risk: float | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Compare the fusion with each of its sources on the same labelled rows.

        Args:
            data: Labelled data, as for `fit`. A row whose class was not in the training data counts as wrong.
            llm_policy: Which texts are sent to the LLMs.
            max_cost_usd: US dollars that may be spent, or a `scoring.budget.Budget` that several calls share.
            llm_scores: `(n, P, K)` scores, instead of the column.
            max_risk: See `predict`; adds `risk`: the guaranteed risk and the measured one.
            **options: Other options of `predict_sources`.

        Returns:
            `fusion`, `encoder` and, under `llm` by provider, the metrics of `classification_metrics` (an LLM's on the
            rows that it answered, their share as `answered`); `rows`, `llm_share` (rows with an LLM answer),
            `cost_usd`, `seconds`.
        """
        self._check_fitted()
        config = self.model_.config
        table = self._prepare_measured(data)
        assert table.labels is not None
        options |= {"llm_policy": llm_policy}
        options |= {"max_cost_usd": max_cost_usd, "llm_scores": llm_scores, "max_risk": max_risk}
        started = time.perf_counter()
        result, control = self._infer(table, **options)
        seconds = time.perf_counter() - started
        return {
            "rows": len(table),
            **source_metrics(result, table.labels, config),
            "llm_share": float(result.answered.any(axis=1).mean()),
            "cost_usd": result.total_cost_usd,
            "seconds": round(seconds, 3),
            **({} if control is None else {"risk": risk_metrics(result, table.labels, config, control)}),
        }

    def predict_sets(self, texts: Any, max_risk: float, **options: Any) -> list[list[Any]]:
        """For each text, return the classes that may be true, the most probable first.

        The true class is missing from the set for at most `max_risk` of the texts (multi-label: on average at most this
        share of a text's classes is missing), see `routing.risk.RiskControl`.

        Args:
            texts: As for `predict`.
            max_risk: The risk, in (0, 1).
            **options: Those of `predict_sources`.
        """
        result, control = self._infer(texts, max_risk=max_risk, **options)
        if control is None:
            raise ValueError("`max_risk` must be a number between 0 and 1, got None.")
        _, sets = hold_back(result, self.model_.config, control)
        order = np.argsort(-result.probabilities, axis=1, kind="stable")
        classes = self.classes_.tolist()
        return [[classes[k] for k in row if chosen[k]] for row, chosen in zip(order, sets, strict=True)]

    def suspected_labels(self) -> list[dict[str, Any]]:
        """Training labels that are probably wrong: the encoder (out of sample) and the LLM agree on another label.

        Without an LLM, the encoder alone judges, by confident learning; more of what it names is right after all.
        Available after `fit`; not saved with the model.

        Returns:
            The most suspect first: `row` (index in the training data; rows of `eval_data` are numbered after them),
            `given` and `suggested` (classes; multi-label: lists of classes), and the probabilities of both according to
            `encoder` and `llm` (None without one), see `evaluation.label_errors.suspected_labels` and
            `evaluation.encoder_label_errors.suspected_by_encoder`.
        """
        self._check_fitted()
        if not hasattr(self, "_review"):
            raise ValueError("Suspected labels are known after `fit` only: a loaded classifier has no training data.")
        probs, scores, labels, rows = self._review
        classes, multi_label = self.classes_.tolist(), self.model_.config.multi_label
        if scores is None or scores.shape[1] == 0:
            found = suspected_by_encoder(probs, labels, multi_label)
        else:
            found = suspected_labels(probs, scores, labels, multi_label)
        for entry in found:
            entry["row"] = entry["row"] if rows is None else int(rows[entry["row"]])
            for name in ("given", "suggested"):
                named = [classes[k] for k in entry[name]]
                entry[name] = named if multi_label else named[0]
        return found

    def estimate_shares(
        self, texts: Any, gold: Any, level: float = 0.95, llm_scores: Any = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Estimate what share of a collection of texts each class has, with valid intervals.

        See `evaluation.class_shares.estimate_class_shares` (prediction-powered inference).

        Args:
            texts: The collection without the gold rows: a list, or data with a text column.
            gold: Labelled data: a random sample of the collection, at least 10 rows, none of them used in `fit`.
            level: Coverage of each class's interval.
            llm_scores: `(N, P, K)` scores of `texts`, instead of the column.
            **options: Those of `predict_sources`.

        Returns:
            For each class `class`, `share`, `low`, `high`; `gold_share`, of the labels alone; and `gain`, how many
            times more labels would be as good without predictions. Texts that are missing are left out.
        """
        from .evaluation.class_shares import measure_shares

        self._check_fitted()
        return measure_shares(self, texts, gold, level, llm_scores, options)  # type: ignore[arg-type]

    def tradeoff(
        self,
        data: Any,
        llm_policy: Policy = "auto",
        max_cost_usd: float | Budget | None = None,
        latency_rows: int = 20,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Measure accuracy against cost and latency, from querying no text to querying every text.

        Args:
            data: Labelled data, as for `fit`. The LLMs are queried about every row without scores.
            llm_policy: The policy to show as a separate point.
            max_cost_usd: US dollars that may be spent, or a `scoring.budget.Budget` that several calls share.
            latency_rows: Number of texts sent one by one, without the score store, to measure the latency. Recorded
                scores have no latency.
            folder: Where `tradeoff.csv`, `tradeoff.json` and, with matplotlib, `tradeoff.png` are written.
            seed: Seed of the bootstrap.

        Returns:
            See `evaluation.tradeoff_curve.tradeoff_curve`; with `llm_policy`, `cost_usd` (spent now) and `metric`.
        """
        from .evaluation.tradeoff import measure_tradeoff, write_tradeoff

        self._check_fitted()
        found = measure_tradeoff(self, data, llm_policy, max_cost_usd, latency_rows, seed)  # type: ignore[arg-type]
        if folder is not None:
            write_tradeoff(found, Path(folder))
        return found

    def _prepare_measured(self, data: Any) -> LabelledTexts:
        """Prepare labelled data for the fitted model; classes that it does not know are allowed.

        A text of several annotators counts once, with its majority class.
        """
        known, count = self.classes_.tolist(), self.model_.config.num_providers
        return self._prepare(data, known, count, unseen_classes=True, annotators="majority")

    def save_pretrained(self, folder: str | Path) -> None:
        """Save model, tokenizer and the classifier's settings. Model, pipeline and classifier can load the folder."""
        self._check_fitted()
        save(self, Path(folder))

    def push_to_hub(
        self, repo_id: str, private: bool | None = None, token: str | None = None, self_contained: bool = False
    ) -> str:
        """Save to a repository on the Hugging Face Hub, with a model card; returns its address.

        `self_contained=True` adds the code, for users who have not installed this package.
        """
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
            llm: LLMs to query instead of the declared ones; required if one of these is a Python function.
            **options: Constructor arguments, such as `device`, `batch_size` or `progress`.
        """
        return load(cls, folder_or_repo, llm, options)  # type: ignore[no-any-return]

    def _scorers(self, pool: Any = None, cache: bool | None = None) -> list[Any]:
        """See `ScorerCache`; `pool` and `cache` default to those of this classifier."""
        built: ScorerCache = self.__dict__.setdefault("_built", ScorerCache())
        pool, cache = pool or getattr(self, "_pool", None), self.cache if cache is None else cache
        options: dict[str, Any] = {"cache": cache, "progress": self.progress, "embed": self._embed}
        options["store"] = getattr(self, "_store", None)
        return built.get(self.model_.config, as_list(self.llm), pool=pool, **options)

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
