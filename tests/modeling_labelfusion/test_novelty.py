"""Drift: the gate asks about texts that are unlike those which the model was trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion.encoding import TextEncoder, encode_texts
from labelfusion.modeling_labelfusion.heads import NoveltyHead
from labelfusion.pipelines.inference import infer, run
from labelfusion.routing.gate import expected_error, gate_values
from labelfusion.routing.out_of_distribution import doubted, novelty_of
from labelfusion.routing.run_options import Routing
from labelfusion.training.encoder.novelty_fit import BEGIN, DIRECTIONS, WIDTH, fit_novelty
from labelfusion.training.fit_options import FinetuneOptions, FitOptions
from labelfusion.training.recipe import fit_model

from labelfusion import LabelFusionForSequenceClassification as Model

CLASSES = ["ball", "bank", "chip"]
NOUNS = [["goal", "team", "match"], ["bank", "stock", "price"], ["code", "phone", "data"]]


def news(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Sentences that tell their class by two nouns, one of which is another class's now and then."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    other = np.where(rng.random(n) < 0.3, rng.integers(0, 3, n), labels)
    frame = ["the", "a", "very", "good", "bad", "is", "was", "w1", "w2", "w3"]
    texts = [
        " ".join([*rng.choice(frame, 4), rng.choice(NOUNS[y]), *rng.choice(frame, 3), rng.choice(NOUNS[z]), "."])
        for y, z in zip(labels, other, strict=True)
    ]
    return texts, labels


def letters(n: int, seed: int = 0) -> list[str]:
    """The other domain: strings that the tokenizer has to spell, among them the nouns of the first."""
    rng = np.random.default_rng(seed)
    spelt = ["".join(rng.choice(list("xyzqvk0456"), 7)) for _ in range(40)]
    return [" ".join([*rng.choice(spelt, 5), rng.choice(NOUNS[i % 3]), *rng.choice(spelt, 3)]) for i in range(n)]


def heard(labels: np.ndarray, providers: int, seed: int = 0) -> np.ndarray:
    """Recorded answers of LLMs that are right in nine of ten texts: float32 `(n, P, 3)`."""
    rng = np.random.default_rng(seed)
    shape = (len(labels), providers)
    said = np.where(rng.random(shape) < 0.9, labels[:, None], rng.integers(0, 3, shape))
    return (0.9 * np.eye(3)[said] + 0.1 / 3).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(tiny_encoder_dir: str, tiny_tokenizer: Any) -> Any:
    """`fitted(num_providers)`: a model that has learnt from 300 of the first domain's texts."""

    def make(providers: int) -> Model:
        torch.manual_seed(0)
        llms: Any = [{"model": "recorded", "name": f"llm{p}"} for p in range(providers)]
        model = Model.from_encoder_pretrained(tiny_encoder_dir, labels=CLASSES, llm_providers=llms, fusion="pool")
        texts, labels = news(300)
        options = FitOptions(encoder_training="probe", extra_sources=False)
        fit_model(model, tiny_tokenizer, texts, labels, heard(labels, providers), options)
        return model

    return make


def ask(model: Model, tokenizer: Any, texts: list[str], policy: Any) -> np.ndarray:
    """bool `(n, P)`: whose recorded answers the policy has let in."""
    scores = heard(np.zeros(len(texts), dtype=int), model.config.num_providers)
    return run(model, tokenizer, texts, llm_scores=scores, llm_policy=policy).answered


@pytest.mark.parametrize("providers", [1, 2])
def test_the_gate_asks_more_in_another_domain(fitted: Any, tiny_tokenizer: Any, providers: int) -> None:
    """By "auto", with two LLMs as a cascade; without the novelty it would not."""
    model, foreign, known = fitted(providers), letters(200), news(200, seed=1)[0]
    at_home, abroad = (ask(model, tiny_tokenizer, texts, "auto").any(axis=1).mean() for texts in (known, foreign))
    assert abroad > 0.9
    assert at_home < abroad - 0.2
    model.set_heads(novelty_size=0)
    assert ask(model, tiny_tokenizer, foreign, "auto").any(axis=1).mean() < abroad - 0.2


