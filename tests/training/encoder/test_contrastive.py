"""Contrastive training of the encoder: better where the frozen encoder is poor, bounded, honest out of sample."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.configuration import Task
from labelfusion.hub_scripts.cli import main
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import TextEncoder, encode_texts
from labelfusion.training.encoder import contrastive_fit, encoder_fit
from labelfusion.training.encoder.contrastive import batches, contrast, contrastive_loss, upper_layers
from labelfusion.training.encoder.probe import fit_head, fit_probe
from labelfusion.training.encoder.train_budget import TrainBudget, token_counts
from labelfusion.training.fit_options import ContrastiveOptions, FitOptions
from labelfusion.training.fit_state import FitState
from labelfusion.training.folds import assign_folds
from labelfusion.training.losses import log_loss
from labelfusion.training.recipe import fit, fit_model
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from labelfusion import AutoFusionClassifier

Fixture = Callable[..., LabelFusionForSequenceClassification]
FILLER = "team match goal player market stock price bank trade chip code phone data science election vote law court war"


def reviews(n: int, seed: int = 0) -> tuple[list[str], NDArray[np.int64]]:
    """Texts in which one word of 21 tells the class: hard to see in the mean of a random encoder's outputs."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return [" ".join(rng.permutation([("good", "bad")[y], *rng.choice(FILLER.split(), 20)])) for y in labels], labels


OPTIONS = ContrastiveOptions(max_steps=30, learning_rate=1e-2, batch_size=16, trained_layers=1.0)


def held_out_loss(model: Any, tokenizer: Any, train: Any, test: Any) -> float:
    """Of a probe."""
    embeddings, unseen = (encode_texts(model, tokenizer, texts) for texts in (train[0], test[0]))
    probe = fit_probe(embeddings, torch.from_numpy(train[1]), assign_folds(train[1], 5), Task("ab"))
    return float(log_loss(unseen @ probe.weight.T + probe.bias, torch.from_numpy(test[1]), False).mean())


def test_the_probe_is_better_afterwards(make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    train, test = reviews(40), reviews(300, seed=1)
    model = make_model(num_labels=2, num_providers=0)
    trained = [p.requires_grad for p in model.parameters()]
    before = held_out_loss(model, tiny_tokenizer, train, test)
    contrast(TextEncoder(model, tiny_tokenizer), *train, OPTIONS)
    after = held_out_loss(model, tiny_tokenizer, train, test)
    assert before > 0.25
    assert after < 0.5 * before
    assert [p.requires_grad for p in model.parameters()] == trained
    assert all(p.requires_grad for p in model.encoder.parameters())
    assert not model.training


def test_upper_layers_alone_are_trained_and_seeds_reproduce(
    make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    train = reviews(12)
    fresh, half, again, other = (make_model(num_labels=2, num_providers=0) for _ in range(4))
    state = torch.random.get_rng_state()
    for model, seed in ((half, 0), (again, 0), (other, 1)):
        options = ContrastiveOptions(learning_rate=1e-3, batch_size=8, trained_layers=0.5, seed=seed)
        contrast(TextEncoder(model, tiny_tokenizer), *train, options, steps=3)
    changed = {
        name for (name, p), q in zip(fresh.named_parameters(), half.parameters(), strict=True) if not torch.equal(p, q)
    }
    assert changed
    assert all(name.startswith("encoder.encoder.layer.1.") for name in changed)
    name = "encoder.encoder.layer.1.output.dense.weight"
    weights, repeated, different = (m.get_parameter(name) for m in (half, again, other))
    torch.testing.assert_close(weights, repeated, rtol=0, atol=0)
    assert not torch.equal(weights, different)
    assert torch.equal(state, torch.random.get_rng_state())  # the user's own random numbers go on undisturbed


def test_an_encoder_without_layers_is_trained_whole() -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    with upper_layers(encoder, 0.5) as parameters:
        assert len(parameters) == 4


@pytest.mark.parametrize("count", [3, 20])
def test_batches_hold_several_texts_of_each_class(count: int) -> None:
    labels = np.eye(count, dtype=np.float32)[np.r_[np.arange(count), np.zeros(50, dtype=int)]]
    rows = batches(labels, 16, seed=0)
    seen = np.zeros(len(labels))
    for _ in range(60):
        batch = next(rows)
        assert len(batch) == 16
        classes, sizes = np.unique(labels[batch].argmax(axis=1), return_counts=True)
        assert len(classes) >= 2
        assert (sizes >= 2).all()
        np.add.at(seen, batch, 1)
    assert seen[1:count].min() >= 2  # the rare classes too, as often as the one that has nearly all rows
    assert seen[:1].sum() + seen[count:].sum() < 2.5 * len(batch) * 60 / min(count, 16)


def test_loss_pulls_by_shared_labels() -> None:
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    embeddings = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = contrastive_loss(embeddings, labels, 0.1)
    unit = torch.nn.functional.normalize(embeddings.detach(), dim=-1)
    logits = unit @ unit.T / 0.1
    logits.fill_diagonal_(-torch.inf)
    share = logits.log_softmax(dim=-1)
    # 0 and 1 share a label, 3 and 4 have none both; 2 is like no other and only pushes.
    expected = -(share[0, 1] + share[1, 0] + share[3, 4] + share[4, 3]) / 4
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())
    three = torch.tensor([[1.0, 1], [1, 0], [1, 1]])  # of two positives, the one that shares more weighs more
    unit = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]), dim=-1)
    logits = (unit @ unit.T).fill_diagonal_(-torch.inf)
    share = logits.log_softmax(dim=-1)
    rows = [
        (0.5 * share[0, 1] + share[0, 2]) / 1.5,
        (share[1, 0] + share[1, 2]) / 2,
        (share[2, 0] + 0.5 * share[2, 1]) / 1.5,
    ]
    torch.testing.assert_close(contrastive_loss(unit, three, 1.0), -torch.stack(rows).mean())
    alone = contrastive_loss(embeddings[:2], torch.tensor([[1.0, 0], [0, 1]]), 0.1)
    assert float(alone.detach()) == 0


