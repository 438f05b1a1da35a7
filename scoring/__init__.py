"""Scores texts per class with LLMs. Heavy imports are lazy."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "ScoreBatch": ".score_batch",
    "Scorer": ".session.scorer",
    "TextScorer": ".session.scorer",
    "ScoringError": ".score_batch",
    "Usage": ".score_batch",
    "build_scorer": ".factory",
    "ascore_texts": ".session.runner",
    "run_sync": ".session.background",
    "score_texts": ".session.runner",
    "submit": ".session.background",
    "LikelihoodScorer": ".local.likelihood_scorer",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
