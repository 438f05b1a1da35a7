"""Fitting the fusion on out-of-sample encoder outputs, and choosing among the ways to combine the sources.

The candidates go from one source alone to the full pool with its MLP and are compared on cross-validated log loss,
so that the result cannot be much worse than the best of its sources. All of them are settings of the same parameters
(`ScorePool`, `FusionMLP`), so that whatever wins is one checkpoint of the same model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import FusionMLP, ScorePool, pool_logits
from ..losses import clearly_better, log_loss, minimize
from .fusion_data import FusionData
from .missing_fit import fit_missing
from .mlp_fit import fit_mlp, mlp_out_of_fold

# Penalty on what a pool has beyond one weight per source: per-class scales, confusions between classes.
POOL_PENALTIES = (3000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
ALONE_PENALTY = 30.0  # the same for a single LLM, when it is calibrated alone
STIFFNESS = 30.0  # of the prior on each weight, where several LLMs share it; else 1


@dataclass
class FusionFit:
    """A fitted fusion.

    Args:
        pool: The pool.
        mlp: The MLP, if it earned its place.
        out_of_fold_logits: float32 `(n, K)`: fused logits of each row from a fit that has not seen its fold.
        sources: Out-of-fold logits float32 `(n, K)` of the encoder and of each LLM, calibrated, alone.
        report: What was compared and chosen, plain data.
    """

    pool: ScorePool
    mlp: FusionMLP | None
    out_of_fold_logits: torch.Tensor
    sources: list[torch.Tensor]
    report: dict[str, Any]


def fit_fusion(
    data: FusionData, folds: NDArray[np.int64], *, fusion: str = "mlp", mlp_kwargs: dict[str, Any] | None = None
) -> FusionFit:
    """Choose and fit the way to combine the encoder with the LLMs.

    Candidates are averaged with weights from their out-of-fold losses, so that little data does not decide by luck. The
    MLP comes on top only where it is better by more than half a standard error of the paired difference.

    Args:
        data: The rows that have scores, with out-of-sample encoder logits.
        folds: int64 `(n,)` from `assign_folds`.
        fusion: `"mlp"` lets the MLP compete, `"pool"` does not; `"encoder"` and `"llm"` leave that source alone.
        mlp_kwargs: For `FusionMLP`: `fusion_hidden_size`, `dropout`.
    """
    num_providers = data.llm_scores.shape[1]
    candidates: dict[str, torch.Tensor] = {"encoder": data.encoder_logits}
    # Of each candidate, for each fold, the pool that has not seen it.
    unseeing = {"encoder": [_as_encoder(*data.llm_scores.shape[1:]) for _ in np.unique(folds)]}
    for p in range(num_providers):
        (candidates[f"llm {p}"],), pools = pool_out_of_fold(data, folds, (ALONE_PENALTY,), only=p)
        unseeing[f"llm {p}"] = [pool for (pool,) in pools]
    pooled, paths = pool_out_of_fold(data, folds, POOL_PENALTIES)
    for i, penalty in enumerate(POOL_PENALTIES):
        candidates[f"pool {penalty:g}"] = pooled[i]
        unseeing[f"pool {penalty:g}"] = [path[i] for path in paths]
    losses = {name: data.log_loss(logits) for name, logits in candidates.items()}
    if fusion in ("encoder", "llm"):
        alone = [name for name in candidates if name.startswith(fusion)]
        shares = {min(alone, key=lambda name: float(losses[name].mean())): 1.0}
    else:
        weights = stacking_weights(torch.stack(list(losses.values())))
        shares = {name: float(w) for name, w in zip(candidates, weights, strict=True) if w > 0}
    pool = _average(data, shares)
    if fusion not in ("encoder", "llm") and num_providers > 1:
        mixed = [_mixed([(share, unseeing[name][i]) for name, share in shares.items()]) for i in range(len(paths))]
        fit_missing(pool, data, folds, mixed)
    base = torch.stack([share * candidates[name] for name, share in shares.items()]).sum(dim=0)
    base_loss = data.log_loss(base)
    mlp, logits = None, base
    report: dict[str, Any] = {
        "rows": len(data.labels),
        "chosen": fusion if fusion in ("encoder", "llm") else "pool",
        "weights": {name: round(share, 3) for name, share in shares.items()},
        "log_loss": {name: round(float(loss.mean()), 5) for name, loss in losses.items()},
    }
    report["log_loss"]["fusion"] = round(float(base_loss.mean()), 5)
    if fusion == "mlp" and data.embeddings is not None:
        epochs, with_mlp = mlp_out_of_fold(data, folds, base, mlp_kwargs or {})
        loss = data.log_loss(with_mlp)
        report["log_loss"]["fusion with mlp"] = round(float(loss.mean()), 5)
        if epochs and clearly_better(loss, base_loss):
            with torch.no_grad():
                pooled = pool(data.encoder_logits, data.evidence, data.mask)
            mlp, logits = fit_mlp(data, pooled, epochs, mlp_kwargs or {}), with_mlp
            report |= {"chosen": "pool and mlp", "mlp_epochs": epochs}
    sources = [data.answer(x) for x in list(candidates.values())[: 1 + num_providers]]
    return FusionFit(pool, mlp, data.answer(logits.detach()), sources, report)


def stacking_weights(losses: torch.Tensor, draws: int = 500, least: float = 0.02) -> torch.Tensor:
    """Weights to average candidates by, from their out-of-fold losses: pseudo-BMA+ (Yao et al. 2018, arXiv:1704.02030).

    The Bayesian bootstrap over the rows keeps a candidate from taking everything by the luck of a few rows; with many
    rows the best one does.

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


