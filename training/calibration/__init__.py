"""Calibration of the sources and the fused answer, thresholds, gate and conformal risk control."""
