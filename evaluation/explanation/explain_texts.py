"""Explains the answers of a classifier."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...modeling_labelfusion.encoding import TextEncoder
from ...pipelines.formatting import source_names
from ...routing.decisions import decided_classes
from .explanation import Explanation
from .nearest_texts import nearest_texts
from .source_shares import share_names, source_shares
from .words_left_out import leave_words_out

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

    from ...pipelines.inference_result import Inference


def explain_texts(
    clf: "AutoFusionClassifier", texts: Any, examples: Any, count: int, words: bool, label: str | None, options: Any
) -> list[Explanation | None]:
    """See `FusionPredictor.explain`. None for a text that is missing, with `empty_texts="skip"`."""
    config, classes = clf.model_.config, clf.model_.config.label_names
    if label is not None and str(label) not in classes:
        raise ValueError(f"`label` is {label!r}; the classes are {', '.join(classes)}.")
    if count < 1:
        raise ValueError(f"`nearest` must be 1 or more, got {count}.")
    known = clf._prepare_measured(examples) if examples is not None else None  # before any paid request
    table = clf._read_texts(texts)
    result = clf.predict_sources(table, **options)
    given = [text if isinstance(text, str) else "" for text in table.texts]
    encoder = TextEncoder(clf.model_, clf.tokenizer_, **clf.encoding_options())
    embeddings = encoder(given)
    near: list[list[dict[str, Any]]] = [[] for _ in given]
    if known is not None:
        near = nearest_texts(encoder, embeddings, known, count, given)
    decided = decided_classes(np.nan_to_num(result.probabilities), config.multi_label, config.decision_rule)
    found: list[Explanation | None] = []
    for i, text in enumerate(given):
        if np.isnan(result.logits[i]).any():
            found.append(None)
            continue
        predicted = [classes[k] for k in np.flatnonzero(decided[i])]
        most = classes[int(np.where(decided[i] | (not predicted), result.probabilities[i], -1.0).argmax())]
        explained = str(label) if label is not None else most
        one = _explain(encoder, text, embeddings[i], result, i, explained, predicted, near[i], words)
        found.append(one)
    return found


def _explain(
    encoder: TextEncoder,
    text: str,
    embedding: torch.Tensor,
    result: "Inference",
    row: int,
    explained: str,
    predicted: list[str],
    near: list[dict[str, Any]],
    words: bool,
) -> Explanation:
    config, scores = encoder.model.config, result.llm_scores[row]
    effects = leave_words_out(encoder, text, scores) if words else None
    return Explanation(
        text=text,
        classes=config.label_names,
        predicted=predicted,
        explained=explained,
        logits=result.logits[row].astype(np.float64),
        probabilities=result.probabilities[row],
        sources=share_names(encoder.model),
        shares=source_shares(encoder, embedding, scores),
        answered=dict(zip(source_names(config), result.answered[row].tolist(), strict=True)),
        words=[] if effects is None else effects.words,
        word_effects=np.zeros((0, config.num_labels), dtype=np.float32) if effects is None else effects.effects,
        nearest=near,
        llm_called=bool(result.llm_called[row]),
        cost_usd=float(result.cost_usd[row]),
        missing=result.errors.get(row),
        multi_label=config.multi_label,
    )
