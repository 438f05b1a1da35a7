"""Model cards: use, evaluation, cost, and what a user must have."""
