"""Fits log-linear pools of the sources by penalised maximum likelihood, and their correction for missing answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.fusion import ScorePool, pool_logits
from ..losses import Targets, log_loss, minimize
from .fusion_data import FusionData

STIFFNESS = 30.0  # of the prior on each weight, where several LLMs share it; else 1
MISSING_PENALTY = 10.0  # on what a missing answer changes for the other LLMs
MOST_HIDDEN = 3000  # rows with hidden answers; if there would be more, each row is used with one pattern only


@dataclass(frozen=True)
class PoolPath:
    """A path of pools from the stiffest to the most flexible, each started from the previous one.

    Every source has one weight with a prior. Per-class scales and confusions between classes are penalised. Evidence is
    scaled to unit size first, so that graded and one-hot scores get the same penalty.

    Args:
        penalties: From strong to weak.
        only: Use only this provider, without the encoder (a calibrated LLM).
    """

    penalties: tuple[float, ...]
    only: int | None = None

    def fit(self, data: FusionData, count: int | None = None) -> list[ScorePool]:
        """Fit the pools of the first `count` penalties (default: all) on all rows of `data`."""
        num_providers, num_labels = data.llm_scores.shape[1:]
        n = data.count
        encoder_logits, evidence, mask = self._inputs(data)
        answers = mask.sum(dim=0).clamp_min(1.0) * num_labels
        scale = (evidence.square().sum(dim=(0, 2)) / answers).sqrt().clamp_min(1e-3)
        evidence = evidence / scale[:, None]
        prior, stiffness = self._prior(evidence, data)
        shift, shift_k = torch.zeros(num_providers, 1), torch.zeros(num_providers, num_labels)
        weight, weight_k = prior.clone(), torch.zeros(num_providers, num_labels, num_labels)
        bias = torch.zeros(num_providers, num_labels)
        parameters = [weight, weight_k, bias] if self.only is not None else [shift, shift_k, weight, weight_k, bias]
        for tensor in parameters:
            tensor.requires_grad_(True)
        eye = torch.eye(num_labels)
        encoder_scale = float(encoder_logits.square().mean().sqrt().clamp_min(1e-3))
        pools = []
        for penalty in self.penalties[:count]:

            def objective(penalty: float = penalty) -> torch.Tensor:
                logits = pool_logits(encoder_logits, evidence, mask, shift + shift_k, weight * eye + weight_k, bias)
                extra = weight_k.square().sum() + (encoder_scale * shift_k).square().sum()
                ridge = (weight - prior).square().sum() + (encoder_scale * shift).square().sum()
                # Biases only shift class frequencies and need little data, so their penalty is small.
                held = penalty * extra + stiffness * ridge + min(penalty, 3.0) * bias.square().sum()
                return (data.log_loss(logits).sum() + 0.5 * held) / n

            minimize(objective, parameters, max_iter=60)
            with torch.no_grad():
                pools.append(self._pool((weight * eye + weight_k) / scale[:, None, None], bias, shift + shift_k))
        return pools

    def out_of_fold(
        self, data: FusionData, folds: NDArray[np.int64]
    ) -> tuple[list[torch.Tensor], list[list[ScorePool]]]:
        """Out-of-fold logits float32 `(n, K)` for each penalty, and for each fold the pools fitted on the others."""
        logits, pools = [torch.empty_like(data.encoder_logits) for _ in self.penalties], []
        for fold in np.unique(folds):
            held_out = torch.from_numpy(folds == fold)
            test = data.rows(held_out)
            pools.append(self.fit(data.rows(~held_out)))
            with torch.no_grad():
                for out, pool in zip(logits, pools[-1], strict=True):
                    out[held_out] = pool(test.encoder_logits, test.evidence, test.mask)
        return logits, pools

    def _inputs(self, data: FusionData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encoder logits, evidence and mask. If only one LLM is used, those of the other sources are hidden."""
        encoder_logits, evidence, mask = data.encoder_logits, data.evidence, data.mask
        if self.only is not None:
            keep = torch.zeros(mask.shape[1])
            keep[self.only] = 1.0
            evidence, mask = evidence * keep[:, None], mask * keep
            only = mask[:, self.only : self.only + 1]
            encoder_logits = encoder_logits * (1.0 - only)  # kept where this LLM has no answer
        return encoder_logits, evidence, mask

    def _prior(self, evidence: torch.Tensor, data: FusionData) -> tuple[torch.Tensor, float]:
        """The prior mean of each LLM's weight, float32 `(P, 1, 1)`, and the strength of the prior."""
        num_providers = evidence.shape[1]
        prior, stiffness = torch.ones(num_providers, 1, 1), 1.0
        if self.only is None:
            # A source starts as good for about one nat; several share it as independent witnesses never quite are.
            prior *= num_providers**-0.5
            if num_providers > 1 and not data.multi_label:
                prior *= _weights_alone(evidence, data.targets)[:, None, None]
                stiffness = STIFFNESS
        return prior, stiffness

    def _pool(self, weight: torch.Tensor, bias: torch.Tensor, shift: torch.Tensor) -> ScorePool:
        """The pool with parameters `(P, K, K)`, `(P, K)` and `(P, K)`."""
        pool = ScorePool(*bias.shape)
        pool.weight.copy_(weight)
        pool.bias.copy_(bias)
        pool.encoder_shift.copy_(shift)
        if self.only is not None:  # the model adds the encoder's logits: cancel them where this LLM has an answer
            others = torch.arange(len(bias)) != self.only
            pool.weight[others], pool.bias[others] = 0.0, 0.0
            pool.encoder_shift.zero_()
            pool.encoder_shift[self.only] = -1.0
        return pool


