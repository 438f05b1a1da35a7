"""Selects the texts that are sent to the LLMs: all, none, those above the gate's threshold, or a share."""

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..scoring.probabilities import to_probabilities
from .gate import NEVER, SHARES, expected_error, gate_values
from .out_of_distribution import doubted
from .risk import RiskControl, risk_control


@dataclass(frozen=True)
class Above:
    """Internal policy: query where the gate's value is above this. Created by `for_accuracy`."""

    threshold: float


Policy: TypeAlias = str | float | Above

# Without a calibrated gate, "auto" queries where the encoder's expected error is above this.
DEFAULT_EXPECTED_ERROR = 0.1
HISTORY = 8192  # latest gate values from which a stream's threshold is computed
SLACK = 32  # texts by which a stream may deviate from its share


def check_policy(policy: Policy) -> Policy:
    """Validate `llm_policy`; a share of 0 becomes `"never"`, a share of 1 `"always"`.

    Raises:
        ValueError: For anything but `"always"`, `"never"`, `"auto"` or a number in [0, 1].
    """
    if isinstance(policy, Above) or (isinstance(policy, str) and policy in ("always", "never", "auto")):
        return policy
    number = isinstance(policy, int | float | np.integer | np.floating) and not isinstance(policy, bool)
    if not number or not 0.0 <= float(policy) <= 1.0:
        raise ValueError(
            f"`llm_policy` is {policy!r}; expected 'always', 'never', 'auto' or a share of the texts between 0 and 1 "
            "(0.3: the 30 % of the texts with the highest gate values are sent to the LLM)."
        )
    return {0.0: "never", 1.0: "always"}.get(float(policy), float(policy))


def is_cascade(policy: Policy, config: LabelFusionConfig) -> bool:
    """Whether the LLMs are queried one after the other: with `"auto"`, if each has its own gate."""
    stages = (config.calibration.get("gate") or {}).get("stages") or []
    return policy == "auto" and len(stages) == config.num_providers > 1


def resolve_policy(llm_policy: Policy, target_accuracy: float | None, config: LabelFusionConfig) -> Policy:
    """Resolve `llm_policy` and `target_accuracy` to one policy.

    Raises:
        ValueError: As in `check_policy` and `for_accuracy`.
    """
    policy = check_policy(llm_policy)
    return policy if target_accuracy is None else for_accuracy(target_accuracy, policy, config)


def for_accuracy(target_accuracy: float, llm_policy: Policy, config: LabelFusionConfig) -> Policy:
    """The policy with the fewest LLM queries that reached an accuracy on held-out rows when the model was fitted.

    Args:
        target_accuracy: Required share of correct texts (multi-label: correct in all classes), in (0, 1].
        llm_policy: The policy that was also given. A share contradicts the accuracy.
        config: The model's config.

    Raises:
        ValueError: If no share of queries reached the accuracy, or the model has no gate.
    """
    if not isinstance(target_accuracy, int | float) or not 0.0 < target_accuracy <= 1.0:
        raise ValueError(f"`target_accuracy` must be a number above 0 and up to 1, got {target_accuracy!r}.")
    if llm_policy not in ("always", "auto"):
        raise ValueError(f"`target_accuracy` sets how many texts are queried; leave `llm_policy`={llm_policy!r} out.")
    curve = (config.calibration.get("gate") or {}).get("curve")
    if not curve:
        raise ValueError(
            "`target_accuracy` needs the held-out curve of a model that was fitted with LLM scores; this one has none. "
            "Fit it on rows with scores, or give `llm_policy`."
        )
    reached = np.flatnonzero(np.array(curve["accuracy"]) >= target_accuracy)
    if not len(reached):
        best = int(np.argmax(curve["accuracy"]))
        raise ValueError(
            f"`target_accuracy`={target_accuracy:g} was not reached on held-out rows at any share of queries; the "
            f"best was {curve['accuracy'][best]:.4f}, with {best} % of the texts queried. Give a lower accuracy."
        )
    share = int(reached[0])
    if share in (0, 100):
        return Above(NEVER) if share == 0 else "always"
    return Above(float(curve["threshold"][share]))


