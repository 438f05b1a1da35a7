"""Classes that come together: the label-set head, its fit, when it is chosen, and the model that has one."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion.encoding import encode_texts
from labelfusion.modeling_labelfusion.fusion import pool_features
from labelfusion.modeling_labelfusion.heads import LabelSetHead
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.folds import assign_folds
from labelfusion.training.fusion import label_sets
from labelfusion.training.fusion.fusion_data import FusionData
from labelfusion.training.fusion.fusion_fit import fit_fusion
from labelfusion.training.fusion.label_sets import LabelSets, choose_label_sets, fit_label_sets
from labelfusion.training.losses import log_loss
from labelfusion.training.recipe import fit_model

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
        found, report = choose_label_sets(model, logits, labels, folds)
        out = logits if found is None else found(logits)
        assert report["chosen"] == chosen
        assert (model.label_set_head is not None) == (chosen == "together")
        assert model.config.label_set_size == (4 if chosen == "together" else 0)
        assert report["log_loss"][chosen] == pytest.approx(float(log_loss(out, labels, True).mean()), abs=1e-4)
    assert choose_label_sets(model, *draw(200), folds[:200])[1] == {}
    monkeypatch.setattr(label_sets, "MOST_SETS", 3)
    assert choose_label_sets(model, *draw(800), folds)[1] == {}


def test_each_row_is_judged_by_the_head_of_its_fold() -> None:
    parts = [draw(60, seed=k) for k in range(3)]
    heads = [fit_label_sets(*part) for part in parts]
    logits, fold = parts[0][0][:9], torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 0])
    expected = torch.stack([heads[int(k)](x[None])[0] for x, k in zip(logits, fold, strict=True)])
    judge = LabelSets(heads, fold)
    torch.testing.assert_close(judge(logits), expected)
    some = torch.tensor([5, 1, 0])
    torch.testing.assert_close(judge.rows(some)(logits[some]), expected[some])
    torch.testing.assert_close(judge.rows(fold == 1)(logits[fold == 1]), expected[fold == 1])


def test_the_pool_is_fitted_for_what_they_make_of_it() -> None:
    """Few rows have scores, of an LLM that says nothing of some classes: they are told by the others."""

    def say(labels: torch.Tensor) -> torch.Tensor:
        right = torch.rand(len(labels), 1, generator=torch.Generator().manual_seed(1)) < 0.8
        known = torch.tensor([True, False, True, False])
        return torch.where(known, torch.where(right, labels, labels.roll(1, dims=0)), 0.5)[:, None]

    logits, labels = draw(900, noise=2.5)
    folds = assign_folds(labels.numpy(), 5)
    judge, head, rows = LabelSets.fit(logits, labels, folds), fit_label_sets(logits, labels), torch.arange(40)
    scored = say(labels)[rows], labels[rows], True, 1e-3, None
    data = FusionData(logits[rows], *scored, judge.rows(rows))
    after = fit_fusion(data, folds[:40], fusion="pool")
    assert after.report["log_loss"]["encoder"] == pytest.approx(float(data.log_loss(logits[rows]).mean()), abs=1e-4)
    found = float(log_loss(after.out_of_fold_logits, labels[rows], True).mean())
    assert after.report["log_loss"]["fusion"] == pytest.approx(found, abs=1e-4)
    before = fit_fusion(FusionData(judge(logits)[rows], *scored), folds[:40], fusion="pool")
    logits, labels = draw(3000, seed=1, noise=2.5)
    heard = pool_features(say(labels), True, 1e-3)
    with torch.no_grad():
        answers = head(after.pool(logits, *heard)), before.pool(head(logits), *heard)
    losses = [float(log_loss(x, labels, True).mean()) for x in answers]
    assert losses[0] < 0.96 * losses[1]


def test_the_model_judges_after_the_pool_and_without_scores_as_the_encoder(make_model: Any) -> None:
    model = make_model(num_labels=4, multi_label=True)
    embeddings = torch.randn(6, model.config.embedding_size)
    with torch.no_grad():
        apart = model.fuse(embeddings)[0]
        head = fit_label_sets(*draw(200))
        model.set_heads(label_set_size=len(head.sets))
        model.label_set_head.load_state_dict(head.state_dict())
        scores = torch.rand(6, model.config.num_providers, 4)
        scores[3:] = float("nan")
        logits, own = model.fuse(embeddings, scores)
        pooled = model.score_pool(apart, *pool_features(scores, True, model.config.score_floor))
        mlp = model.fusion_mlp(embeddings, *pool_features(scores, True, model.config.score_floor))
        torch.testing.assert_close(own, head(apart))
        torch.testing.assert_close(logits[:3], head(pooled + mlp)[:3])
        assert torch.equal(logits[3:], own[3:])


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
    scores = np.where(rng.random((320, 1)) < 0.2, labels[::-1], labels)[:, None].astype(np.float32)
    scores[rng.random(320) < 0.3] = np.nan
    fused = Model.from_encoder_pretrained(
        tiny_encoder_dir, labels=["earn", "grain", "wheat", "ship"], multi_label=True, llm_providers=["mock"]
    )
    told = fit_model(fused, tiny_tokenizer, texts, labels, scores, options)
    assert told["classes"]["chosen"] == "together"
    assert told["fusion"]["log_loss"]["fusion"] < 0.7 * told["fusion"]["log_loss"]["encoder"]
    heard = torch.from_numpy(~np.isnan(scores).any(axis=(1, 2)))
    with torch.no_grad():
        answers, own = fused.fuse(encode_texts(fused, tiny_tokenizer, texts), torch.from_numpy(scores))
        assert torch.equal(answers[~heard], own[~heard])
        loss = log_loss(answers, torch.from_numpy(labels), True)[heard].mean()
        assert float(loss) < told["out_of_sample"]["log_loss"] * 1.2
    assert "classes" not in fit_model(
        again,
        tiny_tokenizer,
        texts[:60],
        labels[:60],
        None,
        FitOptions(encoder_training="probe", calibration="temperature"),
    )
    assert again.label_set_head is None  # a fit begins without that of the last one
