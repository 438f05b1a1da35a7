"""Penalised logistic regressions at several penalties, for all folds at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ...configuration import Task
from ..losses import Targets, bare_labels, log_loss, row_weights

MOST_STEPS, MOST_INNER_STEPS = 20, 40
# A fit ends with a step that was to gain less than this share of the objective. The steps converge quadratically, so
# that what is left then is far less.
TOLERANCE = 1e-3
INNER_SHARE, INNER_TOLERANCE = 0.2, 0.01  # conjugate gradients: of the squared gradient, and of `TOLERANCE`
HOPELESS = 1.05  # a penalty is given up when its held-out loss is that many times the least one
ENOUGH_HELD_OUT = 1000  # rows on which a penalty is chosen; the other folds are then fitted with this penalty alone
MOST_COLUMNS = 120  # classes times folds that are fitted at once, which bounds the memory


@dataclass(frozen=True)
class Features:
    """Features of n rows as a linear map, for one fit or several.

    Args:
        forward: Multiplies the features with weights float32 `(size, fits, K)`, to `(n, fits, K)`.
        backward: Multiplies the transposed features with `(n, fits, K)`, to `(size, fits, K)`.
        squares: float32 `(size, fits)` or `(size, 1)`: mean square of each feature over the rows of a fit.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor], torch.Tensor]
    squares: torch.Tensor


@dataclass(frozen=True)
class CrossFit:
    """The penalty that is best on held-out rows.

    Args:
        logits: float32 `(n, K)`, out-of-fold; 0 in rows that are never held out.
        best: The index of the penalty.
        loss: Mean log loss of the held-out rows.
        weights: float32 `(size + 1, 1, K)`: the mean over the folds, biases last, to start a fit on all rows from.
    """

    logits: torch.Tensor
    best: int
    loss: float
    weights: torch.Tensor


