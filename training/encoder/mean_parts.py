"""The step of the recipe that stores the mean share of each part of the encoder's side, for explanations."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...evaluation.explanation.head_parts import head_parts, part_names
from ...modeling_labelfusion.encoding import evaluating

if TYPE_CHECKING:
    from ..fit_state import FitState

MOST_AVERAGED = 200  # rows; a trained encoder encodes them again


def average_parts(state: "FitState") -> "FitState":
    """Report what each layer and head adds to the logits on average, and how many rows each class has.

    An explanation compares a text with this average (`evaluation.explanation.source_shares`). No text is stored.
    """
    model, rng = state.model, np.random.default_rng(state.options.seed)
    rows = np.sort(rng.permutation(len(state.texts))[:MOST_AVERAGED])
    texts = [state.texts[i] for i in rows]
    embeddings = state.encoder.complete(texts, state.embeddings[rows]) if state.frozen else state.encoder(texts)
    with evaluating(model), torch.inference_mode():
        means = head_parts(model, embeddings.to(model.device, model.dtype)).double().mean(dim=0).cpu().tolist()
    named = {name: [round(x, 5) for x in row] for name, row in zip(part_names(model), means, strict=True)}
    labels = state.labels
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=state.task.num_labels)
    return state.told(mean_parts=named, class_rows=[int(n) for n in counts])
