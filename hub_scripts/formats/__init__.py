"""Saved models in other formats: a self-contained repository with its code, and ONNX."""
