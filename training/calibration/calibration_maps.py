"""Calibration maps of logits, and the choice among them by their loss on held-out rows.

Temperature, scale and bias per class, monotone map.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ...evaluation.metrics import calibration_error
from ...modeling_labelfusion.monotone import Knots, top_odds
from ...scoring.probabilities import to_probabilities
from ..losses import Targets, bare_labels, log_loss, minimize, row_weights

SCALE_PENALTY, BIAS_PENALTY = 10.0, 3.0
NUM_BINS = 12  # of a monotone map
PRIOR_ROWS = 10.0  # weight of the mean predicted probability of a bin, in rows
FEWEST_ROWS = {"vector": 100, "isotonic": 300}
CALIBRATIONS = ("auto", "none", "temperature", *FEWEST_ROWS)
Apply = Callable[[torch.Tensor], torch.Tensor]
Fit = Callable[[torch.Tensor, Targets], Apply]


def fit_temperature(logits: torch.Tensor, labels: Targets, multi_label: bool) -> float:
    """The temperature that minimises the log loss of `logits / temperature` (Guo et al. 2017, arXiv:1706.04599).

    Args:
        logits: float `(n, K)`, out-of-fold.
        labels: int64 `(n,)` or float `(n, K)`.
        multi_label: Whether the classes are independent.

    Returns:
        A number between 0.05 and 20. A prior with the weight of one row shrinks it to 1, against extremes on few rows.
    """
    if len(logits) == 0:
        return 1.0
    logits, labels = logits.double(), labels.double() if multi_label else labels
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def objective() -> torch.Tensor:
        return log_loss(logits / log_t.exp(), labels, multi_label).mean() + 0.5 * log_t.square() / len(logits)

    minimize(objective, [log_t], max_iter=50)
    return float(log_t.detach().exp().clamp(0.05, 20.0))


def fit_vector_scaling(logits: torch.Tensor, labels: Targets, multi_label: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Vector scaling (Guo et al. 2017): `logits * scale + bias`, with a penalty on the deviation from a temperature.

    The full matrix of Kull et al. 2019 (ODIR, arXiv:1910.12656), with the same penalty, lowered the log loss of
    held-out rows by less than one per cent more, and not at all where classes occur together (Reuters).

    Args:
        logits: float32 `(n, K)`, out-of-fold.
        labels: int64 `(n,)` or float32 `(n, K)`.
        multi_label: Whether the classes are independent.

    Returns:
        Scale and bias, both float32 `(K,)`.
    """
    temperature = fit_temperature(logits, labels, multi_label)
    logits = logits / temperature
    size = float(logits.square().mean().sqrt().clamp_min(1e-3))
    extra = torch.zeros(logits.shape[1], requires_grad=True)
    bias = torch.zeros(logits.shape[1], requires_grad=True)

    def objective() -> torch.Tensor:
        # Biases only shift class frequencies and need little data, so their penalty is small.
        held = SCALE_PENALTY * (size * extra).square().sum() + BIAS_PENALTY * bias.square().sum()
        return log_loss(logits * (1 + extra) + bias, labels, multi_label).mean() + 0.5 * held / len(logits)

    minimize(objective, [extra, bias], max_iter=60)
    return ((1 + extra) / temperature).detach(), bias.detach()


