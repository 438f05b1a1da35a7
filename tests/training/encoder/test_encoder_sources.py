"""Inner layers, words and labelled neighbours beside the encoder's last layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.configuration import Task
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import TextEncoder, encode_texts, inner_layers
from labelfusion.modeling_labelfusion.heads import PAIR_BUCKETS, lexical_ids
from labelfusion.training.encoder.encoder_sources import (
    Neighbours,
    Words,
    bags_of_words,
    combine,
    fit_neighbours,
    fit_words,
)
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.folds import assign_folds
from labelfusion.training.recipe import fit_model
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from labelfusion import AutoFusionClassifier

NOUNS = ["ball", "bank", "chip", "vote"]


def news(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts whose class is one word among fillers."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    fillers = [f"w{i}" for i in range(30)]
    return [" ".join([*rng.choice(fillers, 6), NOUNS[y], *rng.choice(fillers, 6)]) for y in labels], labels


def test_distinct_tokens_and_pairs() -> None:
    size = 100 + PAIR_BUCKETS
    ids = torch.tensor([[5, 6, 5, 6, 0], [7, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
    first, second = lexical_ids(ids, mask, size)
    assert {i for i in first.tolist() if i < 100} == {5, 6}
    assert sum(100 <= i < size for i in first.tolist()) == 2  # (5, 6) twice, (6, 5) once
    assert sorted(second.tolist())[0] == 7
    assert (second < size).sum() == 1
    longer = lexical_ids(torch.cat([ids, ids * 0], dim=1), torch.cat([mask, mask * 0], dim=1), size)
    assert [i for i in longer[0].tolist() if i < size] == [i for i in first.tolist() if i < size]


@pytest.fixture
def model(tiny_encoder_dir: str) -> LabelFusionForSequenceClassification:
    torch.manual_seed(0)
    return LabelFusionForSequenceClassification.from_encoder_pretrained(tiny_encoder_dir, labels=NOUNS)


@pytest.fixture
def tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return tiny_tokenizer


def test_words_find_what_the_encoder_does_not(
    model: LabelFusionForSequenceClassification, tokenizer: Any, tmp_path: Path
) -> None:
    texts, labels = news(300)
    report = fit_model(model, tokenizer, texts, labels, None, FitOptions(encoder_training="probe"))
    assert report["encoder_weights"]["words"] > 0
    assert report["encoder_log_loss"]["together"] < report["encoder_log_loss"]["probe"]
    unseen, truth = news(200, seed=1)
    embeddings = encode_texts(model, tokenizer, unseen)
    assert embeddings.shape == (200, model.config.embedding_size)
    with torch.no_grad():
        logits, alone = model.fuse(embeddings)
    torch.testing.assert_close(logits, alone)
    assert (logits.argmax(dim=1).numpy() == truth).mean() > 0.9
    model.save_pretrained(tmp_path)
    again = LabelFusionForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = tokenizer(unseen[:5], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, logits[:5], atol=1e-5, rtol=1e-5)


def test_embeddings_made_before_are_completed(model: LabelFusionForSequenceClassification, tokenizer: Any) -> None:
    texts, labels = news(120)
    before = encode_texts(model, tokenizer, texts)
    fit_model(model, tokenizer, texts, labels, None, FitOptions(encoder_training="probe"), embeddings=before)
    after = TextEncoder(model, tokenizer).complete(texts, before)
    torch.testing.assert_close(after, encode_texts(model, tokenizer, texts), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="`embedding` is"):
        model.fuse(before)


def test_few_rows_have_the_probe_alone(model: LabelFusionForSequenceClassification, tokenizer: Any) -> None:
    texts, labels = news(40)
    report = fit_model(model, tokenizer, texts, labels, None, FitOptions(encoder_training="probe"))
    assert "encoder_weights" not in report
    assert model.config.embedding_size == model.config.hidden_size


def test_neighbours_learn_what_no_line_separates() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 2))
    labels = torch.from_numpy(((points[:, 0] > 0) ^ (points[:, 1] > 0)).astype(np.int64))
    x = torch.from_numpy(points).float()
    found = fit_neighbours(x, labels, assign_folds(labels.numpy(), 5), Task("ab"))
    assert (found.out_of_fold_logits.argmax(dim=1) == labels).float().mean() > 0.9
    with torch.no_grad():
        again = found.head(x) + found.bias
    assert (again.argmax(dim=1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_source_of_noise_gets_no_weight(
    model: LabelFusionForSequenceClassification, tokenizer: Any, multi_label: bool
) -> None:
    texts, labels = news(200)
    rng = np.random.default_rng(3)
    y: Any = np.eye(4, dtype=np.float32)[labels] if multi_label else labels
    targets = torch.from_numpy(y)
    # Calibrated log odds, so that the classes' frequencies, which noise still tells, add nothing.
    seen = 6 * torch.from_numpy(np.eye(4, dtype=np.float32)[labels]) - 3 + 2 * torch.randn(200, 4)
    good = 1.5 * seen - 1.1
    shuffled = list(rng.permutation(np.array(texts, dtype=object)))
    folds = assign_folds(y, 5)
    bags, size = bags_of_words(TextEncoder(model, tokenizer), shuffled)
    words = fit_words(bags, targets, folds, size, Task("abcd", multi_label))
    neighbours = fit_neighbours(torch.randn(200, 32), targets, folds, Task("abcd", multi_label))
    others: list[Words | Neighbours] = [neighbours, words]
    model.config.problem_type = "multi_label_classification" if multi_label else "single_label_classification"
    _, weights = combine(model, good, others, targets, torch.ones(200, dtype=torch.bool))
    assert weights["encoder"] > 0.5
    assert weights["words"] < 0.15
    assert weights["neighbours"] < 0.15


@pytest.fixture
def deep(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> LabelFusionForSequenceClassification:
    """A model on a random encoder of six layers."""
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    return LabelFusionForSequenceClassification.from_encoder_pretrained(tmp_path / "encoder", labels=NOUNS)


def test_inner_layers_stand_beside_the_last(
    deep: LabelFusionForSequenceClassification, tokenizer: Any, tmp_path: Path
) -> None:
    texts, labels = news(60)
    fit_model(deep, tokenizer, texts, labels, None, FitOptions(encoder_training="probe"))
    assert deep.config.pooling_layers == [5, 4]
    assert deep.encoder_head.weight.shape == (4, 96)
    batch = tokenizer(texts[:5], padding=True, return_tensors="pt")
    with torch.no_grad():
        embedding, outputs = deep.encode(**batch)
        states = deep.encode(**batch, output_hidden_states=True)[1].hidden_states
    assert outputs.hidden_states is None
    mask = batch["attention_mask"].unsqueeze(-1).float()
    for i, layer in enumerate((6, 5, 4)):
        mean = (states[layer] * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(embedding[:, 32 * i : 32 * (i + 1)], mean)
    deep.save_pretrained(tmp_path / "model")
    again = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, deep.eval()(**batch).logits, rtol=0, atol=0)
    # A second fit without them starts anew.
    fit_model(deep, tokenizer, texts, labels, None, FitOptions(encoder_training="probe", extra_sources=False))
    assert deep.config.pooling_layers == []
    assert deep.encoder_head.weight.shape == (4, 32)


def test_inner_layers_where_not_every_row_may_be_scored(
    deep: LabelFusionForSequenceClassification, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "encoder")
    texts, labels = news(60)
    answers = dict(zip(texts, np.eye(4)[labels] * 0.8 + 0.05, strict=True))

    def fitted(**options: Any) -> AutoFusionClassifier:
        clf = AutoFusionClassifier(
            str(tmp_path / "encoder"),
            lambda asked: np.array([answers[text] for text in asked]),
            encoder_training="probe",
            fusion="pool",
            **options,
        )
        return clf.fit(texts, [NOUNS[y] for y in labels])

    bounded = fitted(max_cost_usd=1.0)
    assert bounded.model_.config.pooling_layers == [5, 4]
    assert fitted(max_scored_rows=40).model_.config.pooling_layers == [5, 4]
    assert fitted(max_scored_rows=40, extra_sources=False).model_.config.pooling_layers == []
    np.testing.assert_array_equal(bounded.predict_proba(texts), fitted().predict_proba(texts))


def test_no_inner_layers_where_they_do_not_fit(
    deep: LabelFusionForSequenceClassification, model: LabelFusionForSequenceClassification, tokenizer: Any
) -> None:
    texts, _ = news(10)
    assert inner_layers(deep, tokenizer, texts) == [5, 4]
    assert inner_layers(model, tokenizer, texts) == []  # two layers
    with torch.no_grad():  # inner states far larger than the last, as without a norm after each layer
        deep.get_parameter("encoder.encoder.layer.4.output.LayerNorm.weight").mul_(100)
    assert inner_layers(deep, tokenizer, texts) == []


@pytest.mark.parametrize("layers", [[2], [-1], [0, 0], ["1"], [True]])
def test_layers_that_the_encoder_does_not_have(make_model: Any, layers: list[Any]) -> None:
    with pytest.raises(ValueError, match="`pooling_layers` must be different inner layers"):
        make_model(pooling_layers=layers)
