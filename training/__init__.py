"""From labelled texts to a fitted model: data, `LabelFusionTrainer`, out-of-fold fusion, calibration, metrics."""
