"""Finds LLM scores whose columns are in another order than the classes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_ANSWERS = 30  # of an LLM, for a warning


@dataclass(frozen=True)
class OtherOrder:
    """An order of the classes that fits the scores far better.

    Args:
        order: int64 `(K,)`: the class that column k seems to mean.
        now: Share of the texts whose class the scores name as they are.
        then: The same share in the other order.
    """

    order: NDArray[np.int64]
    now: float
    then: float

    def sentence(self, provider: str, classes: list[str]) -> str:
        """What seems wrong, and what to do."""
        means = ", ".join(classes[k] for k in self.order)
        return (
            f"The scores of {provider!r} seem to be in another order of the classes: as {', '.join(classes)} they name "
            f"the right class for {100 * self.now:.0f} % of the texts, as {means} for {100 * self.then:.0f} %. Give "
            "`labels` in the order of the scores."
        )


def other_order(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> OtherOrder | None:
    """Find the order in which scores fit the labels, if they do not as they are.

    Args:
        scores: float `(n, K)`, NaN for missing.
        labels: int64 `(n,)`; a class from K on is unknown to the scores.
    """
    from scipy.optimize import linear_sum_assignment

    size = scores.shape[1]
    heard = ~np.isnan(scores).any(axis=1) & (labels < size)
    counts = np.zeros((size, size))
    np.add.at(counts, (scores[heard].argmax(axis=1), labels[heard]), 1)
    columns, means = linear_sum_assignment(-counts)
    total, now, then = heard.sum(), np.trace(counts), counts[columns, means].sum()
    if total < FEWEST_ANSWERS or then <= 0.5 * total or now >= then / 3:
        return None
    return OtherOrder(means, float(now / total), float(then / total))
