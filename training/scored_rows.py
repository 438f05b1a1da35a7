"""Selects the training rows to send to the LLM if the budget does not cover all (active learning)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..evaluation.metrics import softmax_or_sigmoid
from ..routing.gate import expected_error
from .encoder.probe import fit_probe
from .folds import assign_folds


def scoring_order(
    encoder_probs: NDArray[np.floating] | None, num_rows: int, multi_label: bool, seed: int = 0
) -> NDArray[np.intp]:
    """Order rows for scoring, so that the rows scored before the budget is spent are a good sample.

    Rows where the encoder is uncertain are the most informative about the relative weight of the LLM (uncertainty
    sampling, Lewis and Gale 1994), but on these alone the fusion would learn nothing about the others. So rows are
    drawn without replacement, half uniformly and half in proportion to the encoder's expected error
    (importance-weighted active learning, Beygelzimer et al. 2009, arXiv:0812.4952; drawn as in Efraimidis and Spirakis
    2006). The scored rows are harder than the average, so accuracies and guarantees measured on them are conservative.

    Args:
        encoder_probs: float `(n, K)`, out-of-fold; `None`: rows are drawn uniformly.
        num_rows: n.
        multi_label: Whether the classes are independent.
        seed: Seed of the draw.

    Returns:
        int `(n,)`: row indices.
    """
    weights = np.ones(num_rows)
    if encoder_probs is not None and num_rows:
        doubt = expected_error(encoder_probs, multi_label)
        weights = doubt + max(float(doubt.mean()), 1e-6)
    return np.argsort(np.random.default_rng(seed).exponential(size=num_rows) / weights, kind="stable")


def first_guess(
    embeddings: torch.Tensor, labels: NDArray[Any], num_labels: int, texts: Sequence[str] | None = None, seed: int = 0
) -> NDArray[np.float64]:
    """Out-of-fold probabilities of a linear head on frozen embeddings: float64 `(n, K)`.

    Args:
        embeddings: float32 `(n, hidden)`.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        num_labels: K.
        texts: n texts; duplicates share a fold.
        seed: Seed of the folds.
    """
    multi_label = labels.ndim == 2
    folds = assign_folds(labels, 3, texts, seed)
    probe = fit_probe(embeddings, torch.from_numpy(labels), folds, num_labels, multi_label)
    return softmax_or_sigmoid(probe.out_of_fold_logits.numpy(), multi_label)
