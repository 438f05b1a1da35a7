"""The gate of selective querying: predicts from the encoder's output where an LLM call is worth its cost."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .out_of_distribution import doubted

NEVER = 1e9  # larger than any gate value; JSON has no infinity
HEDGE = 0.35  # weight of the expected error, as two numbers per class describe an LLM only roughly
SHARES = np.linspace(0.0, 1.0, 101)


def uncertainty(encoder_probs: NDArray[np.floating], multi_label: bool) -> NDArray[np.float64]:
    """Uncertainty of the encoder about each text.

    Args:
        encoder_probs: float `(n, num_labels)`, calibrated.
        multi_label: Whether the classes are independent.

    Returns:
        float64 `(n,)`. Single-label: 1 minus the margin between the two best classes (Scheffer et al. 2001), in [0, 1].
        Multi-label: the expected number of classes that the encoder gets wrong, in `[0, num_labels / 2]`.
    """
    probs = np.asarray(encoder_probs, dtype=np.float64)
    if multi_label:
        return np.minimum(probs, 1.0 - probs).sum(axis=1)
    best = np.partition(probs, -2, axis=1)[:, -2:]
    return 1.0 - (best[:, 1] - best[:, 0])


def expected_error(encoder_probs: NDArray[np.floating], multi_label: bool) -> NDArray[np.float64]:
    """float64 `(n,)`: the encoder's own estimate of the probability that its prediction is wrong (in any class)."""
    probs = np.asarray(encoder_probs, dtype=np.float64)
    if multi_label:
        return 1.0 - np.maximum(probs, 1.0 - probs).prod(axis=1)
    return 1.0 - probs.max(axis=1)


@dataclass
class Gate:
    """The value of an LLM call: how much it is expected to raise the probability of a correct prediction.

    An LLM answer is reduced to the classes that it names. The reliability for each class is learnt from rows with LLM
    answers. The value of a text is the expected probability of the best prediction after the LLM answer, minus that of
    the best prediction now (the value of information, Howard 1966; as a rule for when to query, Kapoor and Horvitz
    2007). It is never negative, and 0 if no LLM answer could change the prediction. FrugalGPT (Chen et al. 2023,
    arXiv:2305.05176), RouteLLM (Ong et al. 2024, arXiv:2406.18665) and AutoMix (Aggarwal et al. 2023,
    arXiv:2310.12963) showed that the output of a cheap model predicts where an expensive one helps. They learn this
    text by text, and need far more rows than the 2 K numbers here.

    Args:
        recall: float64 `(K,)`: how often the LLM names class k where k is correct.
        rate: float64 `(K,)`: how often it names class k at all; multi-label: how often it does not where k is wrong.
        multi_label: Whether the classes are independent.
        threshold: Value from which `"auto"` queries.
    """

    recall: NDArray[np.float64]
    rate: NDArray[np.float64]
    multi_label: bool
    threshold: float = NEVER

    def __call__(self, probs: NDArray[np.floating]) -> NDArray[np.float64]:
        """The value of querying the LLM about each text.

        Args:
            probs: float `(n, K)`: calibrated probabilities without the LLM.

        Returns:
            float64 `(n,)`: the value, in accuracy (multi-label: exact match), plus `HEDGE` times the expected error.
            The latter makes the order robust against wrong reliabilities, and orders texts of equal value.
        """
        p = np.asarray(probs, dtype=np.float64)
        error = expected_error(p, self.multi_label)
        if self.multi_label:
            named = np.maximum(p * self.recall, (1.0 - p) * (1.0 - self.rate))
            unnamed = np.maximum(p * (1.0 - self.recall), (1.0 - p) * self.rate)
            after = (named + unnamed).prod(axis=1)
        else:
            # The LLM names class j either correctly, or instead of class k, in proportion to how often it names j.
            mistaken = p * (1.0 - self.recall) / (1.0 - self.rate)
            top = mistaken.argmax(axis=1)
            rival = np.repeat(mistaken.max(axis=1, keepdims=True), p.shape[1], axis=1)
            rows = np.arange(len(p))
            rival[rows, top] = np.partition(mistaken, -2, axis=1)[:, -2]
            after = np.maximum(p * self.recall, self.rate * rival).sum(axis=1)
        return np.maximum(after - (1.0 - error), 0.0) + HEDGE * error

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model's config."""
        return {
            "recall": [round(float(x), 5) for x in self.recall],
            "rate": [round(float(x), 5) for x in self.rate],
            "threshold": float(self.threshold),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], multi_label: bool) -> Self:
        """Create a gate from the data of `to_dict`."""
        return cls(np.array(data["recall"]), np.array(data["rate"]), multi_label, float(data["threshold"]))


def gate_values(
    probs: NDArray[np.floating],
    calibration: dict[str, Any],
    multi_label: bool,
    stage: int | None = None,
    novelty: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.float64], float | None]:
    """Gate values of the texts, and the threshold of `"auto"`.

    Args:
        probs: float `(n, K)`: calibrated probabilities, with the LLM answers observed so far.
        calibration: `config.calibration`. Without a learnt gate, `uncertainty` and `gate_threshold` are used.
        multi_label: Whether the classes are independent.
        stage: Index of the LLM that would be queried next; `None`: all of them at once.
        novelty: float `(n,)`: out-of-distribution scores, see `doubted`.

    Returns:
        float64 `(n,)` and the threshold, `None` if none was calibrated.
    """
    probs = doubted(probs, novelty, multi_label)
    learnt = calibration.get("gate") or {}
    entry = learnt if stage is None else (learnt.get("stages") or [learnt])[stage]
    if "recall" in entry:
        gate = Gate.from_dict(entry, multi_label)
        return gate(probs), gate.threshold
    threshold = entry.get("threshold", calibration.get("gate_threshold"))
    return uncertainty(probs, multi_label), None if threshold is None else float(threshold)
