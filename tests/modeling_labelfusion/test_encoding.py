"""Texts to embeddings."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from labelfusion.modeling_labelfusion.encoding import encode_texts, max_length
from transformers import (
    AutoConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
    XLNetConfig,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionConfig
from labelfusion import LabelFusionForSequenceClassification as Model

MakeModel = Callable[..., Model]


def test_embeddings_are_those_of_the_model(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model()
    texts = ["good movie", "", "a very bad film plot .", "good movie", "war " * 500]
    embeddings = encode_texts(model, tiny_tokenizer, texts, batch_size=2)
    assert embeddings.shape == (5, 32)
    assert embeddings.dtype == torch.float32
    for text, embedding in zip(texts, embeddings, strict=True):
        with torch.no_grad():
            expected = model.encode(**tiny_tokenizer([text], truncation=True, return_tensors="pt"))[0][0]
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)
    assert encode_texts(model, tiny_tokenizer, []).shape == (0, 32)


def test_duplicates_are_encoded_once(
    make_model: MakeModel, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = make_model(), []
    encode = model.encode

    def counting(**inputs: Any) -> Any:
        rows.append(len(inputs["input_ids"]))
        return encode(**inputs)

    monkeypatch.setattr(model, "encode", counting)
    encode_texts(model, tiny_tokenizer, ["good", "bad", "good"] * 10, batch_size=8)
    assert rows == [2]


def test_the_embeddings_can_be_trained_on(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model().train()
    embeddings = encode_texts(model, tiny_tokenizer, ["good", "bad"])
    assert model.training
    model.fuse(embeddings)[0].sum().backward()
    assert model.encoder_head.weight.grad is not None
    torch.testing.assert_close(encode_texts(model, tiny_tokenizer, ["good", "bad"]), embeddings)  # no dropout


def test_the_mode_is_put_back_after_an_error(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model().train()
    with pytest.raises(ValueError, match=r"`texts\[1\]` is float, expected a string"):
        encode_texts(model, tiny_tokenizer, ["good", float("nan")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="`batch_size`"):
        encode_texts(model, tiny_tokenizer, ["good"], batch_size=0)
    model.encoder.embeddings = torch.nn.Identity()
    with pytest.raises((TypeError, AttributeError)):
        encode_texts(model, tiny_tokenizer, ["good"])
    assert model.training


def test_bf16_loses_little(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model()
    model.set_heads(novelty_size=4)
    head, generator = model.novelty_head, torch.Generator().manual_seed(0)
    assert head is not None
    head.center.data = torch.randn(32, generator=generator)
    head.directions.data = torch.randn(4, 32, generator=generator)
    texts = ["good movie", "a very bad film plot .", "war in the film"]
    exact, found = (encode_texts(model, tiny_tokenizer, texts, bf16=bf16) for bf16 in (False, True))
    assert found.dtype == torch.float32
    assert not torch.equal(exact[:, :32], found[:, :32])
    torch.testing.assert_close(exact[:, :32], found[:, :32], atol=0.05, rtol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # differences of squares stay exact
        again = head(found[:, :32])
    torch.testing.assert_close(again, head(found[:, :32]), atol=0, rtol=0)


def test_half_precision_gives_float32(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = make_model().to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    assert encode_texts(model, tiny_tokenizer, ["good"]).dtype == torch.float32


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (BertConfig(max_position_embeddings=512), 512),
        (DistilBertConfig(max_position_embeddings=256), 256),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (MPNetConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (DebertaV2Config(max_position_embeddings=512), 512),
        (XLNetConfig(), 512),  # no limit at all
    ],
)
def test_the_longest_input(encoder: Any, expected: int, tiny_tokenizer: Tokenizer) -> None:
    config = LabelFusionConfig(encoder_config=encoder)
    own = tiny_tokenizer.model_max_length
    try:
        tiny_tokenizer.model_max_length = int(1e30)
        assert max_length(config, tiny_tokenizer) == expected
        tiny_tokenizer.model_max_length = 100
        assert max_length(config, tiny_tokenizer) == 100
    finally:
        tiny_tokenizer.model_max_length = own


@pytest.mark.parametrize(
    "model_type", ["roberta", "xlm-roberta", "camembert", "mpnet", "bert", "distilbert", "electra", "markuplm"]
)
def test_the_longest_input_is_what_the_encoder_takes(
    model_type: str, make_model: MakeModel, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = AutoConfig.for_model(
        model_type,
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        dim=32,
        hidden_dim=48,
        embedding_size=32,
        num_hidden_layers=1,
        n_layers=1,
        num_attention_heads=4,
        n_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    model = make_model(encoder_config=encoder)
    monkeypatch.setattr(tiny_tokenizer, "model_max_length", int(1e30))
    assert encode_texts(model, tiny_tokenizer, ["good " * 20_000]).isfinite().all()
    limit = max_length(model, tiny_tokenizer)
    assert encode_texts(model, tiny_tokenizer, ["good " * 20_000], max_length=1000).isfinite().all()
    inputs = tiny_tokenizer(["good " * 100], truncation=True, max_length=limit + 1, return_tensors="pt")
    with pytest.raises((IndexError, RuntimeError)):  # one token more is one too many
        model.encode(**inputs)