def _average(data: FusionData, shares: dict[str, float]) -> ScorePool:
    """The weighted average of the candidates, fitted on all rows; being log-linear, it is a pool of the same form."""
    num_providers, num_labels = data.llm_scores.shape[1:]
    pools: list[tuple[float, ScorePool]] = []
    flexible = [i for i, penalty in enumerate(POOL_PENALTIES) if f"pool {penalty:g}" in shares]
    path = _pool_path(data, POOL_PENALTIES[: flexible[-1] + 1]) if flexible else []
    for name, share in shares.items():
        if name == "encoder":
            pools.append((share, _as_encoder(num_providers, num_labels)))
        elif name.startswith("llm"):
            pools.append((share, _pool_path(data, (ALONE_PENALTY,), only=int(name.split()[1]))[0]))
        else:
            pools.append((share, path[POOL_PENALTIES.index(float(name.split()[1]))]))
    return _mixed(pools)


def _mixed(pools: list[tuple[float, ScorePool]]) -> ScorePool:
    """The weighted average of pools, which is a pool too."""
    average = _as_encoder(pools[0][1].num_providers, pools[0][1].num_labels)
    with torch.no_grad():
        for parameter, *parts in zip(average.parameters(), *(p.parameters() for _, p in pools), strict=True):
            shares_of = zip(pools, parts, strict=True)
            parameter.copy_(torch.stack([share * part for (share, _), part in shares_of]).sum(dim=0))
    return average


def _as_encoder(num_providers: int, num_labels: int) -> ScorePool:
    pool = ScorePool(num_providers, num_labels)
    torch.nn.init.zeros_(pool.weight)
    return pool


