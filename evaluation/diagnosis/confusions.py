"""Which classes are taken for which others, and every error with its text."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measurement import Measurement


def confused_pairs(truth: NDArray[np.bool_], decided: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int64 `(K, K)`: rows where class i is true and missed, and class j is wrongly given instead."""
    counts = (truth & ~decided).T.astype(np.float64) @ (decided & ~truth).astype(np.float64)  # fast, and exact
    return counts.astype(np.int64)


def pair_list(measured: Measurement, most: int = 10) -> list[dict[str, Any]]:
    """The most frequent confusions of the fusion: `truth`, `predicted`, `rows`, and their `share` of the true class."""
    counts = confused_pairs(measured.truth, measured.sources[0].decided)
    support, size = measured.truth.sum(axis=0), len(counts)
    order = [divmod(int(i), size) for i in np.argsort(-counts, axis=None, kind="stable")[:most]]
    names = measured.classes
    return [
        {"truth": names[t], "predicted": names[p], "rows": int(counts[t, p]), "share": float(counts[t, p] / support[t])}
        for t, p in order
        if counts[t, p]
    ]


def error_confidence(measured: Measurement) -> NDArray[np.float64]:
    """float64 `(n,)`: how sure the fusion is of its error in each row; 0 where it is right.

    The probability of the predicted class; multi-label: of the most certain class that is wrongly given, 0 where
    classes are only missed.
    """
    fusion = measured.sources[0]
    given = fusion.decided & ~measured.truth
    return np.asarray(np.where(given, fusion.probabilities, 0.0).max(axis=1), dtype=np.float64)


def error_rows(measured: Measurement) -> NDArray[np.intp]:
    """Positions of the rows that the fusion has wrong, the most confident errors first."""
    fusion, rows = measured.sources[0], np.flatnonzero(measured.wrong)
    missed = np.where(measured.truth & ~fusion.decided, 1.0 - fusion.probabilities, 0.0).max(axis=1)
    return np.asarray(rows[np.lexsort((-missed[rows], -error_confidence(measured)[rows]))])


def list_errors(measured: Measurement, most: int | None = None) -> list[dict[str, Any]]:
    """Every error of the fusion with its text, the most confident ones first.

    Args:
        measured: The run.
        most: Number of errors; None: all.

    Returns:
        For each, `row` (index in the data), `text`, `truth` and `predicted` (a class; multi-label: lists), `confidence`
        (see `error_confidence`), `novelty` and `sources`: by name, what the source predicts, and its probabilities of
        the classes in question; None without an answer.
    """
    confidence, multi_label = error_confidence(measured), measured.config.multi_label
    found = []
    for i in error_rows(measured)[:most]:
        truth, decided = measured.truth[i], measured.sources[0].decided[i]
        asked = np.flatnonzero(truth | decided)
        sources: dict[str, Any] = {}
        for source in measured.sources:
            if np.isnan(source.probabilities[i]).any():
                sources[source.name] = None
                continue
            probs = {measured.classes[k]: round(float(source.probabilities[i, k]), 5) for k in asked}
            predicted = measured.names(source.decided[i])
            sources[source.name] = {"predicted": predicted if multi_label else predicted[0], "probabilities": probs}
        true, said = measured.names(truth), measured.names(decided)
        entry = {"row": measured.row(i), "text": measured.table.texts[i]}
        entry |= {"truth": true if multi_label else true[0], "predicted": said if multi_label else said[0]}
        entry |= {"confidence": round(float(confidence[i]), 5), "novelty": round(float(measured.result.novelty[i]), 5)}
        found.append({**entry, "sources": sources})
    return found
