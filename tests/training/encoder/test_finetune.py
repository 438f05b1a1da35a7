"""Fine-tuning within the recipe: frozen layers run once, the measured encoder is kept, work is bounded."""

from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import TextEncoder, encode_texts
from labelfusion.training.encoder import encoder_fit, finetune_fit, frozen_layers
from labelfusion.training.encoder.finetune import finetune
from labelfusion.training.encoder.frozen_layers import remembered_below
from labelfusion.training.encoder.train_budget import token_counts
from labelfusion.training.fit_options import FinetuneOptions, FitOptions
from labelfusion.training.recipe import fit_model
from tiny_encoders import COMMON, ENCODERS
from transformers import AutoConfig

WORDS = [
    "team",
    "match",
    "goal",
    "player",
    "market",
    "stock",
    "price",
    "bank",
    "trade",
    "chip",
    "code",
    "phone",
    "data",
]


def texts_of(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts in which one word tells the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return [" ".join([("good", "bad")[y], *rng.choice(WORDS, rng.integers(3, 12))]) for y in labels], labels


@pytest.fixture
def model(make_model: Any) -> LabelFusionForSequenceClassification:
    return make_model(num_labels=2, num_providers=0)


def lower_runs(model: LabelFusionForSequenceClassification) -> list[int]:
    """Receives the number of texts whenever the lowest layer computes its attention."""
    seen: list[int] = []
    stack: Any = frozen_layers.layer_stack(model.encoder)
    lowest = stack[0].attention
    lowest.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    return seen


def test_lower_layers_run_once_for_a_text_and_say_the_same(model: Any, tiny_tokenizer: Any) -> None:
    texts, _ = texts_of(20)
    runs = lower_runs(model)
    plain = encode_texts(model, tiny_tokenizer, texts, batch_size=5)
    names = list(model.state_dict())
    with remembered_below(model, 0.5):
        runs.clear()
        for batch_size in (5, 5, 7):  # batches of other texts, padded otherwise
            torch.testing.assert_close(encode_texts(model, tiny_tokenizer, texts, batch_size=batch_size), plain)
        assert sum(runs) == len(set(texts))
        encode_texts(model, tiny_tokenizer, [*texts[:3], "a new text"])
        assert sum(runs) == len(set(texts)) + 4
    torch.testing.assert_close(encode_texts(model, tiny_tokenizer, texts), plain)
    assert sum(runs) > len(set(texts)) + 4
    assert list(model.state_dict()) == names


KINDS: dict[str, dict[str, Any]] = {
    **ENCODERS,
    "mpnet": {**COMMON, "vocab_size": 70},
    "electra": {**COMMON, "embedding_size": 16},
    "albert": {**COMMON, "embedding_size": 16},
    "xlnet": {"vocab_size": 70, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "gpt2": {"vocab_size": 70, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_encoder_says_the_same(kind: str, make_model: Any) -> None:
    """In batches of other texts, other padding and as many texts as tokens."""
    config = AutoConfig.for_model(kind, **{**KINDS[kind], "vocab_size": 70})
    model = make_model(encoder_config=config, num_providers=0)
    ids = torch.randint(6, 70, (9, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[6:, 3:] = 0
    batches = [[0, 1, 2, 3, 4], [4, 3, 6, 1, 5], [6, 7], [5, 8, 0]]
    with torch.no_grad():
        plain = model.encode(input_ids=ids, attention_mask=mask)[0]
        with remembered_below(model, 0.5):
            for rows in batches + batches[::-1]:
                found = model.encode(input_ids=ids[rows], attention_mask=mask[rows])[0]
                torch.testing.assert_close(found, plain[rows], rtol=1e-4, atol=1e-4)


def test_training_on_what_is_remembered_is_training_on_all(make_model: Any, tiny_tokenizer: Any) -> None:
    texts, labels = texts_of(24)
    options = FinetuneOptions(
        batch_size=8, trained_layers=0.5, learning_rate=1e-2, trainer_args={"bf16": False, "max_grad_norm": 0.0}
    )
    trained = []
    for share in (0.5, 1.0):  # remembered, and not
        model = make_model(num_labels=2, num_providers=0, dropout=0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        runs = lower_runs(model)
        with remembered_below(model, share):
            runs.clear()
            finetune(TextEncoder(model, tiny_tokenizer), texts, labels, options, num_epochs=3)
        assert sum(runs) == (len(texts) if share < 1 else 3 * len(texts))
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert any(".layer.1." in name for name in changed)
        assert not any(".layer.0." in name or "embeddings" in name for name in changed)
        trained.append(encode_texts(model, tiny_tokenizer, texts))
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)


def test_memory_is_bounded(model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _ = texts_of(20)
    plain = encode_texts(model, tiny_tokenizer, texts)
    monkeypatch.setattr(frozen_layers, "MOST_BYTES", 1)
    with remembered_below(model, 0.5):
        for _ in range(2):
            torch.testing.assert_close(encode_texts(model, tiny_tokenizer, texts, batch_size=5), plain)


def fitted(model: Any, tokenizer: Any, scored: int, **options: Any) -> dict[str, Any]:
    texts, labels = texts_of(60)
    scores = np.full((60, 1, 2), np.nan, dtype=np.float32)
    scores[:scored, 0] = np.eye(2)[labels[:scored]]
    settings = FitOptions(extra_sources=False, **options)
    settings.finetune = FinetuneOptions(num_train_epochs=2, learning_rate=1e-2)
    return fit_model(model, tokenizer, texts, labels, scores, settings)


@pytest.mark.parametrize(("scored", "trainings"), [(8, [52]), (16, [44, 60]), (60, [40, 40, 40, 60])])
def test_an_encoder_that_was_measured_on_a_small_part_is_kept(
    scored: int, trainings: list[int], make_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def recorded(encoder: TextEncoder, texts: list[str], *args: Any, **kwargs: Any) -> None:
        rows.append(len(texts))
        finetune(encoder, texts, *args, **kwargs)

    monkeypatch.setattr(finetune_fit, "finetune", recorded)
    monkeypatch.setattr(encoder_fit, "FEWEST_JUDGED", 8)  # the scored rows are enough
    model = make_model(num_labels=2, num_providers=1)
    report = fitted(model, tiny_tokenizer, scored, encoder_training="full")
    assert rows == trainings
    assert report["encoder_training"] == "full"
    if len(trainings) == 1:
        # What the fusion was fitted on is what the model answers to these rows.
        texts, labels = texts_of(60)
        with torch.no_grad():
            logits = model.fuse(encode_texts(model, tiny_tokenizer, texts[:scored]))[1]
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[:scored]))
        assert float(loss) == pytest.approx(report["encoder_log_loss"]["full"], abs=0.05)


@pytest.mark.parametrize(("tokens", "trained"), [(100_000, [40, 40, 40, 60]), (1_200, [40]), (100, [])])
def test_a_smaller_budget_means_fewer_epochs_and_parts_and_then_none(
    tokens: int, trained: list[int], make_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def recorded(encoder: TextEncoder, texts: list[str], *args: Any, on_epoch: Any = None, **kwargs: Any) -> None:
        rows.append(len(texts))
        for _ in range(2 if on_epoch else 0):
            on_epoch()

    monkeypatch.setattr(finetune_fit, "finetune", recorded)
    monkeypatch.setattr(finetune_fit, "clearly_better", lambda *_, **__: True)
    monkeypatch.setattr(finetune_fit, "_hopeless", lambda *_: False)
    monkeypatch.setattr(finetune_fit, "FEWEST_JUDGED", 20)
    monkeypatch.setattr(encoder_fit, "FEW_ROWS", range(0))  # no contrastive training before it
    report = fitted(make_model(num_labels=2, num_providers=1), tiny_tokenizer, 60, max_train_tokens=tokens)
    assert rows == trained
    lengths = token_counts(TextEncoder(make_model(num_providers=0), tiny_tokenizer), texts_of(60)[0])
    # Two epochs without each third, then the best epochs on all rows; or one of these thirds, and no more.
    expected = {4: 4 + report.get("num_train_epochs", 0), 1: 4 / 3, 0: 0}[len(trained)] * lengths.sum()
    assert report["train_tokens"] == pytest.approx(expected, rel=0.1)
    assert report["train_tokens"] <= tokens
    assert report["encoder_training"] == ("full" if trained else "probe")


def test_fine_tuning_that_cannot_win_ends_after_one_part(
    make_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def spoil(encoder: TextEncoder, texts: list[str], *args: Any, on_epoch: Any = None, **kwargs: Any) -> None:
        rows.append(len(texts))
        with torch.no_grad():
            encoder.model.encoder_head.weight.zero_()
        on_epoch()

    monkeypatch.setattr(finetune_fit, "finetune", spoil)
    monkeypatch.setattr(encoder_fit, "FEW_ROWS", range(0))
    model = make_model(num_labels=2, num_providers=1)
    report = fitted(model, tiny_tokenizer, 60, max_train_tokens=100_000)
    assert rows == [40]  # the other two thirds are not tried
    assert report["encoder_training"] == "probe"
    assert model.encoder_head.weight.abs().max() > 0


def test_odd_and_long_texts_are_trained_on(model: Any, tiny_tokenizer: Any) -> None:
    texts = ["", "good " * 500, "bad \ud800", "\u4e2d\u6587 bad"]
    options = FinetuneOptions(batch_size=2, max_length=100_000)  # far more than the encoder has positions
    finetune(TextEncoder(model, tiny_tokenizer), texts, np.array([0, 0, 1, 1]), options, num_epochs=1)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("progress", [False, True])
def test_fine_tuning_prints_no_figures_of_the_trainer(
    model: Any, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str], progress: bool
) -> None:
    texts, labels = texts_of(16)
    encoder = TextEncoder(model, tiny_tokenizer)
    finetune(encoder, texts, labels, FinetuneOptions(batch_size=8, progress=progress), num_epochs=1)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\r" not in printed.err  # no bar in a log