def controlled_risk(max_risk: float, policy: Policy, config: LabelFusionConfig) -> RiskControl:
    """Thresholds for abstention under a policy, so that at most `max_risk` of all texts get a wrong answer.

    Args:
        max_risk: See `routing.risk.RiskControl`.
        policy: The policy of the run. The guarantee holds only for this policy.
        config: The model's config.

    Raises:
        ValueError: If the risk cannot be guaranteed.
    """
    calibration = config.calibration.get("risk") or {}
    if is_cascade(policy, config):
        raise ValueError(
            "`max_risk` is not calibrated for a cascade of LLMs; give `llm_policy` 'always', 'never' or a share."
        )
    if calibration.get("encoder_only") and policy != "never":
        raise ValueError(
            f"`max_risk` is known for `llm_policy`='never' alone, got {policy!r}: too few training rows had scores to "
            "measure what the LLM changes. Give 'never', or fit on more rows with scores."
        )
    above: float | None
    if isinstance(policy, Above):
        above = policy.threshold
    elif policy == "auto":
        above = gate_values(np.full((1, config.num_labels), 0.5), config.calibration, config.multi_label)[1]
    elif isinstance(policy, str):
        above = -np.inf if policy == "always" and config.num_providers else np.inf
    else:
        above = float(np.interp(policy, SHARES, calibration["shares"])) if calibration else None
    return risk_control(max_risk, calibration, config.multi_label, above)


def gated(
    logits: NDArray[np.floating],
    config: LabelFusionConfig,
    novelty: NDArray[np.floating] | None = None,
    stage: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Gate values of the texts, float64 `(n,)`, and whether each exceeds the threshold of `"auto"`, bool `(n,)`.

    Without a calibrated threshold, `expected_error` above `DEFAULT_EXPECTED_ERROR` decides.

    Args:
        logits: float `(n, K)`: calibrated, with the LLM answers observed so far.
        config: The model's config.
        novelty: float `(n,)`: out-of-distribution scores, see `routing.out_of_distribution.doubted`.
        stage: Index of the LLM that would be queried next; `None`: all of them at once.
    """
    probs = to_probabilities(logits, config.multi_label, np.float32)
    values, threshold = gate_values(probs, config.calibration, config.multi_label, stage, novelty)
    if threshold is not None:
        return values, values > threshold
    trusted = doubted(probs, novelty, config.multi_label)
    return values, expected_error(trusted, config.multi_label) > DEFAULT_EXPECTED_ERROR


def most(values: NDArray[np.floating], count: int) -> NDArray[np.bool_]:
    """bool `(n,)`: mask of the `count` largest values. Among equal values, the first ones are taken."""
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


def select(
    encoder_logits: NDArray[np.floating],
    policy: Policy,
    config: LabelFusionConfig,
    novelty: NDArray[np.floating] | None = None,
) -> NDArray[np.bool_]:
    """Select the texts of one batch to send to the LLMs.

    Args:
        encoder_logits: float `(n, num_labels)`, calibrated, as the model returns them.
        policy: `"always"`; `"never"`; a share s in [0, 1]: exactly `round(s * n)` texts, those with the highest gate
            values; `"auto"`: those whose gate value exceeds the threshold or, without a calibrated threshold, whose
            `expected_error` exceeds 0.1.
        config: The model's config.
        novelty: float `(n,)`: out-of-distribution scores, see `routing.out_of_distribution.doubted`.

    Returns:
        bool `(n,)`.

    Raises:
        ValueError: For an invalid policy.
    """
    policy = check_policy(policy)
    count = len(encoder_logits)
    if count == 0 or policy in ("always", "never"):
        return np.full(count, policy == "always")
    values, exceeds = gated(encoder_logits, config, novelty)
    if isinstance(policy, Above):
        return values > policy.threshold
    return exceeds if policy == "auto" else most(values, round(float(policy) * count))


class StreamSelector:
    """`select` for the windows of a stream of unknown length.

    For a share, the threshold is a quantile of the gate values seen so far, so that a window of hard texts gets more
    queries than one of easy texts. In any order of the texts, the number of queries deviates from the share of the
    texts seen so far by at most 2 % of it, and by at most `SLACK` texts.

    Args:
        policy: As for `select`.
        config: The model's config.
    """

    def __init__(self, policy: Policy, config: LabelFusionConfig) -> None:
        self.policy, self.config = check_policy(policy), config
        self.seen = self.asked = 0
        self._history: deque[float] = deque(maxlen=HISTORY)

    def __call__(
        self, encoder_logits: NDArray[np.floating], novelty: NDArray[np.floating] | None = None
    ) -> NDArray[np.bool_]:
        """Select among the next texts: bool `(n,)` from logits `(n, num_labels)` and `novelty` `(n,)`."""
        if not isinstance(self.policy, float) or len(encoder_logits) == 0:
            return select(encoder_logits, self.policy, self.config, novelty)
        values, _ = gated(encoder_logits, self.config, novelty)
        self._history.extend(values.tolist())
        self.seen += len(values)
        due, slack = self.policy * self.seen - self.asked, min(SLACK, 0.02 * self.seen)
        count = int((values > np.quantile(self._history, 1.0 - self.policy)).sum())
        mask = most(values, int(np.clip(count, max(0, round(due - slack)), max(0, round(due + slack)))))
        self.asked += int(mask.sum())
        return mask
