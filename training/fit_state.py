"""The state that the steps of the recipe pass on: rows, intermediate results and the report."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration import Task
from ..evaluation.metrics import classification_metrics
from ..modeling_labelfusion.encoding import TextEncoder
from ..scoring.probabilities import to_probabilities
from .fit_options import FitOptions
from .folds import assign_folds
from .fusion.fusion_data import FusionData
from .fusion.label_sets import LabelSets
from .losses import Targets, Weighted, bare_labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..configuration import LabelFusionConfig
    from ..modeling_labelfusion import LabelFusionForSequenceClassification
    from .encoder.encoder_sources import Words

NUM_FOLDS = 5


@dataclass(frozen=True)
class FitState:
    """The state of a fit. A step of the recipe returns a new state; the model itself is fitted in place.

    n texts, K classes, P LLMs. *Out-of-fold*: from a cross-validation fit without the row.

    Args:
        encoder: The model that is fitted, with its tokenizer.
        task: The K classes.
        texts: n texts.
        labels: int64 `(n,)`, or float32 `(n, K)` of 0/1.
        llm_scores: float32 `(n, P, K)`, NaN for missing; calibrated after their calibration step.
        options: Options of the fit.
        folds: int64 `(n,)`: the cross-validation fold of each row.
        embeddings: float32 `(n, pooled_size)` of the pretrained encoder; `(0, 0)`: not yet computed.
        encoder_logits: float32 `(n, K)`, out-of-fold, of the encoder's heads; calibrated after their calibration step.
        covered: bool `(n,)`: rows with `encoder_logits`.
        gold: bool `(n,)`: rows whose label is not an LLM's.
        frozen: Whether the encoder is unchanged since pretraining, so that `embeddings` are still valid.
        novelty: float32 `(n,)` in [0, 1], out-of-fold out-of-distribution scores.
        label_sets: The out-of-fold label-set heads of the rows `covered`; `None`: classes are independent.
        fused_logits: float32 `(m, K)`, out-of-fold, of the m rows `fusable`; `None`: no fusion was fitted.
        weights: float32 `(n,)`: weights of the rows in the fits, with a mean of 1; `None`: all are 1.
        words: The TF-IDF head and its out-of-fold logits, once fitted, for the quick head.
        quick_logits: float32 `(n, K)`, out-of-fold, calibrated, of the quick head; `(0, 0)`: there is none.
        report: Measurements and choices, as plain data for `config.fusion_report`.
    """

    encoder: TextEncoder
    task: Task
    texts: list[str]
    labels: NDArray[Any]
    llm_scores: NDArray[np.float32]
    options: FitOptions
    folds: NDArray[np.int64]
    encoder_logits: torch.Tensor
    covered: NDArray[np.bool_]
    novelty: NDArray[np.float32]
    embeddings: torch.Tensor
    gold: NDArray[np.bool_]
    frozen: bool = True
    label_sets: LabelSets | None = None
    fused_logits: torch.Tensor | None = None
    weights: NDArray[np.float32] | None = None
    words: "Words | None" = None
    quick_logits: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        model: "LabelFusionForSequenceClassification",
        tokenizer: "PreTrainedTokenizerBase",
        texts: list[str],
        labels: NDArray[Any],
        llm_scores: NDArray[np.float32] | None,
        options: FitOptions,
        embeddings: torch.Tensor | None = None,
        weights: NDArray[np.float32] | None = None,
        gold: NDArray[np.bool_] | None = None,
    ) -> Self:
        """The state before the first step.

        Args:
            model: A model with a pretrained encoder.
            tokenizer: Its tokenizer.
            texts: n labelled texts.
            labels: int64 `(n,)` or float32 `(n, K)`.
            llm_scores: float32 `(n, P, K)`, NaN for missing; `None`: no scores at all.
            options: Options of the fit.
            embeddings: float32 `(n, pooled_size)` from `encode_training_texts`, if already computed.
            weights: float32 `(n,)`: see the class.
            gold: bool `(n,)`: rows whose label is not an LLM's. Default: all.
        """
        config, n = model.config, len(texts)
        if llm_scores is None or config.num_providers == 0:
            llm_scores = np.full((n, config.num_providers, config.num_labels), np.nan, dtype=np.float32)
        state = cls(
            encoder=options.text_encoder(model, tokenizer),
            task=Task.of(config),
            texts=texts,
            labels=labels,
            llm_scores=llm_scores,
            options=options,
            folds=assign_folds(labels, NUM_FOLDS, texts, options.seed),
            encoder_logits=torch.zeros(n, config.num_labels),
            covered=np.zeros(n, dtype=bool),
            novelty=np.zeros(n, dtype=np.float32),
            embeddings=torch.empty(0, 0) if embeddings is None else embeddings,
            weights=weights,
            gold=np.ones(n, dtype=bool) if gold is None else gold,
        )
        report = {"rows": n, "scored_rows": int(state.scored.sum())}
        return replace(state, report=report if gold is None else report | {"gold_rows": int(gold.sum())})

    @property
    def model(self) -> "LabelFusionForSequenceClassification":
        """The model that is fitted."""
        return self.encoder.model

    @property
    def config(self) -> "LabelFusionConfig":
        """Its config, which receives thresholds and calibration."""
        return self.encoder.model.config

    @property
    def provider_names(self) -> list[str]:
        """P names."""
        return [str(provider.name) for provider in self.config.providers]

    @property
    def targets(self) -> Targets:
        """The labels as a tensor, with the weights of the rows if they have any."""
        labels = torch.from_numpy(self.labels)
        return labels if self.weights is None else Weighted(labels, torch.from_numpy(self.weights))

    @property
    def scored(self) -> NDArray[np.bool_]:
        """bool `(n,)`: rows with a score of at least one LLM."""
        return np.asarray(~np.isnan(self.llm_scores).any(axis=-1).all(axis=-1))

    @property
    def fusable(self) -> NDArray[np.bool_]:
        """bool `(n,)`: rows with LLM scores and out-of-fold encoder outputs; none if they are too few for a fit."""
        rows = self.scored & self.covered
        # If all rows share a fold, as duplicates of one text do, no rows are left to fit on.
        enough = rows.sum() >= min(2 * self.task.num_labels, 20) and len(np.unique(self.folds[rows])) > 1
        return rows & enough

    @property
    def encoder_answers(self) -> torch.Tensor:
        """float32 `(n, K)`: final out-of-fold logits of the encoder's side; 0 where not `covered`."""
        logits = self.encoder_logits.clone()
        if self.label_sets is not None:
            logits[self.covered] = self.label_sets(logits[self.covered])
        return logits

    @property
    def encoder_probs(self) -> NDArray[np.float64]:
        """float64 `(n, K)`: out-of-fold probabilities of the encoder's side; NaN where not `covered`."""
        probs = to_probabilities(self.encoder_answers.numpy(), self.task.multi_label)
        return np.where(self.covered[:, None], probs, np.nan)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """bool `(n,)`: rows on which the model is evaluated."""
        return self.covered if self.fused_logits is None else self.fusable

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """float64 `(m, K)`: out-of-fold probabilities of the model for the m rows `judged`."""
        logits = self.encoder_answers[self.covered] if self.fused_logits is None else self.fused_logits
        return to_probabilities(logits.numpy(), self.task.multi_label)

    def fusion_data(self) -> FusionData:
        """The data of the rows `fusable`, for fitting the fusion."""
        rows, model = torch.from_numpy(self.fusable), self.model
        baseline = model.baseline is not None  # combines answers
        targets = self.targets[rows]
        own = self.frozen and model.fusion_mlp is not None and len(self.embeddings) > 0
        return FusionData(
            (self.encoder_answers if baseline else self.encoder_logits)[rows],
            torch.from_numpy(self.llm_scores)[rows],
            bare_labels(targets),
            self.task.multi_label,
            self.config.score_floor,
            self.embeddings[rows, : self.config.hidden_size] if own else None,
            None if baseline or self.label_sets is None else self.label_sets.rows(rows[self.covered]),
            targets.weights if isinstance(targets, Weighted) else None,
        )

    def told(self, **entries: Any) -> Self:
        """Return the state with entries added to its report. Dicts are merged into existing ones."""
        report = dict(self.report)
        for name, value in entries.items():
            merged = isinstance(value, dict) and isinstance(report.get(name), dict)
            report[name] = report[name] | value if merged else value
        return replace(self, report=report)

    def metrics(self) -> dict[str, float]:
        """Metrics of the out-of-fold answers, rounded for the report. With votes, each text counts once."""
        config = self.config
        decisions = (self.task.multi_label, config.thresholds, config.min_labels)
        probs, labels = self.probabilities, self.labels[self.judged]
        if self.options.votes:
            texts = [text for text, judged in zip(self.texts, self.judged, strict=True) if judged]
            rows, labels = majority_labels(texts, labels, self.task.num_labels)
            probs = probs[rows]
        found = classification_metrics(probs, labels, *decisions) if len(labels) else {}
        return {name: round(value, 5) for name, value in found.items()}


def majority_labels(texts: list[str], labels: NDArray[Any], num_labels: int) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """The majority label of each distinct text with votes for several; those with a tie are left out.

    Args:
        texts: n texts, one for each vote.
        labels: int64 `(n,)` or 0/1 `(n, K)`: the votes.
        num_labels: K.

    Returns:
        The row of each text's first vote, int `(m,)`, and the labels of these texts, as `labels`.
    """
    _, first, text_of = np.unique(np.asarray(texts, dtype=object), return_index=True, return_inverse=True)
    votes = labels if labels.ndim == 2 else np.eye(num_labels)[labels]
    counts = np.zeros((len(first), num_labels))
    np.add.at(counts, text_of, votes)
    if labels.ndim == 2:
        number = np.bincount(text_of)[:, None]
        clear, chosen = (2 * counts != number).all(axis=1), (2 * counts > number).astype(labels.dtype)
    else:
        best = np.sort(counts, axis=1)
        clear, chosen = best[:, -1] > best[:, -2], counts.argmax(axis=1)
    return first[clear], chosen[clear]
