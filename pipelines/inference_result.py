"""Results of inference, with costs and errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..scoring.probabilities import to_probabilities


@dataclass
class Inference:
    """Results for n texts, with the LLM scores used.

    Args:
        logits: float32 `(n, num_labels)`: fused, calibrated.
        encoder_logits: float32 `(n, num_labels)`: of the encoder alone, calibrated.
        llm_scores: float32 `(n, num_providers, num_labels)` as used, NaN for missing.
        llm_called: bool `(n,)`: whether an LLM was queried in this run; scores given with the text do not count.
        cost_usd: float64 `(n,)`: US dollars spent on each text. The price of a request is split evenly over its texts.
        multi_label: Whether the classes are independent.
        errors: `{row: reason}` of wanted answers that are missing. Contains no texts.
        novelty: float32 `(n,)`: out-of-distribution score, 0 for texts like the training texts, 1 for texts unlike any;
            NaN for texts that the encoder has not read (`speed`).
        wanted: bool `(n, num_providers)`: whether the policy wanted the provider's scores, queried or given with
            the text.
        late_cost_usd: US dollars of answers that were late, or second to a hedged request, up to the end of this part
            of the run. They are not in `cost_usd`. Answers after the end of the run are only in the score store.
    """

    logits: NDArray[np.float32]
    encoder_logits: NDArray[np.float32]
    llm_scores: NDArray[np.float32]
    llm_called: NDArray[np.bool_]
    cost_usd: NDArray[np.float64]
    multi_label: bool = False
    errors: dict[int, str] = field(default_factory=dict)
    novelty: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    wanted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    late_cost_usd: float = 0.0

    def __post_init__(self) -> None:
        self.novelty = self.novelty if len(self.novelty) else np.zeros(len(self), dtype=np.float32)
        self.wanted = self.wanted if len(self.wanted) else np.zeros(self.llm_scores.shape[:2], dtype=bool)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32 `(n, num_labels)` of the fusion."""
        return to_probabilities(self.logits, self.multi_label, np.float32)

    @property
    def encoder_probabilities(self) -> NDArray[np.float32]:
        """float32 `(n, num_labels)` of the encoder alone."""
        return to_probabilities(self.encoder_logits, self.multi_label, np.float32)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """bool `(n, num_providers)`: whether the provider's scores were used."""
        missing: NDArray[np.bool_] = np.isnan(self.llm_scores)
        return np.asarray(~missing.any(axis=2))

    @classmethod
    def concatenate(cls, parts: Sequence["Inference"]) -> "Inference":
        """Put the parts of a run together (one at least)."""
        if len(parts) == 1:
            return parts[0]
        arrays = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(cls)
            if f.name not in ("multi_label", "errors", "late_cost_usd")
        }
        errors: dict[int, str] = {}
        start = 0
        for part in parts:
            errors.update({start + row: reason for row, reason in part.errors.items()})
            start += len(part)
        late = sum(part.late_cost_usd for part in parts)
        return cls(**arrays, multi_label=parts[0].multi_label, errors=errors, late_cost_usd=late)

    @classmethod
    def empty(cls, config: LabelFusionConfig) -> "Inference":
        """The result for no texts."""
        logits = np.zeros((0, config.num_labels), dtype=np.float32)
        scores = np.zeros((0, config.num_providers, config.num_labels), dtype=np.float32)
        return cls(logits, logits, scores, np.zeros(0, dtype=bool), np.zeros(0), config.multi_label)

    @property
    def total_cost_usd(self) -> float:
        """US dollars spent, including `late_cost_usd`."""
        return float(self.cost_usd.sum()) + self.late_cost_usd
