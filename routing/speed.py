"""The speed of a run: which texts are answered by the quick head, in place of the encoder.

A cascade with a calibrated gate (Viola and Jones 2001; for language models, Xin et al. 2020, arXiv:2004.12993, and
Schuster et al. 2022, arXiv:2207.07061). The gate is calibrated on held-out rows when the model is fitted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..scoring.probabilities import to_probabilities
from .gate import expected_error

# Accuracy that may be lost in expectation, as a share of all texts (multi-label: of texts with all classes right).
SPEEDS = {"full": 0.0, "balanced": 0.001, "fast": 0.003}
LEAST_SHARE = 0.02  # of the texts; below, the quick head costs more time than it saves


def check_speed(speed: Any, max_risk: float | None, config: LabelFusionConfig) -> None:
    """Check a user's `speed`.

    Raises:
        ValueError: For another name, a model without a calibrated quick head, or together with `max_risk`.
    """
    if not isinstance(speed, str) or speed not in SPEEDS:
        raise ValueError(f"`speed` is {speed!r}; expected one of {', '.join(map(repr, SPEEDS))}.")
    if speed == "full":
        return
    if "speed" not in config.calibration:
        raise ValueError(
            f"`speed`={speed!r} needs a quick head, and this model has none: it was fitted by an older version, with "
            "fewer than 100 labelled rows or with `extra_sources=False`, or exported to ONNX. Fit it again, or give "
            "'full'."
        )
    if max_risk is not None:
        raise ValueError(
            f"`max_risk` is guaranteed for answers of the whole model, not for `speed`={speed!r}. Give `speed='full'`, "
            "or leave `max_risk` out."
        )


def quick_answers(logits: NDArray[np.floating], speed: str, config: LabelFusionConfig) -> NDArray[np.bool_]:
    """Select the texts whose quick answer stands.

    Args:
        logits: float `(n, K)` of the quick head.
        speed: One of `SPEEDS`.
        config: The model's config.

    Returns:
        bool `(n,)`.
    """
    error = expected_error(to_probabilities(logits, config.multi_label, np.float32), config.multi_label)
    highest = (config.calibration.get("speed") or {}).get(speed)
    return np.zeros(len(logits), dtype=bool) if highest is None else error <= float(highest)


def quick_threshold(error: NDArray[np.floating], loss: NDArray[np.floating], most: float) -> float | None:
    """The highest expected error at which quick answers stand, so that they lose little accuracy.

    Args:
        error: float `(n,)`: the quick head's expected error of held-out rows.
        loss: float `(n,)`, 0 or more: the accuracy lost if the quick answer stands, as the whole model expects it.
        most: Share of all rows that may be lost. One standard error of the estimate is added to it.

    Returns:
        The threshold, or `None` if it would be below that of `LEAST_SHARE` of the rows.
    """
    order = np.argsort(error, kind="stable")
    lost, n = loss[order], len(loss)
    bound = (lost.cumsum() + np.sqrt(np.square(lost).cumsum())) / n
    count = int((bound <= most).sum())
    return None if count < max(1.0, LEAST_SHARE * n) else float(error[order[count - 1]])