def encoder_alone(num_providers: int, num_labels: int) -> ScorePool:
    """The pool that gives the LLMs no weight."""
    pool = ScorePool(num_providers, num_labels)
    torch.nn.init.zeros_(pool.weight)
    return pool


def average_pools(pools: Sequence[tuple[float, ScorePool]]) -> ScorePool:
    """Average (share, pool) pairs. The average of log-linear pools is a log-linear pool."""
    average = encoder_alone(pools[0][1].num_providers, pools[0][1].num_labels)
    with torch.no_grad():
        for parameter, *parts in zip(average.parameters(), *(p.parameters() for _, p in pools), strict=True):
            shares_of = zip(pools, parts, strict=True)
            parameter.copy_(torch.stack([share * part for (share, _), part in shares_of]).sum(dim=0))
    return average


def _weights_alone(evidence: torch.Tensor, labels: Targets) -> torch.Tensor:
    """Weight of each LLM's evidence `(n, P, K)` without other sources, float32 `(P,)`, at least 0.

    With little data, single weights are easier to estimate than joint ones, so they are used as prior: a poor LLM
    starts low.
    """
    weights = torch.ones(evidence.shape[1], requires_grad=True)
    repeated = labels[torch.arange(len(labels)).repeat_interleave(len(weights))]

    def objective() -> torch.Tensor:
        logits = (evidence * weights[:, None]).flatten(0, 1)
        loss = log_loss(logits, repeated, multi_label=False).sum()
        return (loss + 0.5 * (weights - 1.0).square().sum()) / max(len(labels), 1)

    minimize(objective, [weights], max_iter=60)
    return weights.detach().clamp_min(0.0)


def fit_missing(pool: ScorePool, data: FusionData, folds: NDArray[np.int64], unseeing: list[ScorePool]) -> None:
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
    if use.sum() > MOST_HIDDEN:
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
        return loss + 0.5 * MISSING_PENALTY * shift.square().sum() / len(data.labels)

    minimize(objective, [shift], max_iter=60)
    with torch.no_grad():
        pool.missing_shift.copy_(shift * (1.0 - one))
