"""The answers of a run as columns: what `labelfusion predict` adds to each row, and their Arrow types."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..routing.decisions import decide
from ..routing.risk import RiskControl
from .formatting import hold_back, source_names, why_abstained
from .inference_result import Inference

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class AnswerColumns:
    """Which columns a run adds, and what is in them.

    Args:
        config: The model's config.
        classes: K class names or numbers, as the training data spelt them.
        top_k: Add `top_k`: the k best classes and their probabilities.
        with_sources: Add `llm_called`, `cost_usd`, `llm_missing` and `sources`: what each source said.
        control: Add `abstained`, `abstained_why` and `label_set`, and hold doubtful answers back.
    """

    config: LabelFusionConfig
    classes: list[Any]
    top_k: int | None = None
    with_sources: bool = False
    control: RiskControl | None = None

    @property
    def label(self) -> str:
        """The name of the column with the answer."""
        return "predicted_labels" if self.config.multi_label else "predicted_label"

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        columns = [self.label, "score"]
        columns += ["abstained", "abstained_why", "label_set"] if self.control is not None else []
        columns += ["top_k"] if self.top_k is not None else []
        return columns + (["llm_called", "cost_usd", "llm_missing", "sources"] if self.with_sources else [])

    def rows(self, part: Inference) -> Iterator[dict[str, Any]]:
        """The columns of each row of `part`. `sources` is a dict."""
        config, classes = self.config, self.classes
        probabilities, encoder = part.probabilities, part.encoder_probabilities
        order = np.argsort(-probabilities, axis=1, kind="stable")
        decided = decide(probabilities, config.decision_rule) if config.multi_label else None
        names, providers = config.label_names, source_names(config)
        if self.control is not None:
            answered, sets = hold_back(part, config, self.control)
            reasons = why_abstained(part, self.control, answered)
        for i, p in enumerate(probabilities):
            answer: dict[str, Any]
            no_text = bool(np.isnan(p).any())
            if no_text:
                answer = {self.label: None, "score": None}
            elif decided is None:
                best = int(order[i, 0])
                answer = {"predicted_label": classes[best], "score": _rounded(p[best])}
            else:
                chosen = [int(k) for k in order[i] if decided[i, k]]
                answer = {"predicted_labels": [classes[k] for k in chosen], "score": [_rounded(p[k]) for k in chosen]}
            if self.control is not None:
                if not answered[i]:
                    answer[self.label] = None
                answer |= {"abstained": not answered[i], "abstained_why": reasons[i]}
                answer["label_set"] = [classes[k] for k in order[i] if sets[i, k]]
            if self.top_k is not None:
                best_k = [{"label": names[k], "score": _rounded(p[k])} for k in order[i, : self.top_k]]
                answer["top_k"] = None if no_text else best_k
            if self.with_sources:
                sources: dict[str, Any] = {"encoder": None if no_text else _by_name(names, encoder[i])}
                for name, scores in zip(providers, part.llm_scores[i], strict=True):
                    sources[name] = None if np.isnan(scores).any() else _by_name(names, scores)
                answer |= {"llm_called": bool(part.llm_called[i]), "cost_usd": float(part.cost_usd[i])}
                answer["llm_missing"] = part.errors.get(i)
                answer["sources"] = sources
            yield answer

    def arrow_fields(self) -> "list[pa.Field]":
        """The columns' Arrow types: the same whatever the rows hold. `sources` is JSON."""
        import pyarrow as pa

        kind = pa.array(self.classes).type
        number = pa.float64()
        several = self.config.multi_label
        types = {
            self.label: pa.list_(kind) if several else kind,
            "score": pa.list_(number) if several else number,
            "abstained": pa.bool_(),
            "abstained_why": pa.string(),
            "label_set": pa.list_(kind),
            "top_k": pa.list_(pa.struct({"label": pa.string(), "score": number})),
            "llm_called": pa.bool_(),
            "cost_usd": number,
            "llm_missing": pa.string(),
            "sources": pa.string(),
        }
        return [pa.field(name, types[name]) for name in self.names]


def _by_name(names: list[str], probabilities: NDArray[np.float32]) -> dict[str, float]:
    return {name: _rounded(p) for name, p in zip(names, probabilities, strict=True)}


def _rounded(p: Any) -> float:
    return round(float(p), 6)
