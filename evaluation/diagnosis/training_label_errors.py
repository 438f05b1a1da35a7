"""Labels of the training data that are probably wrong, after `fit`."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .encoder_label_errors import suspected_by_encoder
from .label_errors import suspected_labels

# Out-of-fold probabilities `(n, K)`, LLM scores `(n, P, K)`, labels and row numbers of the training data.
Review: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float32] | None, NDArray[Any], NDArray[np.int64] | None]


def training_label_errors(review: Review, classes: list[Any], multi_label: bool) -> list[dict[str, Any]]:
    """See `FusionPredictor.suspected_labels`."""
    probs, scores, labels, rows = review
    if scores is None or scores.shape[1] == 0:
        found = suspected_by_encoder(probs, labels, multi_label)
    else:
        found = suspected_labels(probs, scores, labels, multi_label)
    for entry in found:
        entry["row"] = entry["row"] if rows is None else int(rows[entry["row"]])
        for name in ("given", "suggested"):
            named = [classes[k] for k in entry[name]]
            entry[name] = named if multi_label else named[0]
    return found