def test_a_fine_tuned_encoder_knows_strangers_too(tiny_encoder_dir: str, tiny_tokenizer: Any) -> None:
    """Its embeddings are those after the training, so that they are made anew."""
    torch.manual_seed(0)
    llm: Any = [{"model": "recorded", "name": "llm"}]
    model = Model.from_encoder_pretrained(tiny_encoder_dir, labels=CLASSES, llm_providers=llm, fusion="pool")
    texts, labels = news(150)
    options = FitOptions(encoder_training="full", extra_sources=False)
    options.finetune = FinetuneOptions(num_train_epochs=3, learning_rate=2e-3)
    fit_model(model, tiny_tokenizer, texts, labels, heard(labels, 1), options)
    found = [encode_texts(model, tiny_tokenizer, texts) for texts in (news(200, seed=1)[0], letters(200))]
    at_home, abroad = (novelty_of(embeddings, model.config) for embeddings in found)
    assert (at_home > 0).mean() < 0.1
    assert (abroad == 1).mean() > 0.9


def test_a_share_stays_exact_and_goes_to_the_strangers(fitted: Any, tiny_tokenizer: Any) -> None:
    model = fitted(1)
    texts = [*news(180, seed=1)[0], *letters(20)]
    asked = ask(model, tiny_tokenizer, texts, 0.2)[:, 0]
    assert asked.sum() == 40
    assert asked[180:].mean() > 0.9
    order = np.random.default_rng(0).permutation(200)
    rows = [(texts[i], heard(np.zeros(1, dtype=int), 1)[0]) for i in np.tile(order, 5)]
    parts = list(infer(TextEncoder(model, tiny_tokenizer), iter(rows), Routing.parse(model.config, 0.2)))
    streamed = np.concatenate([part.answered[:, 0] for part in parts])
    assert streamed.mean() == pytest.approx(0.2, abs=0.03)
    foreign = np.tile(order >= 180, 5)
    assert streamed[foreign].mean() > 0.8
    np.testing.assert_array_equal(np.concatenate([part.novelty for part in parts]) > 0.5, foreign)
    assert not ask(model, tiny_tokenizer, texts, "never").any()


