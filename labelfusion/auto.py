"""Old import path of `AutoFusionClassifier`, kept for existing pickles and programs; see `classifier`."""

from .classifier import AutoFusionClassifier

__all__ = ["AutoFusionClassifier"]
