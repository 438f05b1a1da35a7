"""Finds labels that are probably wrong where there is no LLM: by the encoder's out-of-fold probabilities alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def suspected_by_encoder(
    encoder_probs: NDArray[np.floating], labels: NDArray[Any], multi_label: bool
) -> list[dict[str, Any]]:
    """Confident learning (Northcutt et al. 2021, arXiv:1911.00068).

    A class is likely for a row if its probability is at least the mean probability of this class among the rows
    labelled with it. A row is suspect if the most probable of its likely classes is not its label. For multi-label,
    each class is judged for itself.

    Args:
        encoder_probs: float `(n, K)`, out of sample and calibrated; NaN for unknown.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        multi_label: Whether the classes are independent.

    Returns:
        As `label_errors.suspected_labels`, with None for the probabilities of the LLM.
    """
    known = np.flatnonzero(~np.isnan(encoder_probs).any(axis=1))
    probs = encoder_probs[known].astype(np.float64)
    found: list[dict[str, Any]] = []
    if len(known) == 0:
        return found
    num_labels = probs.shape[1]
    given = labels[known] > 0 if multi_label else np.eye(num_labels, dtype=bool)[labels[known]]
    if multi_label:
        suggested = np.where(given, ~(1 - probs >= _mean(1 - probs, ~given)), probs >= _mean(probs, given))
        own = np.where(given, probs, 1 - probs)
    else:
        likely = np.where(probs >= _mean(probs, given), probs, -1.0)
        best = np.eye(num_labels, dtype=bool)[likely.argmax(axis=1)]
        suggested = np.where((likely >= 0).any(axis=1, keepdims=True), best, given)
        own = probs
    for i in np.flatnonzero((suggested != given).any(axis=1)):
        differ = given[i] != suggested[i]
        ours = own[i, differ].min() if multi_label else probs[i, given[i]][0]
        other = (1 - own[i, differ]).min() if multi_label else probs[i, suggested[i]][0]
        entry: dict[str, Any] = {"row": int(known[i])}
        entry |= {"given": np.flatnonzero(given[i]).tolist(), "suggested": np.flatnonzero(suggested[i]).tolist()}
        entry |= {"encoder_given": round(float(ours), 5), "encoder_suggested": round(float(other), 5)}
        found.append({**entry, "llm_given": None, "llm_suggested": None})
    return sorted(found, key=lambda e: (e["encoder_given"], e["row"]))


def _mean(probs: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 `(K,)`: mean of each column over its rows; infinity without rows."""
    count = rows.sum(axis=0)
    return np.divide((probs * rows).sum(axis=0), count, out=np.full(len(count), np.inf), where=count > 0)
