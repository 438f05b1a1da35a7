"""Combines the labels that several LLMs give to texts, without knowing the right ones (a label model).

Two ways: the mean of the LLMs' log-probabilities (log-linear pool with equal weights), and the model of Dawid and Skene
(1979), "Maximum likelihood estimation of observer error-rates using the EM algorithm", which estimates how often each
LLM gives class k for a text of class j.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABEL_MODELS = ("auto", "mean", "dawid_skene")
FEWEST_LLMS = 3  # for `dawid_skene`: of two LLMs that disagree, nothing tells which one errs
FLOOR = 0.02  # of an LLM's probabilities, whose certainty nobody has checked
SPREAD, RIGHT = 1.0, 4.0  # pseudo texts in each cell of a confusion matrix, and more of them where it is right
TIE = 1e-6


def choose_label_model(wanted: str, num_providers: int, multi_label: bool) -> str:
    """`"mean"` or `"dawid_skene"`; `"auto"` takes the latter for one class a text and three LLMs or more."""
    if wanted != "auto":
        return wanted
    return "dawid_skene" if num_providers >= FEWEST_LLMS and not multi_label else "mean"


def mean_logits(scores: NDArray[np.floating], multi_label: bool) -> NDArray[np.float64]:
    """Mean over the LLMs of log-probabilities (multi-label: logits): `(n, P, K)`, NaN for missing, to `(n, K)`."""
    p = np.clip(scores.astype(np.float64), FLOOR, 1 - FLOOR)
    logits = np.log(p) - np.log1p(-p) if multi_label else np.log(p)
    answered = ~np.isnan(scores).any(axis=2)
    return np.where(answered[..., None], logits, 0.0).sum(axis=1) / np.maximum(answered.sum(axis=1), 1)[:, None]


@dataclass
class Confusions:
    """What `dawid_skene` estimates.

    Args:
        probabilities: float64 `(n, K)`: of each text's class.
        matrices: float64 `(P, K, K)`: probability that LLM p answers k for a text of class j.
        shares: float64 `(K,)`: of the classes.
    """

    probabilities: NDArray[np.float64]
    matrices: NDArray[np.float64]
    shares: NDArray[np.float64]

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """float64 `(P,)`: the LLMs' accuracies, as estimated from how they agree."""
        found = self.probabilities.mean(axis=0)
        return np.einsum("j,pjj->p", found, self.matrices)


def dawid_skene(
    scores: NDArray[np.floating],
    gold: NDArray[np.int64] | None = None,
    *,
    spread: float = SPREAD,
    right: float = RIGHT,
    estimate_shares: bool = False,
    max_iter: int = 200,
) -> Confusions:
    """Fit the model of Dawid and Skene by EM, with soft answers and a Dirichlet prior on each confusion matrix.

    Classes are taken as equally frequent, unless `estimate_shares`: estimated shares let EM drop a rare class that only
    one LLM recognises. An LLM's soft answer counts as that share of an answer.

    Args:
        scores: float `(n, P, K)`, NaN for missing; each row adds up to 1.
        gold: int64 `(n,)`: known classes, -1 for unknown.
        spread: Pseudo texts in each cell of a confusion matrix.
        right: More pseudo texts on its diagonal.
        estimate_shares: Estimate the shares of the classes too.
        max_iter: Most rounds of EM.
    """
    num_labels = scores.shape[2]
    votes = np.where(np.isnan(scores).any(axis=2)[..., None], 0.0, scores.astype(np.float64))
    prior = np.full((num_labels, num_labels), spread) + right * np.eye(num_labels)
    shares = np.full(num_labels, 1 / num_labels)
    sure = np.flatnonzero(gold >= 0) if gold is not None else np.arange(0)
    known = np.eye(num_labels)[gold[sure]] if gold is not None else np.empty((0, num_labels))
    probs = _posterior(mean_logits(scores, False))
    for _ in range(max_iter):
        probs[sure] = known
        matrices = prior + np.einsum("nj,npk->pjk", probs, votes)
        matrices /= matrices.sum(axis=2, keepdims=True)
        if estimate_shares:
            shares = (1 + probs.sum(axis=0)) / (num_labels + len(probs))
        new = _posterior(np.log(shares) + np.einsum("npk,pjk->nj", votes, np.log(matrices)))
        new[sure] = known
        moved, probs = np.abs(new - probs).max(initial=0.0), new
        if moved < TIE:
            break
    return Confusions(probs, matrices, shares)


def _posterior(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def combine_answers(
    scores: NDArray[np.floating], multi_label: bool, method: str = "auto", gold: NDArray[Any] | None = None
) -> tuple[NDArray[np.float64], list[float] | None]:
    """Combine the labels of the LLMs.

    Args:
        scores: float `(n, P, K)`, NaN for missing.
        multi_label: Whether the classes are independent. `"dawid_skene"` then takes one class at a time, and estimates
            how frequent it is.
        method: One of `LABEL_MODELS`.
        gold: int64 or 0/1 float labels of the first rows, which are known.

    Returns:
        Log-probabilities (multi-label: logits) float64 `(n, K)`, up to a constant per row; and, by Dawid and Skene,
        the estimated accuracy of each LLM (multi-label: the mean over the classes).
    """
    if choose_label_model(method, scores.shape[1], multi_label) == "mean":
        return mean_logits(scores, multi_label), None
    count = 0 if gold is None else len(gold)

    def known(labels: NDArray[Any] | None) -> NDArray[np.int64]:
        rest = np.full(len(scores) - count, -1)
        return rest if labels is None else np.concatenate([labels.astype(np.int64), rest])

    if not multi_label:
        found = dawid_skene(scores, known(gold))
        return np.log(found.probabilities.clip(1e-12)), found.accuracies.tolist()
    by_class = [
        dawid_skene(
            np.stack([1 - scores[..., k], scores[..., k]], axis=-1),
            known(None if gold is None else gold[:, k]),
            right=SPREAD,
            estimate_shares=True,
        )
        for k in range(scores.shape[2])
    ]
    logits = np.stack([np.log(f.probabilities.clip(1e-12)) @ [-1.0, 1.0] for f in by_class], axis=1)
    return logits, np.mean([f.accuracies for f in by_class], axis=0).tolist()
