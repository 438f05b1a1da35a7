"""Fits the `FusionMLP` on top of the pool, with the number of epochs chosen on held-out rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import FusionMLP

if TYPE_CHECKING:
    from .fusion_data import FusionData

MLP_EPOCHS = 60
MLP_EVERY = 5  # epochs between two evaluations of the loss
MLP_PATIENCE = 3


def _train_mlp(
    data: "FusionData", base: torch.Tensor, mlp_kwargs: dict[str, Any], epochs: int = MLP_EPOCHS
) -> Iterator[FusionMLP]:
    """Yield the MLP after every `MLP_EVERY` epochs; `base`, float `(n, K)`, are the pooled logits to correct."""
    assert data.embeddings is not None
    num_providers, num_labels = data.llm_scores.shape[1:]
    mlp = FusionMLP(data.embeddings.shape[1], num_providers, num_labels, **mlp_kwargs)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=1e-3, weight_decay=0.1)
    batch = max(32, min(512, len(base) // 8))
    for epoch in range(1, epochs + 1):
        mlp.train()
        for rows in torch.randperm(len(base)).split(batch):
            some = data.rows(rows)
            assert some.embeddings is not None
            loss = some.log_loss(base[rows] + mlp(some.embeddings, some.evidence, some.mask)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % MLP_EVERY == 0:
            yield mlp.eval()


def fit_mlp(data: "FusionData", base: torch.Tensor, epochs: int, mlp_kwargs: dict[str, Any]) -> FusionMLP:
    """Fit the MLP for a number of epochs; `base` as in `mlp_out_of_fold`, from the pool that it will correct."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        *_, mlp = _train_mlp(data, base, mlp_kwargs, epochs)
    return mlp


def mlp_out_of_fold(
    data: "FusionData", folds: NDArray[np.int64], base: torch.Tensor, mlp_kwargs: dict[str, Any]
) -> tuple[int, torch.Tensor]:
    """Return the best number of epochs over all folds (0: no MLP), and the out-of-fold logits of pool plus MLP.

    `base` are the pool's out-of-fold logits, so that the MLP learns to correct errors on unseen rows. All folds are
    trained in parallel, until their loss has not fallen for `MLP_PATIENCE` evaluations.
    """
    held_out = [torch.from_numpy(folds == fold) for fold in np.unique(folds)]
    best, best_logits = 0, base
    least = float(data.log_loss(base).mean())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        runs = [_train_mlp(data.rows(~rows), base[~rows], mlp_kwargs) for rows in held_out]
        for look, mlps in enumerate(zip(*runs, strict=True), start=1):
            logits = base.clone()
            for rows, mlp in zip(held_out, mlps, strict=True):
                test = data.rows(rows)
                with torch.no_grad():
                    logits[rows] += mlp(test.embeddings, test.evidence, test.mask)
            loss = float(data.log_loss(logits).mean())
            if loss < least:
                best, best_logits, least = look, logits, loss
            elif look - best >= MLP_PATIENCE:
                break
    return best * MLP_EVERY, best_logits
