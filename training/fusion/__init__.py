"""The fusion of encoder and LLMs, fitted on out-of-fold outputs: log-linear pool, MLP, baselines, label sets."""
