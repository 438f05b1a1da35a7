"""Labels of the evaluated rows that are probably wrong."""

from typing import Any

import numpy as np

from .encoder_label_errors import suspected_by_encoder
from .label_errors import suspected_labels
from .measurement import Measurement

MOST_SUSPECT = 0.2  # share of the rows; where more labels look wrong, it is the model that is


def suspects(measured: Measurement) -> list[dict[str, Any]]:
    """Find wrong labels by confident learning; the model was not fitted on these rows.

    See `label_errors.suspected_labels`, and `encoder_label_errors.suspected_by_encoder` where no LLM answered. Rows
    with a class that the model does not know are left out.

    Returns:
        As these functions, with `row` as a position in the run; none if more than `MOST_SUSPECT` of the rows are
        suspect, because then the model is too weak to judge labels.
    """
    size, multi_label = measured.config.num_labels, measured.config.multi_label
    known = np.flatnonzero(~measured.truth[:, size:].any(axis=1))
    probs, scores = measured.result.encoder_probabilities[known], measured.result.llm_scores[known]
    labels = measured.labels[known]
    labels = labels[:, :size] if multi_label else labels
    if scores.shape[1] and measured.result.answered[known].any():
        found = suspected_labels(probs, scores, labels, multi_label)
    else:
        found = suspected_by_encoder(probs, labels, multi_label)
    if len(found) > MOST_SUSPECT * len(measured):
        return []
    return [{**entry, "row": int(known[entry["row"]])} for entry in found]
