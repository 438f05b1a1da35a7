"""Batch APIs: questions that are answered within a day, at half the price."""
