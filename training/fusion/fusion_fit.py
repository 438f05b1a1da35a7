"""The step of the recipe that fits the fusion on out-of-fold encoder outputs.

The candidates range from one source alone to the full pool with its MLP. They are compared on cross-validated log loss,
so that the result cannot be much worse than the best source. All of them are settings of the same parameters
(`ScorePool`, `FusionMLP`), so that each result is a checkpoint of the same model.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.metrics import calibration_error
from ...modeling_labelfusion.fusion import FusionMLP, ScorePool
from ..losses import clearly_better, row_weights
from .baseline_fit import fit_baseline, out_of_fold
from .fusion_data import FusionData
from .mlp_fit import fit_mlp, mlp_out_of_fold
from .pool_fit import PoolPath, average_pools, encoder_alone, fit_missing
from .worse_answers import by_row, expected_drift, with_worse_answers

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState

# Penalty on the parameters of a pool beyond one weight per source: per-class scales, confusions between classes.
POOL_PENALTIES = (3000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
ALONE_PENALTY = 30.0  # the same for a single LLM, when it is calibrated alone


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


@dataclass
class Candidate:
    """A combination of the sources, cross-validated on n rows.

    Args:
        name: Name in the report.
        kind: `"encoder"` or `"llm"` for one source alone, or `"pool"`.
        logits: float32 `(n, K)`, out-of-fold.
        pools: For each fold, the pool fitted on the other folds.
        path: The path of pools that it belongs to; `None`: nothing is fitted.
        place: Its index on the path.
    """

    name: str
    kind: str
    logits: torch.Tensor
    pools: list[ScorePool]
    path: PoolPath | None = None
    place: int = 0


def fuse(state: "FitState") -> "FitState":
    """Fit the fusion that the config names. With too few scored rows, the default pool is kept."""
    config, model, rows = state.config, state.model, state.fusable
    if not rows.any():
        if config.num_providers and state.scored.any():
            usable = int((state.scored & state.covered).sum())
            return state.told(fusion={"rows": usable, "chosen": "default pool: too few scored rows to fit one"})
        return state
    data, folds = state.fusion_data(), state.folds[rows]
    if model.baseline is not None:
        model.baseline.load_state_dict(fit_baseline(config.fusion, data).state_dict())
        state = state.told(fusion={"rows": len(data.labels), "chosen": config.fusion})
        return replace(state, fused_logits=out_of_fold(config.fusion, data, folds))
    settings = {"fusion_hidden_size": config.fusion_hidden_size, "dropout": config.fusion_dropout}
    fit = fit_fusion(data, folds, fusion=config.fusion, mlp_kwargs=settings)
    _put_into(model, fit)
    state = _with_calibrated_llms(state.told(fusion=fit.report), fit, data)
    return replace(state, fused_logits=fit.out_of_fold_logits)


def _put_into(model: "LabelFusionForSequenceClassification", fit: FusionFit) -> None:
    model.score_pool.load_state_dict(fit.pool.state_dict())
    if model.fusion_mlp is not None:
        if fit.mlp is not None:
            model.fusion_mlp.load_state_dict(fit.mlp.state_dict())
        else:
            with torch.no_grad():
                model.fusion_mlp.out_proj.weight.zero_()
                model.fusion_mlp.out_proj.bias.zero_()


def _with_calibrated_llms(state: "FitState", fit: FusionFit, data: FusionData) -> "FitState":
    """Add the metrics of each LLM after calibration by the pool to the report."""
    llms = []
    before = state.report.get("calibration", {}).get("llms", [])
    for report, logits, answered in zip(before, fit.sources[1:], data.mask.T > 0, strict=False):
        after = calibration_error(
            data.probabilities(logits[answered]),
            data.labels[answered].numpy(),
            data.multi_label,
            row_weights(data.targets[answered]).numpy(),
        )
        llms.append({**report, "after": after})
    return state.told(calibration={"llms": llms}) if llms else state


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
    n, known, known_folds = len(data.labels), data, folds
    data, folds = with_worse_answers(data), np.tile(folds, 2)
    candidates = find_candidates(data, folds)
    losses = [by_row(data.log_loss(candidate.logits)) for candidate in candidates]
    alone = fusion in ("encoder", "llm")
    chosen = _choose(candidates, losses, fusion)
    pool = fit_average(chosen, data)
    if not alone and data.llm_scores.shape[1] > 1:
        by_fold = zip(*(candidate.pools for _, candidate in chosen), strict=True)
        shares = [share for share, _ in chosen]
        fit_missing(
            pool, known, known_folds, [average_pools(list(zip(shares, pools, strict=True))) for pools in by_fold]
        )
    logits = torch.stack([share * candidate.logits for share, candidate in chosen]).sum(dim=0)
    loss = by_row(data.log_loss(logits))

    def measured(logits: torch.Tensor) -> float:
        """The log loss with the answers as they are; the choices take that with worse ones."""
        return round(float(known.log_loss(logits[:n]).mean()), 5)

    report: dict[str, Any] = {
        "rows": n,
        "expected_drift": round(expected_drift(known), 4),
        "chosen": fusion if alone else "pool",
        "weights": {candidate.name: round(share, 3) for share, candidate in chosen},
        "log_loss": {**{c.name: measured(c.logits) for c in candidates}, "fusion": measured(logits)},
    }
    mlp = None
    if fusion == "mlp" and data.embeddings is not None:
        epochs, with_mlp = mlp_out_of_fold(data, folds, logits, mlp_kwargs or {})
        loss_with_mlp = by_row(data.log_loss(with_mlp))
        report["log_loss"]["fusion with mlp"] = measured(with_mlp)
        if epochs and clearly_better(loss_with_mlp, loss):
            with torch.no_grad():
                pooled = pool(data.encoder_logits, data.evidence, data.mask)
            mlp, logits = fit_mlp(data, pooled, epochs, mlp_kwargs or {}), with_mlp
            report |= {"chosen": "pool and mlp", "mlp_epochs": epochs}
    sources = [known.answer(candidate.logits[:n]) for candidate in candidates if candidate.kind != "pool"]
    return FusionFit(pool, mlp, known.answer(logits[:n].detach()), sources, report)


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


def find_candidates(data: FusionData, folds: NDArray[np.int64]) -> list[Candidate]:
    """Cross-validate all candidates: the encoder, each LLM, and pools from the stiffest to the most flexible."""
    num_providers, num_labels = data.llm_scores.shape[1:]
    alone = [encoder_alone(num_providers, num_labels) for _ in np.unique(folds)]
    candidates = [Candidate("encoder", "encoder", data.encoder_logits, alone)]
    paths = [("llm", PoolPath((ALONE_PENALTY,), only=p)) for p in range(num_providers)]
    for kind, path in [*paths, ("pool", PoolPath(POOL_PENALTIES))]:
        logits, pools = path.out_of_fold(data, folds)
        for place, penalty in enumerate(path.penalties):
            name = f"pool {penalty:g}" if path.only is None else f"llm {path.only}"
            by_fold = [of_fold[place] for of_fold in pools]
            candidates.append(Candidate(name, kind, logits[place], by_fold, path, place))
    return candidates


def fit_average(chosen: list[tuple[float, Candidate]], data: FusionData) -> ScorePool:
    """Fit the weighted average of (share, candidate) pairs on all rows."""
    num_providers, num_labels = data.llm_scores.shape[1:]
    last: dict[PoolPath, int] = {}
    for _, candidate in chosen:
        if candidate.path is not None:
            last[candidate.path] = max(candidate.place, last.get(candidate.path, 0))
    fitted = {path: path.fit(data, place + 1) for path, place in last.items()}
    return average_pools(
        [
            (share, encoder_alone(num_providers, num_labels) if c.path is None else fitted[c.path][c.place])
            for share, c in chosen
        ]
    )
