"""Methods of a fitted classifier: prediction, evaluation and saving."""

import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .configuration.exporter import exporter
from .evaluation.diagnosis.evaluate_classifier import evaluation
from .evaluation.diagnosis.measurement import Measurement
from .evaluation.diagnosis.training_label_errors import training_label_errors
from .evaluation.html_report.write_html import check_html_path, save_html
from .evaluation.metrics import is_right
from .fitted import FittedFusion
from .label_arrays import as_answers, check_output, read_target
from .llms import LLM
from .modeling_labelfusion.encoding import TextEncoder
from .pipelines.formatting import hold_back
from .pipelines.inference import Inference, infer
from .pipelines.inputs import Row
from .routing.policy import Policy
from .routing.run_options import Routing
from .saving import load, save
from .scoring.budget import Budget
from .training.data import with_labels


class FusionPredictor(FittedFusion):
    """A fitted fusion; `AutoFusionClassifier` adds the constructor and `fit`."""

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
                texts), `max_cost_usd`, `target_accuracy`, `deadline_s`, `llm_scores` `(n, P, K)`, and `speed`:
                `"full"`, or `"balanced"` or `"fast"`, where a head without the encoder answers easy texts and loses at
                most 0.1 or 0.3 points of accuracy, as expected on held-out rows.

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
        speed: str = "full",
    ) -> Inference:
        """Predictions of fusion, encoder and each LLM for n texts; options: `routing.run_options.Routing.parse`.

        Returns:
            [`Inference`]: `probabilities` and `encoder_probabilities` `(n, K)`, `llm_scores` `(n, P, K)` (NaN: no
            answer), `llm_called` and `cost_usd` `(n,)`, and `errors` by row.
        """
        options = {"llm_policy": llm_policy, "max_cost_usd": max_cost_usd, "target_accuracy": target_accuracy}
        how = {"deadline_s": deadline_s, "hedge_s": hedge_s, "speed": speed}
        return self._infer(texts, llm_scores=llm_scores, **options, **how)[0]

    def stream_sources(
        self, rows: Iterable[Row], llm_policy: Policy = "always", max_cost_usd: Any = None, **options: Any
    ) -> Generator[Inference, None, None]:
        """`predict_sources` for a stream of `(text, llm_scores or None)`, in windows, with bounded memory."""
        self._check_fitted()
        encoder = TextEncoder(self.model_, self.tokenizer_, **self.encoding_options())
        routing = Routing.parse(self.model_.config, llm_policy, max_cost_usd, **options)
        return infer(encoder, rows, routing, self._scorers)

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
        errors: bool | int = False,
        html: str | Path | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Compare the fusion with each of its sources on the same labelled rows.

        Args:
            data: Labelled data, as for `fit`. A row whose class was not in the training data counts as wrong.
            llm_policy: Which texts are sent to the LLMs.
            max_cost_usd: US dollars that may be spent, or a `scoring.budget.Budget` that several calls share.
            llm_scores: `(n, P, K)` scores, instead of the column.
            max_risk: See `predict`; adds `risk`: the guaranteed risk and the measured one.
            errors: List the errors of the fusion with their texts, the most confident first: all, or so many.
            html: Also write one HTML file to look at, with texts of the data; see `docs/evaluation.md`.
            **options: Other options of `predict_sources`.

        Returns:
            `fusion`, `encoder` and, under `llm` by provider, the metrics of `classification_metrics` (an LLM's on the
            rows that it answered, their share as `answered`); `rows`, `llm_share` (rows with an LLM answer),
            `cost_usd`, `seconds`; `classes`, `per_class`, `confusion` (single-label: rows of each true class by class
            predicted), `confused` (the most frequent confusions), `warnings`, `advice` and `costs`; and, if asked for,
            `errors`. See `class_figures`, `advice` and `confusions` in `evaluation.diagnosis`.
        """
        self._check_fitted()
        options |= {"llm_policy": llm_policy, "max_cost_usd": max_cost_usd, "max_risk": max_risk}
        routing = Routing.parse(self.model_.config, **options)
        page = None if html is None else check_html_path(html)  # before anything is paid for
        run = Measurement.of(self, data, routing, llm_scores)  # type: ignore[arg-type]
        if page is not None:
            save_html(run, page, data)
        return evaluation(run, errors)

    def explain(
        self,
        texts: Any,
        examples: Any = None,
        *,
        nearest: int = 3,
        words: bool = True,
        label: Any = None,
        **options: Any,
    ) -> Any:
        """Explain answers: each source's share of the logit, the words that decide, the nearest labelled texts.

        The shares are exact Shapley values, see `evaluation.explanation.source_shares`; words are left out one by one.
        An LLM is queried once for each text at most.

        Args:
            texts: A text, or a pair as a dict; or a list of them, or data with a text column.
            examples: Labelled data, as for `fit`, among which the nearest texts are found, such as the training data.
                A model holds no text of them.
            nearest: Number of nearest texts.
            words: Whether words are measured, by one forward pass of the encoder for each word.
            label: Class to explain. Default: the predicted one; multi-label: the most probable of these.
            **options: Those of `predict_sources`, such as `llm_policy` and `llm_scores`.

        Returns:
            [`Explanation`](labelfusion.evaluation.explanation.explanation.Explanation) for a text, with
            `to_markdown()`, `to_dict()` and `plot()`; a list of them for several, with None for a missing text.
        """
        from .evaluation.explanation.explain_texts import explain_texts

        self._check_fitted()
        alone = isinstance(texts, (str, dict))
        found = explain_texts(self, [texts] if alone else texts, examples, nearest, words, label, options)  # type: ignore[arg-type]
        return found[0] if alone else found

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
            `encoder` and `llm` (None without one), see `evaluation.diagnosis.label_errors.suspected_labels` and
            `evaluation.diagnosis.encoder_label_errors.suspected_by_encoder`.
        """
        self._check_fitted()
        if not hasattr(self, "_review"):
            raise ValueError("Suspected labels are known after `fit` only: a loaded classifier has no training data.")
        return training_label_errors(self._review, self.classes_.tolist(), self.model_.config.multi_label)

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
