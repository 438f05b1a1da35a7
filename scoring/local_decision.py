"""`LocalDecisionScorer`, where self-contained repositories of every version look for it in the installed package."""

from .local.decision_scorer import LocalDecisionScorer

__all__ = ["LocalDecisionScorer"]
