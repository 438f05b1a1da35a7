"""Fits the baselines on the same out-of-sample outputs as the fusion."""

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.baselines import BaselineFusion
from ..losses import log_loss, minimize
from .fusion_data import FusionData


def fit_baseline(method: str, data: FusionData) -> BaselineFusion:
    """Fit a baseline.

    Args:
        method: `"weighted"`: weights with minimal log loss; `"vote"`: nothing to fit; `"routing"`: how often each
            source is correct when it names a class (multi-label: about a class), with add-one smoothing (one correct
            and one wrong answer).
        data: The rows.
    """
    num_providers, num_labels = data.llm_scores.shape[1:]
    baseline = BaselineFusion(method, num_providers, num_labels, data.multi_label)
    if method == "weighted":
        free = torch.zeros(1 + num_providers, 1, requires_grad=True)

        def objective() -> torch.Tensor:
            weights = {"weight": torch.softmax(free, dim=0).expand(-1, num_labels)}
            logits = torch.func.functional_call(baseline, weights, (data.encoder_logits, data.llm_scores))
            return log_loss(logits, data.targets, data.multi_label).mean() + 0.5 * free.square().sum() / len(logits)

        minimize(objective, [free])
        weight = torch.softmax(free.detach(), dim=0).expand(-1, num_labels)
    elif method == "routing":
        weight = _reliability(data)
    else:
        weight = baseline.weight.detach()
    with torch.no_grad():
        baseline.weight.copy_(weight)
    return baseline


def out_of_fold(method: str, data: FusionData, folds: NDArray[np.int64]) -> torch.Tensor:
    """float32 `(n, K)`: logits of each row from a baseline fitted on the other folds."""
    logits = torch.empty_like(data.encoder_logits)
    for fold in np.unique(folds):
        held_out = torch.from_numpy(folds == fold)
        test = data.rows(held_out)
        with torch.no_grad():
            logits[held_out] = fit_baseline(method, data.rows(~held_out))(test.encoder_logits, test.llm_scores)
    return logits


def _reliability(data: FusionData) -> torch.Tensor:
    sources = [data.encoder_logits.sigmoid() if data.multi_label else data.encoder_logits.softmax(-1)]
    sources += list(data.llm_scores.unbind(dim=1))
    rows = []
    for probs in sources:
        there = ~torch.isnan(probs).any(dim=-1)
        probs, labels = probs[there], data.labels[there]
        if data.multi_label:
            right = ((probs >= 0.5) == (labels > 0)).float()
            rows.append((right.sum(dim=0) + 1) / (len(right) + 2))
        else:
            named = torch.nn.functional.one_hot(probs.argmax(dim=-1), probs.shape[-1]).float()
            hits = named * (probs.argmax(dim=-1) == labels).float().unsqueeze(-1)
            rows.append((hits.sum(dim=0) + 1) / (named.sum(dim=0) + 2))
    return torch.stack(rows)