def cross_fit(
    features: Callable[[list[int]], Features],
    labels: Targets,
    folds: NDArray[np.int64],
    task: Task,
    penalties: tuple[float, ...],
    tolerance: float = TOLERANCE,
) -> CrossFit:
    """Choose the penalty by the loss of held-out rows, and fit without each fold.

    The penalties are tried one after the other until the held-out loss rises, because weak penalties are the slowest.

    Args:
        features: The features for the fits without each of some folds.
        labels: int64 `(n,)` or float32 `(n, K)`; or `Weighted`.
        folds: int64 `(n,)`; -1: never held out.
        task: The K classes.
        penalties: The candidates, from strong to weak.
        tolerance: Of the fits.
    """
    names, sizes = np.unique(folds[folds >= 0], return_counts=True)
    at_once = max(1, MOST_COLUMNS // task.num_labels)
    judges = int(np.searchsorted(np.cumsum(sizes), ENOUGH_HELD_OUT)) + 1
    place, logits = torch.from_numpy(folds), torch.zeros(len(labels), task.num_labels)

    def paths(chosen: NDArray[np.int64], penalties: tuple[float, ...]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        groups = [[int(fold) for fold in chosen[i : i + at_once]] for i in range(0, len(chosen), at_once)]
        held_out = [torch.stack([place == fold for fold in group], dim=1) for group in groups]
        fits = [
            penalty_path(features(group), labels, ~out, task, penalties, tolerance)
            for group, out in zip(groups, held_out, strict=True)
        ]
        for steps in zip(*fits, strict=True):
            unseen = logits.clone()
            for out, (_, of_fits) in zip(held_out, steps, strict=True):
                unseen[out.any(dim=1)] = of_fits[out]
            yield unseen, torch.cat([weights for weights, _ in steps], dim=1)

    def loss(logits: torch.Tensor, rows: torch.Tensor) -> float:
        return float(log_loss(logits[rows], labels[rows], task.multi_label).mean())

    judged = torch.isin(place, torch.from_numpy(names[:judges]))
    found = CrossFit(torch.empty(0), 0, float("inf"), torch.empty(0))
    for i, (unseen, weights) in enumerate(paths(names[:judges], penalties)):
        if (here := loss(unseen, judged)) < found.loss:
            found = CrossFit(unseen, i, here, weights)
        elif i > found.best + 1 or here > 1.02 * found.loss:
            break
    logits, weights = found.logits, found.weights
    for unseen, more in paths(names[judges:], (penalties[found.best],)):
        logits, weights = unseen, torch.cat([weights, more], dim=1)
    return replace(found, logits=logits, loss=loss(logits, place >= 0), weights=weights.mean(dim=1, keepdim=True))


def penalty_path(
    features: Features,
    labels: Targets,
    seen: torch.Tensor,
    task: Task,
    penalties: tuple[float, ...],
    tolerance: float = TOLERANCE,
    start: torch.Tensor | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield weights and logits of the fits at each penalty, each started from the previous one.

    Args:
        features: Of n rows.
        labels: int64 `(n,)` or float32 `(n, K)`; or `Weighted`.
        seen: bool `(n, fits)`: the rows of each fit. A row that one fit alone has not seen is held out. A penalty is
            given up as soon as the loss of these rows is far above that at an earlier penalty.
        task: The K classes.
        penalties: On the squared weights, relative to a loss summed over the rows.
        tolerance: Of the fits, see `TOLERANCE`.
        start: Weights to start from.

    Yields:
        Weights float32 `(size + 1, fits, K)`, biases last, and logits float32 `(n, fits, K)`.
    """
    fits = _Fits(features, labels, seen, task, tolerance)
    held_out = ~seen & (~seen).sum(dim=1, keepdim=True).eq(1)
    unseen = held_out.any(dim=1)
    weights, least = torch.zeros(fits.shape) if start is None else start, float("inf")
    for penalty in penalties:
        for step in fits.newton_steps(weights, penalty):
            weights, logits = step
            loss = float(log_loss(logits[held_out], labels[unseen], task.multi_label).mean()) if unseen.any() else 0.0
            if loss > HOPELESS * least:
                break
        least = min(least, loss)
        yield weights, logits


class _Fits:
    """Logistic regressions on the same rows and features, without some of the rows each.

    They are solved side by side by truncated Newton steps (Lin et al. 2008, "Trust region Newton method for large-scale
    logistic regression"): conjugate gradients with a diagonal preconditioner, and a line search. No fit depends on the
    others.
    """

    def __init__(self, features: Features, labels: Targets, seen: torch.Tensor, task: Task, tolerance: float) -> None:
        self.features, self.multi_label, self.tolerance = features, task.multi_label, tolerance
        self.shape = (len(features.squares) + 1, seen.shape[1], task.num_labels)
        self.counts = seen.sum(dim=0).clamp_min(1).float()[:, None]
        self.share = (seen * row_weights(labels).float()[:, None])[:, :, None] / self.counts  # of a row in the loss
        known = bare_labels(labels)
        self.truth = (known.float() if task.multi_label else F.one_hot(known, task.num_labels).float())[:, None]

    def newton_steps(self, weights: torch.Tensor, penalty: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield weights and logits after each step."""
        strength = penalty / self.counts
        logits = self._logits(weights)
        value = self._value(weights, logits, strength)
        running = torch.ones(self.shape[1])
        for _ in range(MOST_STEPS):
            p = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
            slope = self._back((p - self.truth) * self.share, strength, weights)
            step, change = self._newton_step(slope, p, strength, value)
            gain = -(slope * step).sum(dim=(0, 2))
            rate, before = running, value
            for _ in range(20):
                new_weights, new_logits = weights + rate[:, None] * step, logits + rate[:, None] * change
                value = self._value(new_weights, new_logits, strength)
                too_far = value > before - 1e-4 * rate * gain + 1e-7 * before
                if not too_far.any():
                    break
                rate = torch.where(too_far, rate / 2, rate)
            weights, logits = new_weights, new_logits
            yield weights, logits
            running = running * ((gain / 2 > self.tolerance * before) | (rate < 1))
            if not running.any():
                return

    def _newton_step(
        self, slope: torch.Tensor, p: torch.Tensor, strength: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The step of the weights, and the change of the logits that it makes."""
        spread = self.share * p
        curvature = (spread * (1 - p)).sum(dim=0).clamp_min(1e-5)
        if self.multi_label:
            spread = spread * (1 - p)
        diagonal = torch.cat([self.features.squares[:, :, None] * curvature + strength, curvature[None]])
        step, change, residual = torch.zeros_like(slope), torch.zeros_like(p), -slope
        direction = residual / diagonal
        size = (residual * direction).sum(dim=(0, 2))
        goal = (INNER_SHARE * size).clamp_min(INNER_TOLERANCE * self.tolerance * value)
        for _ in range(MOST_INNER_STEPS):
            along = self._logits(direction)
            error = spread * along
            if not self.multi_label:
                error -= p * error.sum(dim=-1, keepdim=True)
            curved = self._back(error, strength, direction)
            rate = size / (direction * curved).sum(dim=(0, 2)).clamp_min(1e-20) * (size > goal)
            step.addcmul_(rate[:, None], direction)
            change.addcmul_(rate[:, None], along)
            residual.addcmul_(rate[:, None], curved, value=-1)
            now = (residual.square() / diagonal).sum(dim=(0, 2))
            if (now <= goal).all():
                break
            direction = direction.mul_((now / size.clamp_min(1e-20))[:, None]).add_(residual / diagonal)
            size = now
        return step, change

    def _logits(self, weights: torch.Tensor) -> torch.Tensor:
        return self.features.forward(weights[:-1]) + weights[-1]

    def _back(self, errors: torch.Tensor, strength: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The gradient with respect to the weights, from that with respect to the logits."""
        slope = torch.cat([self.features.backward(errors), errors.sum(dim=0, keepdim=True)])
        slope[:-1].addcmul_(strength, weights[:-1])
        return slope

    def _value(self, weights: torch.Tensor, logits: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """float32 `(fits,)`: the objective of each fit."""
        if self.multi_label:
            losses = (F.softplus(logits) - self.truth * logits).sum(dim=-1)
        else:
            losses = logits.logsumexp(dim=-1) - (self.truth * logits).sum(dim=-1)
        loss = (self.share[:, :, 0] * losses).sum(dim=0, dtype=torch.float64)
        held = 0.5 * (strength * weights[:-1].square()).sum(dim=(0, 2), dtype=torch.float64)
        return (loss + held).float()
