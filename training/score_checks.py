"""The step of the recipe that warns of LLM scores that cannot help."""

from typing import TYPE_CHECKING

from ..evaluation.label_errors import check_class_order, check_quality

if TYPE_CHECKING:
    from .fit_state import FitState


def check_scores(state: "FitState") -> "FitState":
    """Warn of scores whose classes are in another order, or that are no better than the class frequencies."""
    names, scores, labels = state.provider_names, state.llm_scores, state.labels
    if not state.multi_label:
        check_class_order(scores, labels, state.config.label_names, names)
    check_quality(scores, labels, state.multi_label, names)
    return state
