"""What passes from step to step of the recipe: the rows, what has been found about them, and the report."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation.metrics import classification_metrics, softmax_or_sigmoid
from ..modeling_labelfusion.encoding import TextEncoder
from .fit_options import FitOptions
from .folds import assign_folds
from .fusion.fusion_data import FusionData
from .fusion.label_sets import LabelSets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..configuration import LabelFusionConfig
    from ..modeling_labelfusion import LabelFusionForSequenceClassification

NUM_FOLDS = 5


@dataclass(frozen=True)
class FitState:
    """A fit under way. A step of the recipe returns a new state; the model itself is fitted in place.

    n texts, K classes, P LLMs. *Out-of-fold*: by a fit that has not seen the row, in cross-validation.

    Args:
        encoder: The model that is fitted, with its tokenizer.
        texts: n texts.
        labels: int64 `(n,)`, or float32 `(n, K)` of 0/1.
        llm_scores: float32 `(n, P, K)`, NaN for missing; calibrated once their step is done.
        options: How the model is fitted.
        folds: int64 `(n,)`: the cross-validation fold of each row.
        embeddings: float32 `(n, pooled_size)` by the encoder before it is trained; `(0, 0)`: not yet computed.
        encoder_logits: float32 `(n, K)`, out-of-fold, by the encoder's heads; calibrated once their step is done.
        covered: bool `(n,)`: rows that have `encoder_logits`.
        frozen: Whether the encoder still is as it was pretrained, so that `embeddings` are its own.
        novelty: float32 `(n,)` in [0, 1], out-of-fold: how unlike the training texts a row is.
        label_sets: The out-of-fold label-set heads of the rows `covered`; `None`: classes are independent.
        fused_logits: float32 `(m, K)`, out-of-fold, of the m rows `fusable`; `None`: no fusion was fitted.
        report: What was measured and chosen: plain data for `config.fusion_report`.
    """

    encoder: TextEncoder
    texts: list[str]
    labels: NDArray[Any]
    llm_scores: NDArray[np.float32]
    options: FitOptions
    folds: NDArray[np.int64]
    encoder_logits: torch.Tensor
    covered: NDArray[np.bool_]
    novelty: NDArray[np.float32]
    embeddings: torch.Tensor
    frozen: bool = True
    label_sets: LabelSets | None = None
    fused_logits: torch.Tensor | None = None
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
    ) -> Self:
        """The state before the first step.

        Args:
            model: A model with a pretrained encoder.
            tokenizer: Its tokenizer.
            texts: n labelled texts.
            labels: int64 `(n,)` or float32 `(n, K)`.
            llm_scores: float32 `(n, P, K)`, NaN for missing; `None`: no scores at all.
            options: How the model is fitted.
            embeddings: float32 `(n, pooled_size)` of `encode_training_texts`, if they are there already.
        """
        config, n = model.config, len(texts)
        if llm_scores is None or config.num_providers == 0:
            llm_scores = np.full((n, config.num_providers, config.num_labels), np.nan, dtype=np.float32)
        state = cls(
            encoder=options.text_encoder(model, tokenizer),
            texts=texts,
            labels=labels,
            llm_scores=llm_scores,
            options=options,
            folds=assign_folds(labels, NUM_FOLDS, texts, options.seed),
            encoder_logits=torch.zeros(n, config.num_labels),
            covered=np.zeros(n, dtype=bool),
            novelty=np.zeros(n, dtype=np.float32),
            embeddings=torch.empty(0, 0) if embeddings is None else embeddings,
        )
        return replace(state, report={"rows": n, "scored_rows": int(state.scored.sum())})

    @property
    def model(self) -> "LabelFusionForSequenceClassification":
        """The model that is fitted."""
        return self.encoder.model

    @property
    def config(self) -> "LabelFusionConfig":
        """Its config, which receives thresholds and calibration."""
        return self.encoder.model.config

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several classes."""
        return self.config.multi_label

    @property
    def num_labels(self) -> int:
        """K."""
        return self.config.num_labels

    @property
    def provider_names(self) -> list[str]:
        """P names."""
        return [str(provider.name) for provider in self.config.providers]

    @property
    def targets(self) -> torch.Tensor:
        """The labels as a tensor."""
        return torch.from_numpy(self.labels)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """bool `(n,)`: rows with a score of at least one LLM."""
        return np.asarray(~np.isnan(self.llm_scores).any(axis=-1).all(axis=-1))

    @property
    def fusable(self) -> NDArray[np.bool_]:
        """bool `(n,)`: rows with LLM scores and out-of-fold encoder outputs; none where they are too few for a fit."""
        rows = self.scored & self.covered
        # Rows that share a fold, as those of one text do, leave none to fit on.
        enough = rows.sum() >= min(2 * self.num_labels, 20) and len(np.unique(self.folds[rows])) > 1
        return rows & enough

    @property
    def encoder_answers(self) -> torch.Tensor:
        """float32 `(n, K)`: the logits that the encoder's side answers with, out-of-fold; 0 where not `covered`."""
        logits = self.encoder_logits.clone()
        if self.label_sets is not None:
            logits[self.covered] = self.label_sets(logits[self.covered])
        return logits

    @property
    def encoder_probs(self) -> NDArray[np.float64]:
        """float64 `(n, K)`: the encoder's own out-of-fold probabilities; NaN where not `covered`."""
        probs = softmax_or_sigmoid(self.encoder_answers.numpy(), self.multi_label)
        return np.where(self.covered[:, None], probs, np.nan)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """bool `(n,)`: the rows that the model's answers are measured on."""
        return self.covered if self.fused_logits is None else self.fusable

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """float64 `(m, K)`: the model's out-of-fold answers to the m rows `judged`."""
        logits = self.encoder_answers[self.covered] if self.fused_logits is None else self.fused_logits
        return softmax_or_sigmoid(logits.numpy(), self.multi_label)

    def fusion_data(self) -> FusionData:
        """What the fusion is fitted on: the rows `fusable`."""
        rows, model = torch.from_numpy(self.fusable), self.model
        baseline = model.baseline is not None  # combines answers
        own = self.frozen and model.fusion_mlp is not None and len(self.embeddings) > 0
        return FusionData(
            (self.encoder_answers if baseline else self.encoder_logits)[rows],
            torch.from_numpy(self.llm_scores)[rows],
            self.targets[rows],
            self.multi_label,
            self.config.score_floor,
            self.embeddings[rows, : self.config.hidden_size] if own else None,
            None if baseline or self.label_sets is None else self.label_sets.rows(rows[self.covered]),
        )

    def told(self, **entries: Any) -> Self:
        """The state with more in its report; a dict is merged into the one that is there."""
        report = dict(self.report)
        for name, value in entries.items():
            merged = isinstance(value, dict) and isinstance(report.get(name), dict)
            report[name] = report[name] | value if merged else value
        return replace(self, report=report)

    def metrics(self) -> dict[str, float]:
        """Metrics of the out-of-fold answers, rounded for the report."""
        config = self.config
        decisions = (self.multi_label, config.thresholds, config.min_labels)
        found = classification_metrics(self.probabilities, self.labels[self.judged], *decisions)
        return {name: round(value, 5) for name, value in found.items()}
