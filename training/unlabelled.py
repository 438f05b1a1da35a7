"""Learning from texts that only LLMs have labelled, with a few labels of people or none.

The encoder is trained on the LLMs' answers (knowledge distillation, Hinton et al. 2015, arXiv:1503.02531). It
generalises over texts that are alike, so that it corrects part of the LLMs' errors. Only labels of people ("gold") can
show how good a source is: whatever compares sources or calibrates probabilities is fitted on gold rows alone.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .data import LabelledTexts, concatenate

if TYPE_CHECKING:
    from .fit_state import FitState

FEWEST_GOLD = 20  # rows, and two a class, for a fusion that is fitted on them
FLOOR = 0.02  # of an LLM's probabilities, whose certainty nobody has checked


def pseudo_labels(scores: NDArray[np.floating], multi_label: bool) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The LLMs' labels: those of the mean of their log-probabilities (log-linear pool with equal weights).

    Args:
        scores: float `(n, P, K)`, NaN for missing.
        multi_label: Whether the classes are independent.

    Returns:
        int64 `(n,)`, or float32 `(n, K)` of 0/1; and bool `(n,)`: rows with a score of at least one LLM.
    """
    p = np.clip(scores.astype(np.float64), FLOOR, 1 - FLOOR)
    logits = np.log(p) - np.log1p(-p) if multi_label else np.log(p)
    answered = ~np.isnan(scores).any(axis=2)
    count = answered.sum(axis=1)
    mean = np.where(answered[..., None], logits, 0.0).sum(axis=1) / np.maximum(count, 1)[:, None]
    return ((mean > 0).astype(np.float32) if multi_label else mean.argmax(axis=1)), count > 0


def room(max_rows: int, scores: NDArray[np.floating] | None) -> int:
    """How many more rows may be scored."""
    return max_rows if scores is None else max(0, max_rows - int((~np.isnan(scores).any(axis=2)).any(axis=1).sum()))


def add_pseudo_labels(
    data: LabelledTexts,
    scores: NDArray[np.float32] | None,
    others: LabelledTexts,
    other_scores: NDArray[np.float32] | None,
) -> tuple[LabelledTexts, NDArray[np.float32], NDArray[np.bool_]]:
    """Append the texts that LLMs have labelled to those of people.

    Args:
        data: n gold rows; may be none.
        scores: float32 `(n, P, K)`; None: no rows.
        others: m texts without labels. Those without a score are left out.
        other_scores: float32 `(m, P, K)`.

    Returns:
        The rows with labels, their scores, and bool `(rows,)`: which are gold.
    """
    assert other_scores is not None
    multi_label = data.labels is not None and data.labels.ndim == 2
    labels, known = pseudo_labels(other_scores, multi_label)
    texts = [text for text, there in zip(others.texts, known, strict=True) if there]
    added = LabelledTexts(texts, labels[known], other_scores[known], others.classes)
    count = len(data)
    if count:
        added = concatenate(
            LabelledTexts(data.texts, data.labels, scores, data.classes, [], data.rows, data.count), added
        )
    assert added.llm_scores is not None
    return added, added.llm_scores, np.arange(len(added)) < count


def keep_gold(state: "FitState") -> "FitState":
    """The step of the recipe after which only the gold rows are left."""
    rows = state.gold
    chosen = torch.from_numpy(rows)
    return replace(
        state,
        texts=[text for text, kept in zip(state.texts, rows, strict=True) if kept],
        labels=state.labels[rows],
        llm_scores=state.llm_scores[rows],
        folds=state.folds[rows],
        encoder_logits=state.encoder_logits[chosen],
        covered=state.covered[rows],
        novelty=state.novelty[rows],
        embeddings=state.embeddings[chosen] if len(state.embeddings) else state.embeddings,
        label_sets=None if state.label_sets is None else state.label_sets.rows(chosen[torch.from_numpy(state.covered)]),
        gold=rows[rows],
        weights=None if state.weights is None else state.weights[rows],
        quick_logits=state.quick_logits[chosen] if len(state.quick_logits) else state.quick_logits,
    )


def pool_without_gold(state: "FitState") -> "FitState":
    """The step of the recipe that keeps the default pool, because nothing shows which source is better."""
    state.model.score_pool.reset_parameters()
    return state.told(fusion={"rows": 0, "chosen": "default pool: too few gold rows to fit one"})


def agreement(state: "FitState") -> float:
    """Share of the rows on which the encoder, out of fold, has the LLMs' label."""
    logits, labels = state.encoder_answers.numpy()[state.covered], state.labels[state.covered]
    if state.task.multi_label:
        return float(((logits > 0) == (labels > 0.5)).all(axis=1).mean())
    return float((logits.argmax(axis=1) == labels).mean())


def enough_gold(gold_labels: NDArray[Any], num_labels: int) -> bool:
    """Whether there are gold rows enough to fit the fusion and the calibration on them."""
    varied = gold_labels.ndim == 2 or len(np.unique(gold_labels)) > 1
    return varied and len(gold_labels) >= max(FEWEST_GOLD, 2 * num_labels)
