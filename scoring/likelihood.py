"""`LikelihoodScorer`, where self-contained repositories of every version look for it in the installed package."""

from .local.likelihood_scorer import LikelihoodScorer

__all__ = ["LikelihoodScorer"]