def test_rows_of_one_text_do_not_repel_each_other() -> None:
    labels = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])  # 0 and 1 are one text with two answers
    embeddings = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    texts, weights = torch.tensor([7, 7, 8, 9]), torch.tensor([0.5, 0.5, 1, 1])
    loss = contrastive_loss(embeddings, labels, 0.1, texts, weights)
    unit = torch.nn.functional.normalize(embeddings.detach(), dim=-1)
    logits = (unit @ unit.T / 0.1).fill_diagonal_(-torch.inf)
    logits[0, 1] = logits[1, 0] = -torch.inf
    share = logits.log_softmax(dim=-1)
    expected = -(0.5 * share[0, 2] + 0.5 * share[1, 3] + share[2, 0] + share[3, 1]) / 3
    torch.testing.assert_close(loss.detach(), expected)
    one = contrastive_loss(embeddings[:2], labels[:2], 0.1, texts[:2])
    (loss + one).backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())


def run(model: Any, tokenizer: Any, texts: list[str], labels: Any, **kwargs: Any) -> Any:
    """`fit_contrastive` over three parts; its answer and its report."""
    folds = assign_folds(labels, 3, texts)
    training = "contrastive" if kwargs.get("forced") else "auto"
    options = FitOptions(encoder_training=training, max_train_tokens=kwargs.get("max_tokens", 500_000))
    state = FitState.start(model, tokenizer, texts, labels, None, options, encode_texts(model, tokenizer, texts))
    parts = [folds == f for f in range(3)]
    budget = TrainBudget.start(state.encoder, texts, options)
    state = contrastive_fit.fit_contrastive(state, parts, kwargs.get("options", OPTIONS), budget)
    assert budget.tokens + budget.spent == options.max_train_tokens
    return None if state.frozen else (state.encoder_logits, state.covered), state.report


