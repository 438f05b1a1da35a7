"""The recipe of `fit`: a list of steps, each from a state to a state."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification as Model
from labelfusion.training.calibration.answer_calibration import calibrate_answers
from labelfusion.training.calibration.gate_fit import fit_gates
from labelfusion.training.calibration.risk_fit import store_errors
from labelfusion.training.calibration.thresholds import set_thresholds
from labelfusion.training.encoder.encoder_fit import encode, train_encoder
from labelfusion.training.encoder.encoder_sources import stack_sources
from labelfusion.training.encoder.novelty_fit import measure_novelty
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.fit_state import FitState
from labelfusion.training.fusion.fusion_fit import fuse
from labelfusion.training.recipe import RECIPE, fit

MakeModel = Callable[..., Model]
CLASSES = (("movie", "film"), ("team", "goal"), ("stock", "bank"))


@pytest.fixture
def start(make_model: MakeModel, tiny_tokenizer: Any) -> Callable[..., FitState]:
    """`start(rows=60, multi_label=False, num_providers=1)`: texts that tell their class, and scores that do mostly."""

    def make(rows: int = 60, multi_label: bool = False, num_providers: int = 1) -> FitState:
        rng = np.random.default_rng(0)
        drawn = rng.integers(0, 3, rows)
        texts = [f"the {CLASSES[k][i % 2]} w{i % 10} w{i // 10 % 10}" for i, k in enumerate(drawn)]
        labels: Any = np.eye(3, dtype=np.float32)[drawn] if multi_label else drawn
        said = np.where(rng.random((rows, num_providers)) < 0.8, drawn[:, None], rng.integers(0, 3, (rows, 1)))
        scores = (0.1 + 0.7 * np.eye(3)[said]).astype(np.float32)
        scores[0] = np.nan
        model = make_model(num_providers=num_providers, multi_label=multi_label)
        return FitState.start(model, tiny_tokenizer, texts, labels, scores, FitOptions(encoder_training="probe"))

    return make


def without(*left_out: Any) -> list[Any]:
    return [step for step in RECIPE if step not in left_out]


def test_a_step_is_added_and_left_out(start: Callable[..., FitState]) -> None:
    """One line each: a step of one's own sees what the ones before it found; what a left-out step made is missing."""
    seen: list[int] = []

    def doubled(state: FitState) -> FitState:
        seen.append(len(state.embeddings))
        return replace(state.told(doubled=True), encoder_logits=2 * state.encoder_logits)

    whole = fit(start())
    assert "gate" in whole.config.calibration
    recipe = without(fit_gates)
    recipe.insert(recipe.index(train_encoder) + 1, doubled)
    state = fit(start(), recipe)
    assert seen == [60]
    assert state.report["doubled"]
    assert state.config.fusion_report is state.report
    assert "gate" not in state.config.calibration
    assert state.config.calibration["risk"]["rows"] == 59
    assert state.report["calibration"]["encoder"]["log_loss"] != whole.report["calibration"]["encoder"]["log_loss"]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("step", RECIPE[3:])
def test_every_step_after_the_probe_can_be_left_out(
    start: Callable[..., FitState], step: Any, multi_label: bool
) -> None:
    state = fit(start(multi_label=multi_label), without(step))
    assert state.report["out_of_sample"]["accuracy"] > 0.5
    assert (state.fused_logits is None) == (step is fuse)
    assert ("fusion" in state.report) == (step is not fuse)
    assert (state.config.thresholds is not None) == (multi_label and step is not set_thresholds)
    assert ("risk" in state.config.calibration) == (step is not store_errors)


def test_a_step_returns_another_state(start: Callable[..., FitState]) -> None:
    before = start()
    found = encode(before)
    assert before.embeddings.shape == (0, 0)
    assert found.embeddings.shape == (60, found.config.pooled_size)
    assert encode(found) is found  # computed once
    probed = train_encoder(found)
    assert not found.covered.any()
    assert "encoder_training" not in found.report
    assert probed.covered.all()
    assert probed.encoder_logits.shape == (60, 3)
    assert probed.report["encoder_training"] == "probe"
    assert stack_sources(probed) is probed  # too few rows
    assert measure_novelty(probed).novelty.shape == (60,)
    assert calibrate_answers(probed) is probed  # nothing is fused yet
    fused = fuse(probed)
    assert fused.fusable.sum() == 59
    assert fused.fused_logits is not None
    assert fused.fused_logits.shape == (59, 3)
    assert probed.probabilities.shape == (60, 3)
    assert fused.probabilities.shape == (59, 3)


def test_the_report_is_merged(start: Callable[..., FitState]) -> None:
    state = start().told(calibration={"encoder": 1})
    more = state.told(calibration={"llms": 2}, rows=61)
    assert more.report["calibration"] == {"encoder": 1, "llms": 2}
    assert (state.report["calibration"], state.report["rows"]) == ({"encoder": 1}, 60)


def test_a_fit_begins_without_the_calibration_of_the_last_one(start: Callable[..., FitState]) -> None:
    state = start()
    state.config.calibration |= {"temperature": 3.0, "gate_threshold": 0.5}
    fit(state, without(fit_gates, calibrate_answers))
    assert state.config.calibration["temperature"] == 1.0
    assert "gate_threshold" not in state.config.calibration


def test_rows_of_one_fold_are_not_fused(start: Callable[..., FitState]) -> None:
    state = start()
    scored = replace(state, covered=np.ones(60, dtype=bool), encoder_logits=torch.zeros(60, 3))
    assert scored.fusable.sum() == 59
    assert not replace(scored, folds=np.zeros(60, dtype=np.int64)).fusable.any()
    assert fuse(replace(scored, folds=np.zeros(60, dtype=np.int64))).report["fusion"]["chosen"].startswith("default")