def test_novelty_is_kept_with_the_model(fitted: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model, texts = fitted(1), [*news(20, seed=1)[0], *letters(20)]
    embeddings = encode_texts(model, tiny_tokenizer, texts)
    assert embeddings.shape[1] == model.config.embedding_size == model.config.hidden_size + 1
    novelty = novelty_of(embeddings, model.config)
    assert novelty[:20].mean() < 0.1 < 0.9 < novelty[20:].mean()
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(encode_texts(again, tiny_tokenizer, texts), embeddings, atol=1e-4, rtol=1e-4)
    completed = TextEncoder(model, tiny_tokenizer).complete(texts, embeddings[:, : model.config.hidden_size])
    torch.testing.assert_close(completed, embeddings, atol=1e-4, rtol=1e-4)
    logits = again.fuse(embeddings)[1].detach()
    again.set_heads(novelty_size=0)  # a model of before
    narrow = encode_texts(again, tiny_tokenizer, texts)
    torch.testing.assert_close(again.fuse(narrow)[1].detach(), logits, atol=1e-5, rtol=1e-5)
    assert not novelty_of(narrow, again.config).any()


@pytest.mark.parametrize("rows", [60, 1000])
def test_unseen_texts_of_the_same_kind_are_not_novel(make_model: Any, rows: int) -> None:
    rng = np.random.default_rng(0)
    spread = np.linspace(0.2, 3.0, 32)
    draw = lambda n: torch.from_numpy(spread * rng.normal(size=(n, 32))).float()  # noqa: E731
    model, seen = make_model(), draw(rows)
    novelty = fit_novelty(model, seen, np.arange(rows) % 5)
    assert (novelty > 0).mean() <= 1 - BEGIN + 1 / rows
    head = model.novelty_head
    assert head.directions.shape == (min(DIRECTIONS, rows // 4, 31), 32)
    assert (head(draw(2000)) > 0).float().mean() < 0.05
    moved = draw(200) + 12 * torch.eye(32)[0]  # a little beside where there is hardly any variance
    assert (head(moved) == 1).float().mean() > 0.95


@pytest.mark.parametrize("inner_layers", [[1], [1, 0]])
def test_what_is_strange_in_one_of_two_layers_is_novel(make_model: Any, inner_layers: list[int]) -> None:
    """The last layer tells topics, an inner one styles; texts of the same kind stay as rarely novel as with one."""
    rng = np.random.default_rng(0)
    width = 32 * (1 + len(inner_layers))
    spread = np.linspace(0.2, 3.0, width)
    draw = lambda n: torch.from_numpy(spread * rng.normal(size=(n, width))).float()  # noqa: E731
    model, seen = make_model(), draw(1000)
    model.set_pooling_layers(inner_layers)
    novelty = fit_novelty(model, seen, np.arange(1000) % 5)
    assert 0 < (novelty > 0).mean() <= 1 - BEGIN + 1 / 1000
    assert model.config.novelty_size == model.config.inner_novelty_size == DIRECTIONS - 1
    assert (model.novelty(draw(2000)) > 0).float().mean() < 0.05
    for place in (0, width - 32):
        moved = draw(200)
        moved[:, place] += 60
        assert (model.novelty(moved) == 1).float().mean() > 0.95
    other = draw(200)
    other[:, 32 : width - 32] += 60  # a layer between, which neither head sees
    assert (model.novelty(other) > 0).float().mean() < 0.05
    fit_novelty(model, seen[:10], np.arange(10) % 5)  # too few rows for any
    assert model.novelty_head is model.inner_novelty_head is None


def test_both_novelty_heads_are_saved(make_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = make_model()
    model.set_pooling_layers([1])
    pooled = encode_texts(model, tiny_tokenizer, news(300)[0])
    fit_novelty(model, pooled, np.arange(300) % 5)
    texts = [*news(20, seed=1)[0], *letters(20)]
    found = encode_texts(model, tiny_tokenizer, texts)
    assert found.shape[1] == model.config.embedding_size == model.config.pooled_size + 1
    assert novelty_of(found, model.config)[20:].mean() > 0.5
    completed = TextEncoder(model, tiny_tokenizer).complete(texts, found[:, : model.config.pooled_size])
    torch.testing.assert_close(completed, found)
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(encode_texts(again, tiny_tokenizer, texts), found, atol=1e-4, rtol=1e-4)


def test_the_distance_is_that_of_the_covariance(make_model: Any) -> None:
    """Against the inverse of the covariance, whose small eigenvalues are replaced by their mean."""
    points = torch.randn(400, 32, dtype=torch.float64) * torch.linspace(0.3, 2.0, 32)
    model, folds = make_model(), np.arange(400) % 2
    fit_novelty(model, points, folds)

    def distances(of: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(torch.cov(seen.T))
        kept = min(DIRECTIONS, len(seen) // 4, 31)
        values[:-kept] = values[:-kept].mean()
        z = of - seen.mean(dim=0)
        return ((z @ (vectors / values) @ vectors.T) * z).sum(dim=1)

    apart = torch.cat([distances(points[folds == i], points[folds != i]) for i in (0, 1)])
    begin = np.quantile(apart.numpy(), BEGIN, method="higher")
    some = 1.2 * points[:100]
    expected = ((distances(some, points) - begin) / (WIDTH * begin)).clamp(0, 1)
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(model.novelty_head(some.float())[:, 0], expected.float(), atol=1e-2, rtol=1e-2)


def test_no_head_where_nothing_can_be_told(make_model: Any) -> None:
    for points in (torch.randn(10, 32), torch.zeros(100, 32)):
        model = make_model()
        assert not fit_novelty(model, points, np.arange(len(points)) % 5).any()
        assert model.novelty_head is None
        assert model.config.novelty_size == 0
    half = NoveltyHead(32, 4).half()
    assert half(torch.randn(5, 32).half()).dtype == torch.float16


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_answer_about_a_stranger_is_a_guess(multi_label: bool) -> None:
    probs = np.array([[0.98, 0.01, 0.01]] * 3)
    trusted = doubted(probs, np.array([0.0, 0.5, 1.0]), multi_label)
    np.testing.assert_allclose(trusted[0], probs[0])
    np.testing.assert_allclose(trusted[2], np.full(3, 0.5 if multi_label else 1 / 3))
    assert (np.diff(expected_error(trusted, multi_label)) > 0.1).all()
    gate = {"recall": [0.9] * 3, "rate": [0.9 if multi_label else 1 / 3] * 3, "threshold": 0.3}
    values, _ = gate_values(probs, {"gate": gate}, multi_label, novelty=np.array([0.0, 0.5, 1.0]))
    assert (np.diff(values) > 0.1).all()
    np.testing.assert_array_equal(doubted(probs, None, multi_label), probs)