def fit_monotone(
    logits: NDArray[np.floating], truth: NDArray[np.bool_], weights: NDArray[np.floating] | None = None
) -> Knots:
    """Isotonic regression of outcomes on logits (Zadrozny and Elkan 2002), reduced to a few knots.

    The rates of bins of equal mass are shrunk to the predicted probabilities by the weight of `PRIOR_ROWS` rows, then
    pooled until they increase. The rest are knots, interpolated linearly in logit space, so that distinct logits stay
    distinct.

    Args:
        logits: float `(m,)`.
        truth: bool `(m,)`.
        weights: float `(m,)`: weights of the outcomes; `None`: all are 1.
    """
    from sklearn.isotonic import IsotonicRegression

    logits = np.asarray(logits, dtype=np.float64).clip(-30, 30)
    if len(logits) == 0:
        return [[0.0], [0.0]]
    edges = np.unique(np.quantile(logits, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    place = np.unique(np.searchsorted(edges, logits), return_inverse=True)[1]
    weights = np.ones(len(logits)) if weights is None else weights
    counts = np.bincount(place, weights=weights)
    probs = (1.0 / (1.0 + np.exp(-logits))).clip(1e-4, 1 - 1e-4)
    hits, expected, x = (np.bincount(place, weights=weights * v) / counts for v in (truth, probs, logits))
    rates = (counts * hits + PRIOR_ROWS * expected) / (counts + PRIOR_ROWS)
    level = IsotonicRegression().fit_transform(x, rates, sample_weight=counts + PRIOR_ROWS)
    blocks = np.split(np.arange(len(x)), np.flatnonzero(np.diff(level) > 1e-3) + 1)
    x, rate = (np.array([np.average(v[b], weights=counts[b]) for b in blocks]) for v in (x, level))
    apart = np.flatnonzero(np.diff(x, prepend=-np.inf) > 1e-3)  # knots that stay distinct after rounding
    return [[round(float(v), 4) for v in values[apart]] for values in (x, np.log(rate / (1 - rate)))]


def fit_score_map(scores: torch.Tensor, labels: Targets, multi_label: bool, floor: float) -> Knots:
    """Fit the map of one LLM's scores for `map_scores`, pooled over the classes (one against the rest).

    Args:
        scores: float `(n, K)`; rows with NaN are left out.
        labels: int64 `(n,)` or float `(n, K)`.
        multi_label: Whether the classes are independent.
        floor: Scores are clipped this far away from 0 and 1.
    """
    heard = ~torch.isnan(scores).any(dim=-1)
    logits = torch.logit(scores[heard].double().clamp(floor, 1.0 - floor))
    known = bare_labels(labels)[heard]
    truth = known > 0 if multi_label else F.one_hot(known, scores.shape[1]) > 0
    weights = row_weights(labels)[heard].repeat_interleave(scores.shape[1])
    return fit_monotone(logits.flatten().numpy(), truth.flatten().numpy(), weights.numpy())


def fit_answer_map(logits: torch.Tensor, labels: Targets, multi_label: bool) -> Knots:
    """Fit the map of the fused logits for `map_logits`; `logits` float `(n, K)`, out-of-fold."""
    known, weights = bare_labels(labels), row_weights(labels)
    if multi_label:
        weights = weights.repeat_interleave(logits.shape[1])
        return fit_monotone(logits.flatten().numpy(), (known > 0).flatten().numpy(), weights.numpy())
    odds, best, _ = top_odds(logits)
    return fit_monotone(odds.squeeze(-1).numpy(), (best.squeeze(-1) == known).numpy(), weights.numpy())


def cross_fitted(fit: Fit, x: torch.Tensor, labels: Targets, folds: NDArray[np.int64]) -> torch.Tensor:
    """Calibrate each row with a fit on the other folds.

    Args:
        fit: Fits on rows and labels, and returns a function that calibrates other rows.
        x: float `(n, K)`.
        labels: int64 `(n,)` or float `(n, K)`.
        folds: int64 `(n,)`.
    """
    out = torch.empty_like(x)
    for fold in np.unique(folds):
        held_out = torch.from_numpy(folds == fold)
        out[held_out] = fit(x[~held_out], labels[~held_out])(x[held_out])
    return out


def candidate_maps(wanted: str, rows: int, flexible: str) -> list[str]:
    """The candidates, from none to the flexible one. An explicit choice is the only one if there are enough rows."""
    enough = rows >= FEWEST_ROWS[flexible]
    if wanted == "auto":
        return ["none", "temperature", *([flexible] if enough else [])]
    return [wanted] if wanted == "none" or (wanted == flexible and enough) else ["temperature"]


def report_choice(
    chosen: str,
    losses: dict[str, torch.Tensor],
    before: torch.Tensor,
    after: torch.Tensor,
    labels: Targets,
    multi_label: bool,
) -> dict[str, Any]:
    """Report the choice, the comparison, and the metrics of logits `(n, K)` before and after calibration."""
    report: dict[str, Any] = {"chosen": chosen}
    report["log_loss"] = {name: round(float(loss.mean()), 5) for name, loss in losses.items()}
    for when, logits in (("before", before), ("after", after)):
        probs = to_probabilities(logits.numpy(), multi_label)
        weights = row_weights(labels).numpy()
        report[when] = calibration_error(probs, bare_labels(labels).numpy(), multi_label, weights)
    return report
