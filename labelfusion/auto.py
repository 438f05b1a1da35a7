"""The address of `AutoFusionClassifier` in pickles and programs of earlier versions; see `classifier`."""

from .classifier import AutoFusionClassifier

__all__ = ["AutoFusionClassifier"]