def _pool_path(data: FusionData, penalties: tuple[float, ...], only: int | None = None) -> list[ScorePool]:
    """Fit pools by penalised maximum likelihood, from the stiffest to the most flexible, each from the one before.

    Every source has one weight, held by a prior; per-class scales and confusions between classes, which go beyond it,
    cost `penalty`. Evidence is brought to unit scale first, so that graded and one-hot scores are penalised alike.

    Args:
        data: Rows to fit on.
        penalties: From strong to weak.
        only: Use this provider alone, without the encoder (a calibrated LLM).
    """
    num_providers, num_labels = data.llm_scores.shape[1:]
    n = max(len(data.labels), 1)
    evidence, mask, encoder_logits = data.evidence, data.mask, data.encoder_logits
    if only is not None:
        keep = torch.zeros(num_providers)
        keep[only] = 1.0
        evidence, mask = evidence * keep[:, None], mask * keep
        encoder_logits = encoder_logits * (1.0 - mask[:, only : only + 1])  # it stays where this LLM has no answer
    answers = mask.sum(dim=0).clamp_min(1.0) * num_labels
    scale = (evidence.square().sum(dim=(0, 2)) / answers).sqrt().clamp_min(1e-3)
    evidence = evidence / scale[:, None]
    prior, stiffness = torch.ones(num_providers, 1, 1), 1.0
    if only is None:
        # A source starts as good for about one nat; several share it as independent witnesses never quite are.
        prior *= num_providers**-0.5
        if num_providers > 1 and not data.multi_label:
            prior *= _weights_alone(evidence, data.labels)[:, None, None]
            stiffness = STIFFNESS
    shift, shift_k = torch.zeros(num_providers, 1), torch.zeros(num_providers, num_labels)
    weight, weight_k = prior.clone(), torch.zeros(num_providers, num_labels, num_labels)
    bias = torch.zeros(num_providers, num_labels)
    parameters = [weight, weight_k, bias] if only is not None else [shift, shift_k, weight, weight_k, bias]
    for tensor in parameters:
        tensor.requires_grad_(True)
    eye = torch.eye(num_labels)
    encoder_scale = float(encoder_logits.square().mean().sqrt().clamp_min(1e-3))
    pools = []
    for penalty in penalties:

        def objective(penalty: float = penalty) -> torch.Tensor:
            logits = pool_logits(encoder_logits, evidence, mask, shift + shift_k, weight * eye + weight_k, bias)
            extra = weight_k.square().sum() + (encoder_scale * shift_k).square().sum()
            ridge = (weight - prior).square().sum() + (encoder_scale * shift).square().sum()
            # Biases move the class frequencies: cheap to learn, so lightly held.
            held = penalty * extra + stiffness * ridge + min(penalty, 3.0) * bias.square().sum()
            return data.log_loss(logits).mean() + 0.5 * held / n

        minimize(objective, parameters, max_iter=60)
        pool = ScorePool(num_providers, num_labels)
        with torch.no_grad():
            pool.weight.copy_((weight * eye + weight_k) / scale[:, None, None])
            pool.bias.copy_(bias)
            pool.encoder_shift.copy_(shift + shift_k)
            if only is not None:  # in the model the encoder speaks too: take it out where this LLM answers
                others = torch.arange(num_providers) != only
                pool.weight[others], pool.bias[others] = 0.0, 0.0
                pool.encoder_shift.zero_()
                pool.encoder_shift[only] = -1.0
        pools.append(pool)
    return pools


def _weights_alone(evidence: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What each LLM's evidence `(n, P, K)` weighs without any other source, float32 `(P,)`, not below 0.

    With little data, who is good and who is not is known before how they go together: a poor LLM starts low.
    """
    weights = torch.ones(evidence.shape[1], requires_grad=True)

    def objective() -> torch.Tensor:
        logits = (evidence * weights[:, None]).flatten(0, 1)
        loss = log_loss(logits, labels.repeat_interleave(len(weights)), multi_label=False).sum()
        return (loss + 0.5 * (weights - 1.0).square().sum()) / max(len(labels), 1)

    minimize(objective, [weights], max_iter=60)
    return weights.detach().clamp_min(0.0)


def pool_out_of_fold(
    data: FusionData, folds: NDArray[np.int64], penalties: tuple[float, ...], only: int | None = None
) -> tuple[list[torch.Tensor], list[list[ScorePool]]]:
    """Out-of-fold logits `(n, K)` for each penalty, and each fold's pools."""
    logits, pools = [torch.empty_like(data.encoder_logits) for _ in penalties], []
    for fold in np.unique(folds):
        held_out = torch.from_numpy(folds == fold)
        test = data.rows(held_out)
        pools.append(_pool_path(data.rows(~held_out), penalties, only))
        with torch.no_grad():
            for out, pool in zip(logits, pools[-1], strict=True):
                out[held_out] = pool(test.encoder_logits, test.evidence, test.mask)
    return logits, pools
