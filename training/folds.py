"""Assigns stratified cross-validation folds, with duplicates of a text in the same fold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def assign_folds(
    labels: NDArray[Any], num_folds: int, groups: Sequence[str] | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Assign each row to a fold in `0 .. num_folds - 1`, with every class spread evenly.

    Args:
        labels: int `(n,)` classes, or 0/1 `(n, K)`, where the rarest class of a row is used.
        num_folds: Number of folds; at most n are used.
        groups: n group names; rows of one group (such as duplicates) share a fold. Default: one group per row.
        seed: Seed of the shuffling.

    Returns:
        int64 `(n,)`.
    """
    n = len(labels)
    num_folds = max(2, min(num_folds, n))
    rng = np.random.default_rng(seed)
    if labels.ndim == 2:  # the class that is hardest to spread
        rarity = labels.sum(axis=0)
        strata = np.where(labels.any(axis=1), np.where(labels > 0, rarity, np.inf).argmin(axis=1), labels.shape[1])
    else:
        strata = labels
    _, group_of = np.unique(np.arange(n) if groups is None else np.asarray(groups, dtype=object), return_inverse=True)
    folds = np.full(n, -1, dtype=np.int64)
    fold_of_group: dict[int, int] = {}
    turn = 0
    order = rng.permutation(n)
    for i in order[np.argsort(strata[order], kind="stable")]:
        group = int(group_of[i])
        if group not in fold_of_group:
            fold_of_group[group] = turn % num_folds
            turn += 1
        folds[i] = fold_of_group[group]
    return folds


def drop_last(parts: Sequence[NDArray[np.bool_]], gold: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Hold out one part less.

    Rows that are never held out have no out-of-fold outputs. Where only some rows are gold, these judge the sources, so
    those of the last part move to the first one.

    Args:
        parts: Two parts or more that are held out in turn, bool `(n,)` each.
        gold: bool `(n,)`: rows whose label is not an LLM's.
    """
    first, *others, last = parts
    return [first if gold.all() else first | (last & gold), *others]
