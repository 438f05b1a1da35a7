"""The combiners that the fusion is compared with."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.baselines import BASELINES, BaselineFusion
from labelfusion.training.folds import assign_folds
from labelfusion.training.fusion.baseline_fit import fit_baseline, out_of_fold
from labelfusion.training.fusion.fusion_data import FusionData
from labelfusion.training.fusion.fusion_fit import fit_fusion
from test_fusion_fit import accuracy, make

NAN = float("nan")


def combine(method: str, encoder: list[float], *llms: list[float], weight: Any = None) -> list[float]:
    baseline = BaselineFusion(method, len(llms), len(encoder), False)
    if weight is not None:
        baseline.weight.data = torch.tensor(weight)
    logits = baseline(torch.tensor([encoder]).log(), torch.tensor([llms]))
    return [round(p, 4) for p in logits.softmax(-1)[0].tolist()]


def test_weighted_average_of_what_is_there() -> None:
    weight = [[1.0, 1.0], [3.0, 3.0]]
    assert combine("weighted", [0.6, 0.4], [0.2, 0.8], weight=weight) == [0.3, 0.7]
    assert combine("weighted", [0.6, 0.4], [NAN, NAN], weight=weight) == [0.6, 0.4]


def test_the_majority_wins_and_a_tie_goes_to_the_surer() -> None:
    assert combine("vote", [0.9, 0.1], [0.2, 0.8], [0.4, 0.6])[1] > 0.6
    assert combine("vote", [0.9, 0.1], [0.4, 0.6])[0] > 0.5
    assert combine("vote", [0.9, 0.1], [0.2, 0.8], [NAN, NAN])[0] > 0.5


def test_routing_takes_the_source_that_is_reliable_for_the_class_it_names() -> None:
    weight = [[0.9, 0.5], [0.6, 0.8]]
    assert combine("routing", [0.7, 0.3], [0.1, 0.9], weight=weight) == [0.7, 0.3]  # 0.9 for class 0 beats 0.8
    assert combine("routing", [0.3, 0.7], [0.9, 0.1], weight=weight) == [0.9, 0.1]  # 0.6 for class 0 beats 0.5
    assert combine("routing", [0.3, 0.7], [NAN, NAN], weight=weight) == [0.3, 0.7]


@pytest.mark.parametrize("method", ["weighted", "routing"])
def test_a_fitted_baseline_follows_the_better_source(method: str) -> None:
    data = make(500, 0.55, 0.9)
    logits = out_of_fold(method, data, assign_folds(data.labels.numpy(), 5))
    assert accuracy(logits, data) > 0.87


def test_a_source_alone() -> None:
    data = make(500, 0.55, 0.9)
    folds = assign_folds(data.labels.numpy(), 5)
    encoder, llm = (fit_fusion(data, folds, fusion=name) for name in ("encoder", "llm"))
    with torch.no_grad():
        torch.testing.assert_close(encoder.pool(data.encoder_logits, data.evidence, data.mask), data.encoder_logits)
        answers = llm.pool(torch.randn(500, 4), data.evidence, data.mask)
        torch.testing.assert_close(llm.pool(torch.randn(500, 4), data.evidence, data.mask), answers)
    assert accuracy(answers, data) > 0.87
    assert (encoder.report["chosen"], llm.report["chosen"]) == ("encoder", "llm")


@pytest.mark.parametrize("method", ["encoder", "llm"])
def test_a_source_alone_before_it_is_fitted(
    method: str, make_model: Callable[..., LabelFusionForSequenceClassification]
) -> None:
    model = make_model(fusion=method)
    model._init_weights(model.score_pool)
    scores = torch.tensor([[[0.2, 0.5, 0.3]]])
    output = model(input_ids=torch.tensor([[2, 5, 6, 3]]), llm_scores=scores)
    alone = output.encoder_logits if method == "encoder" else scores[:, 0].log()
    torch.testing.assert_close(output.logits.softmax(-1), alone.softmax(-1))


def test_weights_are_shares() -> None:
    weight = fit_baseline("weighted", make(300, 0.6, 0.9)).weight
    assert weight[1, 0] > weight[0, 0]
    torch.testing.assert_close(weight.sum(dim=0), torch.ones(4))


@pytest.mark.parametrize("method", BASELINES)
def test_multi_label(method: str) -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy((rng.random((200, 3)) < 0.4).astype(np.float32))
    scores = (labels * 0.8 + 0.1)[:, None]
    data = FusionData(torch.zeros(200, 3), scores, labels, True, 1e-3)
    logits = out_of_fold(method, data, assign_folds(labels.numpy(), 5))
    assert logits.shape == (200, 3)
    if method != "vote":  # an encoder that always says 0.5 votes for everything
        assert ((logits > 0) == (labels > 0)).float().mean() > 0.99


@pytest.mark.parametrize("method", BASELINES)
def test_it_is_a_model_like_any_other(
    method: str, make_model: Callable[..., LabelFusionForSequenceClassification], tmp_path: Any
) -> None:
    model = make_model(fusion=method)
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "llm_scores": torch.tensor([[[0.2, 0.5, 0.3]]])}
    logits = model(**inputs).logits
    model.save_pretrained(tmp_path)
    again = LabelFusionForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**inputs).logits, logits, rtol=0, atol=0)
    missing = model(input_ids=inputs["input_ids"], llm_scores=torch.full((1, 1, 3), NAN))
    torch.testing.assert_close(missing.logits, missing.encoder_logits, rtol=0, atol=0)
