"""Makes the fusion robust: rows on which the LLMs answer worse than they did, as they may on new texts."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .fusion_data import FusionData

DRIFT = 0.03  # share of new texts on which answers that were right are expected to be wrong
ERRORS = 0.5  # standard errors of an LLM's accuracy on the scored rows that are added to it


def wrong_answers(scores: NDArray[np.floating], labels: NDArray[Any], seed: int = 0) -> NDArray[np.floating]:
    """For each text and LLM, a wrong answer that the LLM gave to another text.

    Args:
        scores: float `(n, P, K)`, NaN for missing.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        seed: Of the choice.

    Returns:
        float `(n, P, K)`: the scores of other texts. Texts for which an LLM has no such answer keep theirs.
    """
    rng, found = np.random.default_rng(seed), scores.copy()
    truth = labels > 0 if labels.ndim == 2 else np.eye(scores.shape[2], dtype=bool)[labels]
    for p in range(scores.shape[1]):
        own = scores[:, p]
        answered = np.flatnonzero(~np.isnan(own).any(axis=1))
        said = own > 0.5 if labels.ndim == 2 else np.eye(own.shape[1], dtype=bool)[np.nan_to_num(own).argmax(axis=1)]
        wrong = answered[(said[answered] != truth[answered]).any(axis=1)]
        for candidates in (wrong, answered):  # an LLM without errors: right answers to texts of other classes
            left = answered
            for _ in range(20):
                if not len(candidates) or not len(left):
                    break
                donor = rng.choice(candidates, len(left))
                fits = (said[donor] != truth[left]).any(axis=1)
                found[left[fits], p] = own[donor[fits]]
                left = left[~fits]
            if not len(left):
                break
            answered = left
    return found


def expected_drift(data: FusionData) -> float:
    """The share of new texts on which right answers are expected to be wrong, from the accuracy of the best LLM."""
    rates = []
    for p in range(data.llm_scores.shape[1]):
        here = data.mask[:, p] > 0
        says, labels = data.llm_scores[here, p], data.labels[here]
        right = ((says > 0.5) == (labels > 0)).all(dim=1) if data.multi_label else says.argmax(dim=1) == labels
        accuracy = (float(right.sum()) + 1) / (len(right) + 2)
        rates.append((accuracy, (accuracy * (1 - accuracy) / (len(right) + 2)) ** 0.5))
    return min(DRIFT + ERRORS * max(rates)[1], 0.5)


def with_worse_answers(data: FusionData) -> FusionData:
    """Each row twice: with its answers, and with wrong ones; a fit on it minimises the loss that is then expected.

    This is distributionally robust: the LLMs are taken to be worse in use than on the n scored rows, by a fixed share
    and by what the number of rows leaves uncertain. So the LLMs get less weight against an encoder that is nearly as
    good, and nearly the same weight against a poor one.

    Args:
        data: n rows.

    Returns:
        2 n rows, first those of `data`. The weights of a row and its copy add up to the weight of the row.
    """
    n, drift = len(data.labels), expected_drift(data)
    both = data.rows(torch.arange(n).repeat(2))
    weights = torch.ones(n) if data.weights is None else data.weights
    worse = wrong_answers(data.llm_scores.numpy(), data.labels.numpy())
    return replace(
        both,
        llm_scores=torch.cat([data.llm_scores, torch.from_numpy(worse)]),
        weights=torch.cat([(1 - drift) * weights, drift * weights]),
    )


def by_row(losses: torch.Tensor) -> torch.Tensor:
    """float `(n,)`: the weighted losses `(2 n,)` of each row and its copy, added."""
    return losses.unflatten(0, (2, -1)).sum(dim=0)
