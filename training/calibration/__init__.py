"""Calibration of sources and answer, and what depends on it: thresholds, gate and conformal risk control."""
