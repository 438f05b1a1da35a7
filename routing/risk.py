"""Conformal risk control: the model abstains on doubtful texts to guarantee a bound on the risk of wrong answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import DecisionRule
from .decisions import decided_classes
from .gate import expected_error


@dataclass
class RiskControl:
    """Decides which answers are given, and computes label sets, at a guaranteed risk.

    The thresholds are those of conformal risk control (Angelopoulos et al. 2022, arXiv:2208.02814): the largest ones
    whose loss on n held-out rows, plus one row of maximal loss, stays within the risk. For a new text that is
    exchangeable with these rows, the expected loss is then at most the risk. Two losses are controlled separately:

    * wrong answers that are given (multi-label: wrong in any class), as a share of all texts;
    * true classes missing in the label set: for a single class, how often the true class is not in the set; for
      multi-label, the mean share of a text's classes.

    Exchangeable means: drawn as the training texts were. The guarantee says nothing about another domain, and a text
    that is unlike the training texts by its out-of-distribution score is therefore not answered (`outside`).

    The held-out rows are those of the cross-fitting. In practice this keeps the guarantee, in theory it weakens it a
    little (cross-conformal prediction, Vovk 2015).

    Args:
        confidence: Minimum `1 - expected_error` of an answer that is given.
        cutoff: Minimum probability of a class in the label set. The predicted classes are always in it.
        multi_label: Whether the classes are independent.
        max_risk: The risk that is guaranteed.
        outside: Whether the model abstains on out-of-distribution texts; any class may be true of them.
    """

    confidence: float
    cutoff: float
    multi_label: bool
    max_risk: float
    outside: bool = False

    def answered(self, probs: NDArray[np.floating], novelty: NDArray[np.floating] | None = None) -> NDArray[np.bool_]:
        """Which answers are given.

        Args:
            probs: float `(n, K)`.
            novelty: float `(n,)`: out-of-distribution scores; `None`: all are 0.

        Returns:
            bool `(n,)`.
        """
        sure = 1.0 - expected_error(probs, self.multi_label) >= self.confidence
        return np.asarray(sure & ~self._held_back(len(probs), novelty))

    def label_sets(
        self,
        probs: NDArray[np.floating],
        rule: DecisionRule | None = None,
        novelty: NDArray[np.floating] | None = None,
    ) -> NDArray[np.bool_]:
        """bool `(n, K)`: the classes that may be true; `novelty` as for `answered`."""
        sets = (probs >= self.cutoff) | decided_classes(probs, self.multi_label, rule)
        return np.asarray(sets | self._held_back(len(probs), novelty)[:, None])

    def _held_back(self, count: int, novelty: NDArray[np.floating] | None) -> NDArray[np.bool_]:
        if novelty is None or not self.outside:
            return np.zeros(count, dtype=bool)
        return np.asarray(novelty) > 0


def risk_control(
    max_risk: float, calibration: dict[str, Any], multi_label: bool, asked_above: float | None = None
) -> RiskControl:
    """Compute the thresholds for a risk.

    Args:
        max_risk: The risk, in (0, 1).
        calibration: The result of `calibrate_risk`.
        multi_label: Whether the classes are independent.
        asked_above: Gate value above which the LLM is queried; `-inf`: always, `inf`: never.

    Raises:
        ValueError: For a risk out of range, or too small for the number of held-out rows.
    """
    if not isinstance(max_risk, int | float) or isinstance(max_risk, bool) or not 0.0 < max_risk < 1.0:
        raise ValueError(f"`max_risk` must be a number between 0 and 1, got {max_risk!r}.")
    if not calibration:
        raise ValueError(
            "`max_risk` needs the held-out rows of a model that was fitted with LLM scores; this one has none. Fit it "
            "on rows with scores."
        )
    count = int(calibration["rows"])
    room = max_risk * (count + 1) - 1.0  # allowed loss of the held-out rows, if the new text has loss 1
    if room < 0:
        raise ValueError(
            f"`max_risk`={max_risk:g} cannot be guaranteed from {count} held-out rows: {1 / (count + 1):.4f} is the "
            "least. Give a larger risk, or fit on more rows with LLM scores."
        )
    threshold = -np.inf if asked_above is None else asked_above
    wrong = _mixed(calibration, "wrong", 2, threshold)
    missed = _mixed(calibration, "missed", 3, threshold)
    confidences = np.sort(wrong[:, 1])[::-1]
    allowed = int(room + 1e-9)
    least = 0.0 if len(confidences) <= allowed else float(np.nextafter(confidences[allowed], 2.0))
    order = np.argsort(missed[:, 1], kind="stable")
    over = np.flatnonzero(np.cumsum(missed[order, 2]) > room + 1e-9)
    cutoff = float(missed[order[over[0]], 1]) if len(over) else 1.0
    return RiskControl(least, cutoff, multi_label, max_risk, bool(calibration.get("outside")))


def _mixed(calibration: dict[str, Any], kind: str, width: int, threshold: float) -> NDArray[np.float64]:
    """The errors of the held-out rows under the policy, with or without the LLM for each row."""
    encoder = np.array(calibration["encoder"][kind], dtype=np.float64).reshape(-1, width)
    fused = np.array(calibration["fused"][kind], dtype=np.float64).reshape(-1, width)
    return np.concatenate([encoder[encoder[:, 0] <= threshold], fused[fused[:, 0] > threshold]])
