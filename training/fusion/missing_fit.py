"""Corrects the pool for missing answers of some LLMs, after an outage, a spent budget or an early stop."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import ScorePool
from ..losses import minimize

if TYPE_CHECKING:
    from .fusion_data import FusionData

PENALTY = 10.0  # on what a missing answer changes for the other LLMs
MOST_ROWS = 3000  # with hidden answers; if there would be more, each row is used with one pattern only


def fit_missing(pool: ScorePool, data: "FusionData", folds: NDArray[np.int64], unseeing: list[ScorePool]) -> None:
    """Fit, in place, how a missing answer scales the contributions of the other LLMs.

    Jointly fitted weights can be wrong when a source is missing: next to a strong LLM a weak one may have a large
    weight for what it says about the strong one's errors. So answers are hidden (score dropout, each LLM left alone
    once and left out once), and the scales are fitted on held-out rows of the pools. The result for rows with all
    answers does not change.

    Args:
        pool: A fitted pool.
        data: The n rows that it was fitted on.
        folds: int64 `(n,)`.
        unseeing: For each fold, the pool fitted on the other folds.
    """
    one = torch.eye(data.mask.shape[1])
    patterns = one if len(one) == 2 else torch.cat([one, 1.0 - one])
    kept = data.mask * patterns[:, None]  # (patterns, n, P)
    use = (kept.sum(dim=2) > 0) & (kept != data.mask).any(dim=2)
    if use.sum() > MOST_ROWS:
        drawn = torch.randint(len(patterns), (len(data.mask),), generator=torch.Generator().manual_seed(0))
        use &= drawn == torch.arange(len(patterns))[:, None]
    index, mask = use.nonzero()[:, 1], kept[use]
    if len(index) == 0:
        return
    some = data.rows(index)
    added = torch.zeros(len(index), len(one), some.encoder_logits.shape[1])  # to the encoder's logits, by each LLM
    for fold, unseen in zip(np.unique(folds), unseeing, strict=True):
        rows = torch.from_numpy(folds == fold)[index]
        own = some.encoder_logits[rows]
        for p in range(len(one)):
            left = mask[rows] * one[p]
            with torch.no_grad():
                added[rows, p] = unseen(own, some.evidence[rows] * left[:, :, None], left) - own
    shift = torch.zeros_like(one, requires_grad=True)

    def objective() -> torch.Tensor:
        say = 1.0 + (1.0 - mask) @ (shift * (1.0 - one))
        loss = some.log_loss(some.encoder_logits + (say[:, :, None] * added).sum(dim=1)).mean()
        return loss + 0.5 * PENALTY * shift.square().sum() / len(data.labels)

    minimize(objective, [shift], max_iter=60)
    with torch.no_grad():
        pool.missing_shift.copy_(shift * (1.0 - one))
