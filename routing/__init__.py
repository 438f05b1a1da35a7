"""Decides for a saved model which texts are sent to the LLMs, and which answers are given.

Gate and policy choose the texts (selective querying); thresholds and conformal risk control turn probabilities into
answers. All of it is fitted in `training`.
"""
