"""Which training rows are sent to the LLM where not all of them can be paid for (active learning)."""

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
    """The order in which rows are to be scored; wherever money runs out, what has been scored is a good sample.

    Rows that the encoder is unsure of tell most about how far to trust the LLM against it (uncertainty sampling, Lewis
    and Gale 1994), but of these alone the fusion would learn nothing of the others. So rows are drawn without
    replacement, half evenly and half in proportion to the encoder's expected error (importance-weighted active
    learning, Beygelzimer et al. 2009, arXiv:0812.4952; drawn as by Efraimidis and Spirakis 2006). What is then measured
    on them is measured on harder rows than the average: accuracies, and guarantees about them, err on the safe side.

    Args:
        encoder_probs: float `(n, K)`, out-of-fold; `None`: rows are drawn evenly.
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
    """What a linear head on frozen embeddings says of each row that it has not seen: float64 `(n, K)`.

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
