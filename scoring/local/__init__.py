"""Scores of models that run in this process."""
