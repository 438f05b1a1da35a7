"""Calibration beyond one temperature: scales and biases, matrices, monotone maps, and the choice among them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.evaluation.metrics import expected_calibration_error
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import encode_texts
from labelfusion.modeling_labelfusion.heads import PAIR_BUCKETS
from labelfusion.modeling_labelfusion.monotone import calibrated, map_logits, map_scores, monotone_map
from labelfusion.training.calibration.answer_calibration import calibrate_answer
from labelfusion.training.calibration.calibration_maps import (
    fit_answer_map,
    fit_monotone,
    fit_score_map,
    fit_temperature,
    fit_vector_scaling,
)
from labelfusion.training.calibration.encoder_calibration import absorb, calibrate_encoder
from labelfusion.training.calibration.llm_calibration import calibrate_llms
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.folds import assign_folds
from labelfusion.training.fusion.fusion_data import FusionData
from labelfusion.training.losses import log_loss
from labelfusion.training.recipe import fit_model

MakeModel = Callable[..., LabelFusionForSequenceClassification]
KNOTS = [[-2.0, 0.0, 3.0], [-1.0, 0.5, 1.0]]
STEEP = [[-0.001, 0.001], [-50.0, -40.0]]
NAN = float("nan")


def draw(n: int, num_labels: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibrated logits `(n, K)` and labels `(n,)` drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, num_labels, generator=generator) * 2
    return logits, torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


def draw_multi(n: int, num_labels: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, num_labels, generator=generator) * 2 - 1
    return logits, torch.bernoulli(logits.sigmoid(), generator=generator)


# --- Maps ------------------------------------------------------------------------------------------------------------


def test_a_map_goes_through_its_knots_and_on_with_slope_one() -> None:
    x = torch.tensor([-4.0, -2.0, -1.0, 0.0, 1.5, 3.0, 10.0])
    expected = torch.tensor([-3.0, -1.0, -0.25, 0.5, 0.75, 1.0, 8.0])
    torch.testing.assert_close(monotone_map(x, KNOTS), expected)
    torch.testing.assert_close(monotone_map(x, [[1.0], [3.0]]), x + 2)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("knots", [KNOTS, STEEP])
def test_a_map_keeps_the_order_of_the_classes(knots: list[list[float]], multi_label: bool) -> None:
    scores = torch.rand(200, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    if not multi_label:
        scores = scores / scores.sum(dim=-1, keepdim=True)
    scores[::7, 0] = NAN
    mapped = map_scores(scores, [knots, None], multi_label, 1e-3)
    assert torch.equal(mapped.isnan(), scores.isnan())
    assert torch.equal(mapped[:, 1], scores[:, 1])
    there = ~scores[:, 0, 0].isnan()
    assert torch.equal(mapped[there, 0].argsort(dim=-1), scores[there, 0].argsort(dim=-1))
    assert not torch.allclose(mapped[there, 0], scores[there, 0])
    if not multi_label:
        torch.testing.assert_close(mapped[there, 0].sum(dim=-1), torch.ones(int(there.sum())).double())
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    logits[0] = 0.0
    answer = map_logits(logits, knots, multi_label)
    assert torch.equal(answer.argmax(dim=-1), logits.argmax(dim=-1))
    if multi_label:
        assert torch.equal(answer[1:].argsort(dim=-1), logits[1:].argsort(dim=-1))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_text_without_an_answer_keeps_the_encoder_exactly(make_model: MakeModel, multi_label: bool) -> None:
    scores = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0))
    scores[0], scores[1, 1] = NAN, NAN
    embedding = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"num_providers": 2, "multi_label": multi_label}
    plain = make_model(**options)
    maps = {"score_maps": [KNOTS, None], "answer_map": KNOTS, "temperature": 1.3}
    mapped = make_model(**options, calibration=maps)
    embedding = embedding[:, :1].expand(3, plain.config.hidden_size) * torch.linspace(-1, 1, plain.config.hidden_size)
    with torch.no_grad():
        logits, encoder_logits = mapped.fuse(embedding, scores)
        before, _ = plain.fuse(embedding, map_scores(scores, [KNOTS, None], multi_label, plain.config.score_floor))
    assert torch.equal(logits[0], encoder_logits[0])
    torch.testing.assert_close(logits[1:], calibrated(before[1:], mapped.config.calibration, multi_label))
    assert not torch.allclose(logits[1:], before[1:] / 1.3, atol=1e-3)


# --- Fits ------------------------------------------------------------------------------------------------------------


def test_isotonic_undoes_a_curved_confidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=6000) * 2
    truth = rng.random(6000) < 1 / (1 + np.exp(-logits))
    boasting = np.sign(logits) * np.abs(logits) ** 0.3 * 3  # sure of everything, as LLMs that say how sure they are
    knots = fit_monotone(boasting[:3000], truth[:3000])
    assert 3 <= len(knots[0]) <= 12
    assert (np.diff(knots) > 0).all()
    fixed = monotone_map(torch.from_numpy(boasting[3000:]), knots).sigmoid().numpy()
    before = expected_calibration_error(1 / (1 + np.exp(-boasting[3000:])), truth[3000:])
    assert before > 0.1
    assert expected_calibration_error(fixed, truth[3000:]) < 0.3 * before


def test_isotonic_of_useless_or_few_scores_is_harmless() -> None:
    rng = np.random.default_rng(0)
    places, values = fit_monotone(rng.normal(size=500), rng.random(500) < 0.5)
    assert values[-1] - values[0] < 0.4 * (places[-1] - places[0])
    places, values = fit_monotone(np.array([0.5, 3.0]), np.array([False, True]))
    np.testing.assert_allclose(values, places, atol=0.4)
    nothing = fit_score_map(torch.full((4, 3), NAN), torch.zeros(4, dtype=torch.int64), False, 1e-3)
    assert nothing == [[0.0], [0.0]]


def test_vector_scaling_undoes_scales_and_biases_and_few_rows_keep_it_near_a_temperature() -> None:
    logits, labels = draw(4000)
    scale, bias = torch.tensor([0.4, 1.0, 1.0, 2.0]), torch.tensor([1.5, 0.0, 0.0, -1.0])
    bent = (logits - bias) / scale
    found, shift = fit_vector_scaling(bent, labels, False)
    assert found.argsort().tolist()[::3] == [0, 3]
    assert float(shift[0]) > 0.7 > -0.4 > float(shift[3])
    true, fixed = (float(log_loss(x, labels, False).mean()) for x in (logits, bent * found + shift))
    cooled = float(log_loss(bent / fit_temperature(bent, labels, False), labels, False).mean())
    assert fixed - true < 0.1 * (cooled - true)
    few, _ = fit_vector_scaling(bent[:8], labels[:8], False)
    assert float(few.max() / few.min()) < 2


# --- The choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_heads_absorb_what_the_encoder_needs(make_model: MakeModel, multi_label: bool) -> None:
    model = make_model(num_labels=4, multi_label=multi_label, lexical_size=40 + PAIR_BUCKETS, kernel_size=6)
    assert model.lexical_head is not None
    assert model.kernel_head is not None
    torch.manual_seed(0)
    for parameter in (*model.lexical_head.parameters(), *model.kernel_head.parameters()):
        parameter.data.uniform_(0.1, 1.0)
    batch = {"input_ids": torch.randint(4, 40, (5, 7)), "attention_mask": torch.ones(5, 7, dtype=torch.long)}
    scale, bias = torch.rand(4) + 0.5, torch.randn(4)
    with torch.no_grad():
        before = model(**batch).encoder_logits
        absorb(model, scale, bias)
        torch.testing.assert_close(model(**batch).encoder_logits, before * scale + bias, atol=1e-4, rtol=1e-4)
    logits, labels = draw_multi(800) if multi_label else draw(800)
    bent = (logits - torch.tensor([1.5, 0.0, 0.0, -1.0])) / torch.tensor([0.4, 1.0, 1.0, 2.0])
    folds = assign_folds(labels.numpy(), 5)
    out, temperature, report = calibrate_encoder(model, bent, labels, folds, "auto")
    assert report["chosen"] == "vector"
    assert temperature == 1.0
    assert report["log_loss"][report["chosen"]] < report["log_loss"]["temperature"]
    true = float(log_loss(logits, labels, multi_label).mean())
    assert float(log_loss(out, labels, multi_label).mean()) - true < 0.3 * (report["log_loss"]["temperature"] - true)


@pytest.mark.parametrize("multi_label", [False, True])
def test_nothing_is_chosen_for_what_is_calibrated_or_for_few_rows(make_model: MakeModel, multi_label: bool) -> None:
    for n, curved in ((1000, False), (30, True)):
        logits, labels = draw_multi(n) if multi_label else draw(n)
        folds = assign_folds(labels.numpy(), 5)
        given = logits.sign() * logits.abs() ** 0.3 * 3 if curved else logits
        _, entries, report = calibrate_answer(given, labels, folds, multi_label, "auto")
        assert report["chosen"] in ("none", "temperature")
        assert "answer_map" not in entries
        assert entries["temperature"] == pytest.approx(1.0, abs=0.1) or curved
        _, _, report = calibrate_encoder(
            make_model(num_labels=4, multi_label=multi_label), given, labels, folds, "auto"
        )
        assert report["chosen"] in ("none", "temperature") or not curved


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_curved_answer_is_mapped(multi_label: bool) -> None:
    logits, labels = draw_multi(3000) if multi_label else draw(3000)
    if multi_label:
        curved = logits.sign() * logits.abs() ** 0.3 * 3
    else:  # as if an unsure answer were surer than it is
        curved = map_logits(logits, [[-1.0, 0.5, 4.0], [-0.9, 3.0, 4.0]], False)
    folds = assign_folds(labels.numpy(), 5)
    out, _, report = calibrate_answer(curved, labels, folds, multi_label, "auto")
    assert report["chosen"] == "isotonic"
    assert report["after"]["ece"] < report["before"]["ece"]
    assert torch.equal(out.argmax(dim=1), curved.argmax(dim=1))
    assert calibrate_answer(curved, labels, folds, multi_label, "temperature")[2]["chosen"] == "temperature"
    unseen, truth = draw_multi(3000, seed=1) if multi_label else draw(3000, seed=1)
    curved = unseen.sign() * unseen.abs() ** 0.3 * 3 if multi_label else map_logits(unseen, KNOTS, False)
    knots = fit_answer_map(curved, truth, multi_label)
    mapped = map_logits(curved, knots, multi_label)
    assert float(log_loss(mapped, truth, multi_label).mean()) < float(log_loss(curved, truth, multi_label).mean())


def graded(n: int, seed: int = 0) -> tuple[FusionData, np.ndarray]:
    """An LLM that says 0.9 or more of whatever it says, more so where it is right, beside a useless encoder."""
    logits, labels = draw(n, seed=seed)
    boasting = (logits.sign() * logits.abs() ** 0.25 * 3).softmax(dim=-1)
    hard = torch.nn.functional.one_hot(logits.argmax(dim=-1), 4).float()
    scores = torch.stack([boasting, hard], dim=1)
    scores[::9, 0] = NAN
    return FusionData(torch.zeros(n, 4), scores, labels, False, 1e-3), assign_folds(labels.numpy(), 5)


def test_a_boasting_llm_is_mapped_and_hard_answers_are_left_alone() -> None:
    data, folds = graded(1500)
    maps, mapped, reports = calibrate_llms(data, folds, "auto")
    assert [report["chosen"] for report in reports] == ["isotonic", "none"]
    assert maps[0] is not None
    assert maps[1] is None
    assert torch.equal(mapped.llm_scores[:, 1], data.llm_scores[:, 1])
    assert torch.equal(mapped.llm_scores.isnan(), data.llm_scores.isnan())
    assert not torch.equal(mapped.evidence[:, 0], data.evidence[:, 0])
    small, folds = graded(30)
    assert calibrate_llms(small, folds, "isotonic")[0] == [None, None]


def test_a_fitted_model_computes_what_was_calibrated(
    tiny_encoder_dir: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    data, _ = graded(700)
    texts = [f"w{i % 30} w{i % 7}" for i in range(700)]
    reports = {}
    for calibration in ("auto", "none", "isotonic"):
        torch.manual_seed(0)
        model = LabelFusionForSequenceClassification.from_encoder_pretrained(
            tiny_encoder_dir, labels=list("abcd"), llm_providers=["recorded", "recorded"], fusion="pool"
        )
        options = FitOptions(encoder_training="probe", extra_sources=False, calibration=calibration)
        reports[calibration] = fit_model(
            model, tiny_tokenizer, texts, data.labels.numpy(), data.llm_scores.numpy(), options
        )
        found = model.config.calibration
        if calibration == "none":
            assert found["temperature"] == found["encoder_temperature"] == 1.0
            assert "score_maps" not in found
            assert "answer_map" not in found
        elif calibration == "isotonic":
            assert found["score_maps"][0] is not None
            assert found["score_maps"][1] is None
            assert len(found["answer_map"]) == 2
            model.save_pretrained(tmp_path)
            again = LabelFusionForSequenceClassification.from_pretrained(tmp_path).eval()
            assert again.config.calibration["answer_map"] == found["answer_map"]
            embeddings = encode_texts(model, tiny_tokenizer, texts)
            with torch.no_grad():
                logits = [m.fuse(embeddings, data.llm_scores)[0] for m in (model, again)]
            torch.testing.assert_close(logits[0], logits[1])
            in_sample = float(log_loss(logits[0], data.labels, False).mean())
            assert in_sample == pytest.approx(reports["isotonic"]["out_of_sample"]["log_loss"], abs=0.06)
        parts = reports[calibration]["calibration"]
        assert set(parts) == {"encoder", "llms", "answer"}
        assert {"brier", "ece"} <= set(parts["answer"]["before"]) & set(parts["llms"][0]["before"])
        assert {"brier", "ece"} <= set(parts["answer"]["after"]) & set(parts["llms"][1]["after"])
    assert reports["auto"]["out_of_sample"]["log_loss"] <= reports["none"]["out_of_sample"]["log_loss"] + 0.005