def test_answers_are_those_of_encoders_that_did_not_see_the_rows(
    make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, labels = reviews(40)
    noise = np.random.default_rng(7).permutation(labels)  # labels that no text tells
    seen: list[set[str]] = []

    def recorded(encoder: TextEncoder, texts: list[str], *args: Any, **kwargs: Any) -> None:
        seen.append(set(texts))
        contrast(encoder, texts, *args, **kwargs)

    monkeypatch.setattr(contrastive_fit, "contrast", recorded)
    model = make_model(num_labels=2, num_providers=0)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result, report = run(model, tiny_tokenizer, texts, noise)
    folds = assign_folds(noise, 3, texts)
    parts = [{t for t, f in zip(texts, folds, strict=True) if f == fold} for fold in range(3)]
    assert [part & trained for part, trained in zip(parts, seen, strict=True)] == [set(), set(), set()]
    assert report["encoder_log_loss"]["contrastive"] > 0.6
    assert result is None
    assert len(seen) == 3
    assert all(torch.equal(start[name], tensor) for name, tensor in model.state_dict().items())
    # An encoder that is asked about rows that it has seen is sure of the noise.
    contrast(TextEncoder(model, tiny_tokenizer), texts, noise, OPTIONS, steps=60)
    embeddings = encode_texts(model, tiny_tokenizer, texts)
    weight, bias = fit_head(embeddings, torch.from_numpy(noise), Task("ab"), (1.0,))
    assert float(log_loss(embeddings @ weight.T + bias, torch.from_numpy(noise), False).mean()) < 0.5


def test_the_budget_bounds_it(
    make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, labels = reviews(96)
    model = make_model(num_labels=2, num_providers=0)
    trained: list[int] = []
    monkeypatch.setattr(contrastive_fit, "contrast", lambda *_, steps, **__: trained.append(steps))
    options = ContrastiveOptions(max_steps=100, batch_size=16)
    (length,) = set(token_counts(TextEncoder(model, tiny_tokenizer), texts).tolist())
    step = 16 * length  # encoding all is the work of three steps

    def trying(steps: float, forced: bool = False) -> Any:
        trained.clear()
        tokens = int(steps * step)
        (result, report) = run(model, tiny_tokenizer, texts, labels, options=options, max_tokens=tokens, forced=forced)
        return report, None if result is None else int(result[1].sum())

    assert trying(1000, forced=True)[1] == 96
    assert trained == [100] * 4  # three parts and the whole: all that was asked for
    assert trying(214, forced=True)[1] == 96
    assert trained == [50] * 4
    report, answered = trying(72.5, forced=True)
    assert trained == [21] * 3  # one part fewer before there are too few steps
    assert answered == 64
    assert 60 * step < report["contrastive_tokens"] <= 72.5 * step
    report, answered = trying(20, forced=False)
    assert (trained, answered) == ([], None)
    assert report["contrastive_tokens"] > 20 * step
    trying(20, forced=True)
    assert trained == [contrastive_fit.FEWEST_STEPS] * 3  # the choice is never left to a handful of rows


def test_it_is_fitted_chosen_and_kept(
    make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole recipe with `"auto"`: better than the probe, therefore taken."""
    monkeypatch.setattr(encoder_fit, "ContrastiveOptions", lambda **_: OPTIONS)
    (texts, labels), (unseen, truth) = reviews(40), reviews(200, seed=1)
    model = make_model(num_labels=2, num_providers=0)
    report = fit_model(model, tiny_tokenizer, texts, labels, None, FitOptions(encoder_training="auto"))
    assert report["encoder_training"] == "contrastive"
    assert report["contrastive_steps"] == 30
    losses = report["encoder_log_loss"]
    assert losses["contrastive"] < losses["probe_on_same_parts"]
    with torch.no_grad():
        answers = model.fuse(encode_texts(model, tiny_tokenizer, unseen))[1]
    assert float((answers.argmax(dim=1).numpy() == truth).mean()) > 0.9


@pytest.mark.parametrize("rows", [40, 180])
def test_a_scored_row_does_not_judge_alone(
    make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast, rows: int
) -> None:
    texts, labels = reviews(rows)
    scores = np.full((rows, 1, 2), np.nan, dtype=np.float32)
    scores[7] = [0.9, 0.1]
    model = make_model(num_labels=2)
    options = FitOptions(encoder_training="contrastive", max_train_tokens=0)
    state = fit(FitState.start(model, tiny_tokenizer, texts, labels, scores, options))
    report, covered = state.report, ~np.isnan(state.encoder_probs[:, 0])
    assert covered[7]
    assert min(rows, contrastive_fit.FEWEST_JUDGED) <= covered.sum() <= 62
    assert model.config.calibration["risk"]["rows"] == covered.sum()
    assert (report["encoder_training"], report["scored_rows"]) == ("contrastive", 1)


def test_several_labels_a_text(make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    texts, first = reviews(40)
    labels = np.eye(2, dtype=np.float32)[first]
    for i in range(4):  # both classes, or none
        texts[i], labels[i] = f"good bad {texts[i]}", 1
        texts[4 + i], labels[4 + i] = texts[4 + i].replace("good", "war").replace("bad", "war"), 0
    model = make_model(num_labels=2, num_providers=0, multi_label=True)

    def spread() -> float:
        """How much more alike texts of the same classes are than texts that share none."""
        unit = torch.nn.functional.normalize(encode_texts(model, tiny_tokenizer, texts), dim=-1).numpy()
        alike, sets = unit @ unit.T, labels @ [1, 2]
        none = (labels @ labels.T == 0) & (sets[:, None] != sets)
        return float(alike[sets[:, None] == sets].mean() - alike[none].mean())

    before = spread()
    (logits, covered), report = run(model, tiny_tokenizer, texts, labels, forced=True)
    assert spread() > before + 0.15
    assert covered.all()
    assert logits.shape == (40, 2)
    options = FitOptions(encoder_training="contrastive", max_train_tokens=0)
    report = fit_model(model, tiny_tokenizer, texts, labels, None, options)
    assert report["encoder_training"] == "contrastive"
    assert model.config.thresholds is not None
    assert len(model.config.thresholds) == 2


def test_front_door_and_command(tiny_encoder_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, labels = reviews(36)
    names = np.array(["yes", "no"])[labels]
    options: dict[str, Any] = {"encoder_training": "contrastive", "max_train_tokens": 0, "device": "cpu"}
    clf = AutoFusionClassifier(encoder=tiny_encoder_dir, llm=None, **options).fit(texts, names)
    assert clf.report_["encoder_training"] == "contrastive"
    clf.save_pretrained(tmp_path / "saved")
    loaded = AutoFusionClassifier.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(loaded.predict_proba(texts), clf.predict_proba(texts), atol=1e-5)
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(texts, names, strict=True)))
    command = ["train", str(data), "--encoder", tiny_encoder_dir, "--output-dir", str(tmp_path / "model")]
    assert main([*command, "--encoder-training", "contrastive", "--max-train-tokens", "0", "--device", "cpu"]) == 0
    assert "Encoder: trained contrastively (" in capsys.readouterr().out
