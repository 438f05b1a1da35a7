"""Model cards: use, evaluation, cost and requirements."""
