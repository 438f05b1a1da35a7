"""Finds labels of the training data that are probably wrong."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def suspected_labels(
    encoder_probs: NDArray[np.floating],
    llm_scores: NDArray[np.floating],
    labels: NDArray[Any],
    multi_label: bool,
) -> list[dict[str, Any]]:
    """Find rows where the encoder (out of sample) and the LLM agree on classes that differ from the label.

    The two sources make different errors, so their agreement is evidence against the label. This is confident learning
    (Northcutt et al. 2021, arXiv:1911.00068) with a second source in place of class thresholds.

    Args:
        encoder_probs: float `(n, K)`, out of sample and calibrated; NaN for unknown.
        llm_scores: float `(n, P, K)`, NaN for missing; the mean over the LLMs is used.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        multi_label: Whether the classes are independent.

    Returns:
        For each such row, the most suspect first: `row`, `given` and `suggested` (lists of class indices), and for
        `encoder` and `llm` the probabilities of the given and of the suggested label. For multi-label, this is the
        lowest probability among the classes in which the two differ.
    """
    there = ~np.isnan(llm_scores).any(axis=2)[:, :, None]
    known = there.any(axis=(1, 2)) & ~np.isnan(encoder_probs).any(axis=1)
    llm = np.where(there, llm_scores, 0.0).sum(axis=1) / there.sum(axis=1).clip(1)
    num_labels = encoder_probs.shape[1]
    given = labels > 0 if multi_label else np.eye(num_labels, dtype=bool)[labels]
    if multi_label:
        against = ((encoder_probs > 0.5) == (llm > 0.5)) & ((llm > 0.5) != given)
        suggested = given ^ against
    else:
        agreed = np.eye(num_labels, dtype=bool)[encoder_probs.argmax(axis=1)]
        agreed &= np.eye(num_labels, dtype=bool)[llm.argmax(axis=1)]
        suggested = np.where(agreed.any(axis=1, keepdims=True), agreed, given)
    found = []
    for row in np.flatnonzero(known & (suggested != given).any(axis=1)):
        entry: dict[str, Any] = {
            "row": int(row),
            "given": np.flatnonzero(given[row]).tolist(),
            "suggested": np.flatnonzero(suggested[row]).tolist(),
        }
        for name, probs in (("encoder", encoder_probs[row]), ("llm", llm[row])):
            for kind, classes in (("given", given[row]), ("suggested", suggested[row])):
                entry[f"{name}_{kind}"] = _probability(probs, classes, given[row] != suggested[row], multi_label)
        found.append(entry)
    return sorted(found, key=lambda e: (e["encoder_given"] * e["llm_given"], e["encoder_given"], e["row"]))


def _probability(
    probs: NDArray[np.floating], classes: NDArray[np.bool_], differ: NDArray[np.bool_], multi_label: bool
) -> float:
    if not multi_label:
        return round(float(probs[classes][0]), 5)
    return round(float(np.where(classes, probs, 1.0 - probs)[differ].min()), 5)
