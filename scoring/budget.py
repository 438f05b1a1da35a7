"""`Budget`, a limit in US dollars that several calls may share."""

from .session.dollar_budget import Budget, BudgetReachedError, as_budget

__all__ = ["Budget", "BudgetReachedError", "as_budget"]
