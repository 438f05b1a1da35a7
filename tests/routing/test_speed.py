"""Which quick answers stand, and what they may cost."""

from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LabelFusionConfig
from labelfusion.routing.run_options import Routing
from labelfusion.routing.speed import quick_answers, quick_threshold
from labelfusion.training.encoder.quick_fit import lost_accuracy

FITTED: dict[str, Any] = {"calibration": {"speed": {"balanced": None, "fast": 0.1}}}


def test_the_threshold_keeps_the_loss_within_the_points() -> None:
    rng = np.random.default_rng(0)
    error = rng.uniform(0, 0.5, 5000)
    loss = np.where(rng.random(5000) < 0.2, error, 0.0)  # the quick answer differs from the whole model's
    for most in (0.001, 0.003, 0.01):
        threshold = quick_threshold(error, loss, most)
        assert threshold is not None
        spent = loss[error <= threshold].sum() / 5000
        assert 0.7 * most < spent <= most  # a standard error below what is allowed
    assert quick_threshold(error, loss, 0.001) < quick_threshold(error, loss, 0.003)  # type: ignore[operator]


def test_few_rows_prove_less() -> None:
    error, loss = np.full(20, 0.1), np.full(20, 0.0)
    loss[0] = 0.05
    assert quick_threshold(error, loss, 0.003) is None  # 0.05 / 20, and as much for chance
    assert quick_threshold(np.tile(error, 10), np.tile(loss, 10) * 0.1, 0.003) == 0.1


def test_a_share_that_saves_no_time_is_none() -> None:
    error = np.linspace(0, 1, 1000)
    assert quick_threshold(error, np.where(error < 0.01, 0.0, 1.0), 0.003) is None
    assert quick_threshold(error, np.where(error < 0.1, 0.0, 1.0), 0.003) is not None


def test_the_loss_is_what_the_whole_model_expects() -> None:
    whole = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    quick = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    np.testing.assert_allclose(lost_accuracy(whole, quick, False), [0.0, 0.5])
    sets = lost_accuracy(np.array([[0.9, 0.2]]), np.array([[0.8, 0.6]]), True)  # {0} and {0, 1}
    np.testing.assert_allclose(sets, [0.9 * 0.8 - 0.9 * 0.2])


@pytest.mark.parametrize("multi_label", [False, True])
def test_sure_texts_get_a_quick_answer(multi_label: bool) -> None:
    problem = "multi_label_classification" if multi_label else "single_label_classification"
    config = LabelFusionConfig(num_labels=3, problem_type=problem, **FITTED)
    logits = np.array([[6.0, -6.0, -6.0], [0.2, 0.1, 0.0]], dtype=np.float32)
    assert quick_answers(logits, "fast", config).tolist() == [True, False]
    assert not quick_answers(logits, "balanced", config).any()
    assert not quick_answers(logits, "full", config).any()


@pytest.mark.parametrize("speed", ["quick", None, 2, True])
def test_other_speeds_are_refused(speed: Any) -> None:
    with pytest.raises(ValueError, match=r"`speed` is .*expected one of 'full', 'balanced', 'fast'"):
        Routing.parse(LabelFusionConfig(num_labels=3, **FITTED), speed=speed)


def test_what_speed_needs_and_excludes() -> None:
    with pytest.raises(ValueError, match="needs a quick head, and this model has none"):
        Routing.parse(LabelFusionConfig(num_labels=3), speed="fast")
    with pytest.raises(ValueError, match="`max_risk` is guaranteed for answers of the whole model"):
        Routing.parse(LabelFusionConfig(num_labels=3, **FITTED), "never", speed="fast", max_risk=0.1)
    assert Routing.parse(LabelFusionConfig(num_labels=3, **FITTED), "never", speed="balanced").speed == "balanced"


@pytest.mark.parametrize("speed", [[0.1], {"fast": "0.1"}, {"fast": float("nan")}])
def test_a_damaged_calibration_is_refused(speed: Any) -> None:
    with pytest.raises(ValueError, match=r"`calibration\['speed'\]`"):
        LabelFusionConfig(num_labels=3, calibration={"speed": speed})
