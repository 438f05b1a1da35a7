"""Measuring an `AutoFusionClassifier`: against its sources, against its promises, and what its questions buy."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .evaluation.label_errors import suspected_labels
from .evaluation.metrics import is_right
from .evaluation.source_metrics import risk_metrics, source_metrics
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .pipelines.formatting import hold_back
from .pipelines.inference import Inference
from .routing.policy import Policy
from .routing.risk import RiskControl
from .scoring.budget import Budget
from .training.data import LabelledTexts, with_labels


class MeasuredClassifierMixin:
    """`score`, `evaluate`, `predict_sets`, `suspected_labels` and `tradeoff`."""

    model_: LabelFusionForSequenceClassification
    classes_: NDArray[Any]
    predict_sources: Callable[..., Inference]  # of the class that this is mixed into, as is `_infer`
    _infer: Callable[..., tuple[Inference, RiskControl | None]]
    label_column: str | None
    _review: tuple[NDArray[np.float64], NDArray[np.float32] | None, NDArray[Any], NDArray[np.int64] | None]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Accuracy (multi-label: exact match), for scikit-learn's model selection.

        A row of a class that training has not seen counts as a wrong answer, with a warning.
        """
        config = self.model_.config
        data = self._prepare_measured(with_labels(X, y, self.label_column))
        assert data.labels is not None  # `prepare` has seen to it
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
            data: Labelled data, as for `fit`. A row of a class that training has not seen counts as a wrong answer.
            llm_policy: Which texts the LLM is asked about.
            max_cost_usd: US dollars that may be spent, or a `scoring.budget.Budget` that several calls share.
            llm_scores: `(n, P, K)` scores, instead of the column.
            max_risk: See `predict`; adds `risk`, what was promised and what came of it.
            **options: The others of `predict_sources`.

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
            **({} if control is None else {"risk": risk_metrics(result, table.labels, config, control, max_risk)}),
        }

    def predict_sets(self, texts: Any, max_risk: float, **options: Any) -> list[list[Any]]:
        """For each text the classes that may be true, the likeliest first.

        The truth is missing from them for no more than `max_risk` of the texts (multi-label: no more than this share of
        a text's classes on average), see `routing.risk.RiskControl`.

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
        """Training labels that are probably wrong: the encoder, out of sample, and the LLM agree against them.

        Known after `fit`, and not saved with the model.

        Returns:
            The most suspect first: `row` (of the training data, after which those of `eval_data` are counted on),
            `given` and `suggested` (classes; multi-label: lists of classes), and the probabilities of either by
            `encoder` and `llm`, see `evaluation.label_errors.suspected_labels`.
        """
        self._check_fitted()
        if not hasattr(self, "_review"):
            raise ValueError("Suspected labels are known after `fit` only: a loaded classifier has no training data.")
        probs, scores, labels, rows = self._review
        if scores is None or probs is None:
            return []
        classes, multi_label = self.classes_.tolist(), self.model_.config.multi_label
        found = suspected_labels(probs, scores, labels, multi_label)
        for entry in found:
            entry["row"] = entry["row"] if rows is None else int(rows[entry["row"]])
            for name in ("given", "suggested"):
                named = [classes[k] for k in entry[name]]
                entry[name] = named if multi_label else named[0]
        return found

    def tradeoff(
        self,
        data: Any,
        llm_policy: Policy = "auto",
        max_cost_usd: float | Budget | None = None,
        latency_rows: int = 20,
        folder: str | Path | None = None,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Measure what questions buy: accuracy against cost and latency, from asking nothing to asking everything.

        Args:
            data: Labelled data, as for `fit`. The LLMs are asked about every row that brings no scores.
            llm_policy: The policy that is shown as a point of its own.
            max_cost_usd: US dollars that may be spent, or a `scoring.budget.Budget` that several calls share.
            latency_rows: Texts that are sent one by one to measure how long an answer takes, without the score store.
                Recorded scores tell no latency.
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
        """Labelled data as the fitted model takes them, whatever their classes."""
        known, count = self.classes_.tolist(), self.model_.config.num_providers
        return self._prepare(data, known, count, unseen_classes=True)

    def _prepare(self, data: Any, classes: Any, num_providers: int | None, **options: Any) -> LabelledTexts:
        raise NotImplementedError

    def _check_fitted(self) -> None:
        raise NotImplementedError
