"""The step of the recipe that stores held-out errors, which conformal risk control needs."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...configuration import DecisionRule
from ...routing.decisions import decided_classes
from ...routing.gate import SHARES, expected_error, gate_values

if TYPE_CHECKING:
    from ..fit_state import FitState

MOST_ROWS = 2000  # held-out rows whose errors are stored


def store_errors(state: "FitState") -> "FitState":
    """Store the errors of the out-of-fold answers, without and with the LLMs, with their gate values."""
    config, rows = state.config, state.judged
    encoder, fused = state.encoder_probs[rows], state.probabilities
    if state.fused_logits is None:
        values = np.zeros(len(fused))
    else:
        values = gate_values(encoder, config.calibration, state.task.multi_label, novelty=state.novelty[rows])[0]
    novelty = state.novelty[rows]
    risk = calibrate_risk(encoder, fused, values, state.labels[rows], config.decision_rule, novelty)
    if state.fused_logits is None and config.num_providers:
        risk["encoder_only"] = True  # the default pool was not measured
    config.calibration["risk"] = risk
    return state


def calibrate_risk(
    encoder_probs: NDArray[np.floating],
    fused_probs: NDArray[np.floating],
    values: NDArray[np.floating],
    labels: NDArray[Any],
    rule: DecisionRule | None = None,
    novelty: NDArray[np.floating] | None = None,
) -> dict[str, Any]:
    """Collect the held-out errors for `risk_control`, as plain data for `config.calibration["risk"]`.

    Only rows with an error contribute to the loss, so only these are stored, without their classes.

    Args:
        encoder_probs: float `(n, K)`, out-of-fold.
        fused_probs: float `(n, K)` of the same rows with their LLM scores, out-of-fold.
        values: float `(n,)`: gate values.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        rule: Multi-label: how probabilities become labels.
        novelty: float `(n,)`: out-of-distribution scores, out of sample. The model abstains where they are above 0, so
            errors there do not count. Default: it does not abstain for this reason.

    Returns:
        `rows`: n; `outside`: whether there is a `novelty`; `shares`: 101 quantiles of `values`; and for `encoder` and
        `fused`: `wrong`, a list of (value, confidence) of the wrong rows, and `missed`, a list of (value, probability,
        share of the row's true classes) of each true class that was not predicted.
    """
    multi_label = labels.ndim == 2
    inside = np.ones(len(labels), dtype=bool) if novelty is None else np.asarray(novelty) <= 0
    if len(labels) > MOST_ROWS:
        some = np.random.default_rng(0).permutation(len(labels))[:MOST_ROWS]
        encoder_probs, fused_probs, values, labels = (a[some] for a in (encoder_probs, fused_probs, values, labels))
        inside = inside[some]
    truth = labels > 0 if multi_label else np.eye(encoder_probs.shape[1], dtype=bool)[labels]
    found: dict[str, Any] = {
        "rows": len(labels),
        "outside": novelty is not None,
        "shares": _rounded(np.quantile(values, 1.0 - SHARES)),
    }
    for name, probs in (("encoder", encoder_probs), ("fused", fused_probs)):
        decided = decided_classes(probs, multi_label, rule)
        wrong = (decided != truth).any(axis=1) & inside
        confidence = 1.0 - expected_error(probs, multi_label)
        row, label = np.nonzero(truth & ~decided & inside[:, None])
        share = 1.0 / truth.sum(axis=1).clip(1)
        found[name] = {
            "wrong": [_rounded(pair) for pair in zip(values[wrong], confidence[wrong], strict=True)],
            "missed": [_rounded(t) for t in zip(values[row], probs[row, label], share[row], strict=True)],
        }
    return found


def _rounded(values: Any) -> list[float]:
    return [round(float(x), 6) for x in values]
