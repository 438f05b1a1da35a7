"""What is classified, and how probabilities become labels: two groups of values that travel together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configuration_labelfusion import LabelFusionConfig


@dataclass(frozen=True)
class Task:
    """A classification task with K classes.

    Args:
        labels: K class names, in the order of the logits and scores.
        multi_label: Whether several classes may be right at once.
        descriptions: `{class name: description}` for prompts; classes without one are left out.
    """

    labels: Sequence[str]
    multi_label: bool = False
    descriptions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: "LabelFusionConfig") -> "Task":
        """The task of a model."""
        return cls(config.label_names, config.multi_label, dict(config.class_descriptions or {}))

    @property
    def num_labels(self) -> int:
        """K."""
        return len(self.labels)


@dataclass(frozen=True)
class DecisionRule:
    """How probabilities become labels in multi-label classification.

    Args:
        thresholds: K probabilities from which each class is predicted. `None`: 0.5 for all.
        min_labels: Fewest classes predicted for a text: the likeliest ones, where too few reach their threshold.
    """

    thresholds: Sequence[float] | None = None
    min_labels: int = 0
