"""Fits the fusion on out-of-fold encoder outputs, and chooses among the combinations of the sources.

The candidates range from one source alone to the full pool with its MLP. They are compared on cross-validated log loss,
so that the result cannot be much worse than the best source. All of them are settings of the same parameters
(`ScorePool`, `FusionMLP`), so that each result is a checkpoint of the same model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import FusionMLP, ScorePool
from ..losses import clearly_better
from .candidates import Candidate, find_candidates, fit_average
from .fusion_data import FusionData
from .missing_fit import fit_missing
from .mlp_fit import fit_mlp, mlp_out_of_fold
from .pool_fit import average_pools


@dataclass
class FusionFit:
    """A fitted fusion.

    Args:
        pool: The pool.
        mlp: The MLP, if it was better.
        out_of_fold_logits: float32 `(n, K)`: fused logits of each row from a fit on the other folds.
        sources: Calibrated out-of-fold logits float32 `(n, K)` of the encoder alone and of each LLM alone.
        report: Comparison and choice, as plain data.
    """

    pool: ScorePool
    mlp: FusionMLP | None
    out_of_fold_logits: torch.Tensor
    sources: list[torch.Tensor]
    report: dict[str, Any]


def fit_fusion(
    data: FusionData, folds: NDArray[np.int64], *, fusion: str = "mlp", mlp_kwargs: dict[str, Any] | None = None
) -> FusionFit:
    """Choose and fit the combination of the encoder with the LLMs.

    Candidates are averaged with weights from their out-of-fold losses, so that chance matters less with little data.
    The MLP is added only if it is better by more than half a standard error of the paired difference.

    Args:
        data: The rows that have scores, with out-of-sample encoder logits.
        folds: int64 `(n,)` from `assign_folds`.
        fusion: `"mlp"` includes the MLP, `"pool"` does not; `"encoder"` and `"llm"` use only that source.
        mlp_kwargs: For `FusionMLP`: `fusion_hidden_size`, `dropout`.
    """
    candidates = find_candidates(data, folds)
    losses = [data.log_loss(candidate.logits) for candidate in candidates]
    alone = fusion in ("encoder", "llm")
    chosen = _choose(candidates, losses, fusion)
    pool = fit_average(chosen, data)
    if not alone and data.llm_scores.shape[1] > 1:
        by_fold = zip(*(candidate.pools for _, candidate in chosen), strict=True)
        shares = [share for share, _ in chosen]
        fit_missing(pool, data, folds, [average_pools(list(zip(shares, pools, strict=True))) for pools in by_fold])
    logits = torch.stack([share * candidate.logits for share, candidate in chosen]).sum(dim=0)
    loss = data.log_loss(logits)
    report: dict[str, Any] = {
        "rows": len(data.labels),
        "chosen": fusion if alone else "pool",
        "weights": {candidate.name: round(share, 3) for share, candidate in chosen},
        "log_loss": {c.name: round(float(loss.mean()), 5) for c, loss in zip(candidates, losses, strict=True)},
    }
    report["log_loss"]["fusion"] = round(float(loss.mean()), 5)
    mlp = None
    if fusion == "mlp" and data.embeddings is not None:
        epochs, with_mlp = mlp_out_of_fold(data, folds, logits, mlp_kwargs or {})
        loss_with_mlp = data.log_loss(with_mlp)
        report["log_loss"]["fusion with mlp"] = round(float(loss_with_mlp.mean()), 5)
        if epochs and clearly_better(loss_with_mlp, loss):
            with torch.no_grad():
                pooled = pool(data.encoder_logits, data.evidence, data.mask)
            mlp, logits = fit_mlp(data, pooled, epochs, mlp_kwargs or {}), with_mlp
            report |= {"chosen": "pool and mlp", "mlp_epochs": epochs}
    sources = [data.answer(candidate.logits) for candidate in candidates if candidate.kind != "pool"]
    return FusionFit(pool, mlp, data.answer(logits.detach()), sources, report)


def _choose(candidates: list[Candidate], losses: list[torch.Tensor], fusion: str) -> list[tuple[float, Candidate]]:
    """The candidates to average, with their shares; only the best one for `"encoder"` and `"llm"`."""
    if fusion in ("encoder", "llm"):
        alone = [(float(loss.mean()), i) for i, loss in enumerate(losses) if candidates[i].kind == fusion]
        return [(1.0, candidates[min(alone)[1]])]
    weights = stacking_weights(torch.stack(losses)).tolist()
    return [(share, candidate) for share, candidate in zip(weights, candidates, strict=True) if share > 0]


def stacking_weights(losses: torch.Tensor, draws: int = 500, least: float = 0.02) -> torch.Tensor:
    """Model averaging weights from out-of-fold losses: pseudo-BMA+ (Yao et al. 2018, arXiv:1704.02030).

    The Bayesian bootstrap over the rows prevents a candidate from getting all the weight because of a few rows. With
    many rows, the best candidate gets it.

    Args:
        losses: float `(candidates, n)`, log loss of each row.
        draws: Bootstrap samples.
        least: Smaller weights become 0.

    Returns:
        float `(candidates,)`, summing to 1.
    """
    generator = torch.Generator().manual_seed(0)
    n = losses.shape[1]
    rows = torch.empty(draws, n).exponential_(generator=generator)
    totals = (rows / rows.sum(dim=1, keepdim=True)) @ losses.T * n
    weights = torch.softmax(-totals, dim=1).mean(dim=0)
    weights = torch.where(weights < least, 0.0, weights)
    return weights / weights.sum()
