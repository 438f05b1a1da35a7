"""Classes that come together: the label-set head, its fit, when it is chosen, and the model that has one."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion.heads import LabelSetHead
from labelfusion.training import label_sets
from labelfusion.training.encoding import encode_texts
from labelfusion.training.fit import FitOptions, fit_model
from labelfusion.training.folds import assign_folds
from labelfusion.training.label_sets import choose_label_sets, fit_label_sets
from labelfusion.training.losses import log_loss

from labelfusion import LabelFusionForSequenceClassification as Model

# Of four classes the third is a kind of the second, and the others come alone.
COMMODITIES = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).float()


def draw(n: int, seed: int = 0, noise: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels `(n, 4)` of `COMMODITIES`, and logits that know each class by itself, as a linear head's do."""
    generator = torch.Generator().manual_seed(seed)
    labels = COMMODITIES[torch.randint(4, (n,), generator=generator)]
    prior = COMMODITIES.mean(dim=0)
    seen = (2 * labels - 1) + noise * torch.randn(n, 4, generator=generator)
    return 2 * seen / noise**2 + torch.log(prior / (1 - prior)), labels


def test_a_class_has_the_probability_of_its_sets() -> None:
    sets = np.array(list(itertools.product([0, 1], repeat=3)))[1:6]
    head = LabelSetHead(len(sets), 3)
    rng = np.random.default_rng(0)
    scale, bias, logits = rng.random(3) + 0.5, rng.normal(size=len(sets)), 3 * rng.normal(size=(7, 3))
    with torch.no_grad():
        for parameter, value in ((head.sets, sets), (head.scale, scale), (head.bias, bias)):
            parameter.copy_(torch.from_numpy(value))
    found = head(torch.from_numpy(logits).float()).sigmoid().numpy()
    for x, probs in zip(logits, found, strict=True):
        weights = [np.exp(sum(s * scale * x) + b) for s, b in zip(sets, bias, strict=True)]
        expected = [sum(w for w, s in zip(weights, sets, strict=True) if s[k]) / sum(weights) for k in range(3)]
        np.testing.assert_allclose(probs, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    head = fit_label_sets(*draw(200)).to(dtype)
    logits = (torch.eye(4) * 2e3 - 1e3).to(dtype)
    out = head(logits)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    assert (out.diagonal() > 0).all()


def test_sets_are_more_likely_than_classes_by_themselves() -> None:
    head = fit_label_sets(*draw(1000))
    assert sorted(head.sets.int().tolist()) == sorted(COMMODITIES.int().tolist())
    logits, labels = draw(4000, seed=1)
    joint, loss = head(logits), log_loss(logits, labels, True).mean()
    assert log_loss(joint, labels, True).mean() < 0.85 * loss
    evidence = logits - torch.logit(COMMODITIES.mean(dim=0))
    best = torch.logit(((evidence @ COMMODITIES.T).softmax(dim=-1) @ COMMODITIES).clamp(1e-6, 1 - 1e-6))
    assert log_loss(joint, labels, True).mean() < 1.02 * log_loss(best, labels, True).mean()  # what can be known
    exact, before = (((x > 0) == (labels > 0)).all(dim=1).float().mean() for x in (joint, logits))
    assert exact > before + 0.05
    # The third class is never without the second.
    assert (joint[:, 1] >= joint[:, 2] - 1e-3).all()


def test_a_class_that_no_row_has_stands_alone() -> None:
    logits, labels = draw(50)
    head = fit_label_sets(logits, torch.where(torch.arange(4) == 3, 0.0, labels))
    assert [0, 0, 0, 1] in head.sets.int().tolist()
    assert float(head(torch.tensor([[-9.0, -9.0, -9.0, 30.0]]))[0, 3]) > 0


def test_few_rows_do_not_make_it_sure() -> None:
    held_out = draw(2000, seed=2)
    for n in (20, 40):
        head = fit_label_sets(*draw(n))
        assert float((head.scale - 1).abs().max()) < 0.5
        assert float(log_loss(head(held_out[0]), held_out[1], True).mean()) < 1.9  # 1.8 without


def test_it_is_chosen_where_classes_depend_on_each_other_alone(make_model: Any, monkeypatch: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    free = torch.randn(800, 4, generator=generator) * 2 - 1
    apart = free, torch.bernoulli(free.sigmoid(), generator=generator)
    for (logits, labels), chosen in ((draw(800), "together"), (apart, "apart")):
        model, folds = make_model(num_labels=4, multi_label=True), assign_folds(labels.numpy(), 5)
        out, report = choose_label_sets(model, logits, labels, folds)
        assert report["chosen"] == chosen
        assert (model.label_set_head is not None) == (chosen == "together")
        assert model.config.label_set_size == (4 if chosen == "together" else 0)
        assert report["log_loss"][chosen] == pytest.approx(float(log_loss(out, labels, True).mean()), abs=1e-4)
    assert choose_label_sets(model, *draw(200), folds[:200])[1] == {}
    monkeypatch.setattr(label_sets, "MOST_SETS", 3)
    assert choose_label_sets(model, *draw(800), folds)[1] == {}


def test_a_fitted_model_has_it_and_keeps_it(
    tiny_encoder_dir: str, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    rng = np.random.default_rng(0)
    labels = COMMODITIES[rng.integers(0, 4, 320)].numpy()
    words = np.array(["team", "stock", "bank", "phone"])
    shown = (labels > 0) != (rng.random(labels.shape) < 0.15)
    texts = [" ".join(["the", *words[row], f"w{i % 10}"]) for i, row in enumerate(shown)]
    model = Model.from_encoder_pretrained(tiny_encoder_dir, labels=["earn", "grain", "wheat", "ship"], multi_label=True)
    options = FitOptions(encoder_training="probe", extra_sources=False)
    report = fit_model(model, tiny_tokenizer, texts, labels, None, options)
    assert report["classes"]["chosen"] == "apart"  # a linear head that sees all words leaves nothing to find
    assert model.label_set_head is None
    monkeypatch.setattr(label_sets, "clearly_better", lambda *args, **kwargs: True)
    report = fit_model(model, tiny_tokenizer, texts, labels, None, options)
    assert report["classes"]["chosen"] == "together"
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path).eval()
    embeddings = encode_texts(model, tiny_tokenizer, texts)
    with torch.no_grad():
        found = model.eval().fuse(embeddings)[0]
        torch.testing.assert_close(again.fuse(embeddings)[0], found)
        assert float(log_loss(found, torch.from_numpy(labels), True).mean()) < report["out_of_sample"]["log_loss"] * 1.2
        assert (found[:, 1] >= found[:, 2] - 1e-3).all()
    assert "classes" not in fit_model(
        again,
        tiny_tokenizer,
        texts[:60],
        labels[:60],
        None,
        FitOptions(encoder_training="probe", calibration="temperature"),
    )
    assert again.label_set_head is None  # a fit begins without that of the last one
