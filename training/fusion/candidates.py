"""Candidate combinations of the sources: each source alone, and pools of increasing flexibility."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import ScorePool
from .fusion_data import FusionData
from .pool_fit import PoolPath, average_pools, encoder_alone

# Penalty on the parameters of a pool beyond one weight per source: per-class scales, confusions between classes.
POOL_PENALTIES = (3000.0, 300.0, 100.0, 30.0, 10.0, 3.0)
ALONE_PENALTY = 30.0  # the same for a single LLM, when it is calibrated alone


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
