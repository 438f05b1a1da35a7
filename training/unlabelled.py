"""Learning from texts that only LLMs have labelled, with a few labels of people or none.

The encoder is trained on the LLMs' answers (knowledge distillation, Hinton et al. 2015, arXiv:1503.02531). It
generalises over texts that are alike, so that it corrects part of the LLMs' errors. Only labels of people ("gold") can
show how good a source is: whatever compares sources or calibrates probabilities is fitted on gold rows alone.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..modeling_labelfusion.fusion import pool_features
from .data import LabelledTexts, concatenate
from .label_model import RIGHT, SPREAD, TIE, choose_label_model, combine_answers

if TYPE_CHECKING:
    from .fit_state import FitState

FEWEST_GOLD = 20  # rows, and two a class, for a fusion that is fitted on them
LOG_ODDS = 3.0  # that an LLM's answer counts for without gold rows: 20 to 1
USUALLY = 0.95  # share of texts with a class, above which each text gets one (multi-label)


@dataclass
class PseudoLabels:
    """The labels that the LLMs give to texts together.

    Args:
        rows: int64 `(m,)`: the text of each label. A text without an answer has none; one on which the LLMs are split
            evenly has one for each side.
        labels: int64 `(m,)`, or float32 `(m, K)` of 0/1.
        weights: float64 `(m,)`: those of a text add up to 1.
        accuracies: Estimated accuracy of each LLM, if the label model estimates it.
    """

    rows: NDArray[np.int64]
    labels: NDArray[Any]
    weights: NDArray[np.float64]
    accuracies: list[float] | None


def pseudo_labels(
    scores: NDArray[np.floating], multi_label: bool, method: str = "auto", gold: NDArray[Any] | None = None
) -> PseudoLabels:
    """Label texts by the LLMs' answers, see `label_model.combine_answers`.

    Args:
        scores: float `(n, P, K)`, NaN for missing.
        multi_label: Whether the classes are independent.
        method: One of `LABEL_MODELS`.
        gold: Known labels of the first rows.
    """
    logits, accuracies = combine_answers(scores, multi_label, method, gold)
    answered = (~np.isnan(scores).any(axis=2)).any(axis=1)
    if multi_label:
        split = answered & (np.abs(logits) < TIE).any(axis=1)
        rows = np.concatenate([np.flatnonzero(answered), np.flatnonzero(split)])
        with_split = np.concatenate([logits[answered] > -TIE, logits[split] > TIE])
        order = np.argsort(rows, kind="stable")
        rows, labels = rows[order], with_split[order].astype(np.float32)
    else:
        best = logits >= logits.max(axis=1, keepdims=True) - TIE
        rows, labels = np.nonzero(best & answered[:, None])  # type: ignore[assignment]
    return PseudoLabels(rows, labels, 1 / np.bincount(rows, minlength=len(scores))[rows], accuracies)


def room(max_rows: int, scores: NDArray[np.floating] | None) -> int:
    """How many more rows may be scored."""
    return max_rows if scores is None else max(0, max_rows - int((~np.isnan(scores).any(axis=2)).any(axis=1).sum()))


def described(wanted: str, num_llms: int, multi_label: bool, accuracies: list[float] | None) -> dict[str, Any]:
    """The label model for the report. The accuracies are estimates from how the LLMs agree, not measured ones."""
    report: dict[str, Any] = {"chosen": choose_label_model(wanted, num_llms, multi_label)}
    if accuracies is not None:
        report["estimated_accuracy"] = [round(accuracy, 3) for accuracy in accuracies]
    return report


def add_pseudo_labels(
    data: LabelledTexts,
    scores: NDArray[np.float32] | None,
    others: LabelledTexts,
    other_scores: NDArray[np.float32] | None,
    method: str = "auto",
) -> tuple[LabelledTexts, NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], list[float] | None]:
    """Append the texts that LLMs have labelled to those of people.

    Args:
        data: n gold rows; may be none.
        scores: float32 `(n, P, K)`; None: no rows.
        others: m texts without labels. Those without a score are left out.
        other_scores: float32 `(m, P, K)`.
        method: One of `LABEL_MODELS`. It sees the gold rows too.

    Returns:
        The rows with labels, their scores, their weights, bool `(rows,)`: which are gold, and the LLMs' estimated
        accuracies. A text on which the LLMs are split evenly is several rows.
    """
    assert other_scores is not None
    count, multi_label = len(data), data.labels is not None and data.labels.ndim == 2
    if count and scores is not None:
        found = pseudo_labels(np.concatenate([scores, other_scores]), multi_label, method, data.labels)
    else:
        found = pseudo_labels(other_scores, multi_label, method)
        found.rows += count
    kept = found.rows >= count
    rows, labels = found.rows[kept] - count, found.labels[kept]
    added = LabelledTexts([others.texts[i] for i in rows], labels, other_scores[rows], others.classes)
    if count:
        added = concatenate(
            LabelledTexts(data.texts, data.labels, scores, data.classes, [], data.rows, data.count), added
        )
    assert added.llm_scores is not None
    weights = np.concatenate([np.ones(count), found.weights[kept]])
    return added, added.llm_scores, weights, np.arange(len(added)) < count, found.accuracies


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
    """The step of the recipe that sets the fusion where nothing shows which source is better.

    An LLM's answer counts for `LOG_ODDS` on average, whether its scores are graded or all 0 and 1. With the label model
    of Dawid and Skene, each answer counts as the LLM's confusion matrix says.
    """
    pool, task, config = state.model.score_pool, state.task, state.config
    evidence, mask = pool_features(torch.from_numpy(state.llm_scores), task.multi_label, config.score_floor)
    pool.reset_parameters()
    weight = pool.weight.detach().cpu().clone()
    if choose_label_model(state.options.label_model, pool.num_providers, task.multi_label) == "dawid_skene":
        weight = _confusion_weights(evidence, torch.from_numpy(state.labels), task.multi_label)
    said = torch.einsum("npj,pjk->nk", evidence, weight)[mask.sum(dim=1) > 0]
    if task.multi_label:
        margin = said.abs().mean()
        some = (state.llm_scores[state.scored] > 0.5).reshape(int(state.scored.sum()), -1).any(axis=1)
        config.min_labels = int(some.mean() >= USUALLY)
    else:
        top = said.topk(2, dim=1).values
        margin = (top[:, 0] - top[:, 1]).mean()
    with torch.no_grad():
        pool.weight.copy_(weight * (LOG_ODDS / max(float(margin), 1e-3)))
    return state.told(fusion={"rows": 0, "chosen": "fixed weights: too few gold rows to fit any"})


def _confusion_weights(evidence: torch.Tensor, labels: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """float32 `(P, K, K)`: weights for `evidence` `(n, P, K)` from how the LLMs answered for each of the labels."""
    num_labels = evidence.shape[2]
    answers = (evidence > 0).float() if multi_label else evidence.softmax(dim=2) * evidence.any(dim=2, keepdim=True)
    if multi_label:
        weights = torch.zeros(evidence.shape[1], num_labels, num_labels)
        for k in range(num_labels):
            yes, no = (answers[labels[:, k] == v, :, k] for v in (1, 0))
            found, alarm = ((x.sum(dim=0) + SPREAD) / (len(x) + 2 * SPREAD) for x in (yes, no))
            weights[:, k, k] = (found.logit() - alarm.logit()).clamp_min(0)
        return weights
    counts = torch.einsum("nj,npk->pjk", torch.eye(num_labels)[labels], answers)
    counts += SPREAD + RIGHT * torch.eye(num_labels)
    return (counts / counts.sum(dim=2, keepdim=True)).log().transpose(1, 2)


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
