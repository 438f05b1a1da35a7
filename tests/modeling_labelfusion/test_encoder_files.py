"""Encoders and tokenizers as people save them: read rightly, or an error that says what is wrong."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import encode_texts
from labelfusion.modeling_labelfusion.tokenizer_files import load_tokenizer
from labelfusion.training.collator import LabelFusionDataCollator
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerFast,
    T5Config,
    ViTConfig,
)

from labelfusion import AutoFusionClassifier

Tokenizer = PreTrainedTokenizerFast
TEXTS = ["good", "the film was very good a great plot", "bad bad bad", "awful stock price the bank was not good"]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_encoder_config: BertConfig) -> Path:
    """A random BERT and its tokenizer, to be spoilt."""
    return write(tmp_path / "encoder", tiny_encoder_config, tiny_tokenizer)


def write(path: Path, config: Any, tokenizer: Tokenizer | None, make: Any = AutoModel) -> Path:
    torch.manual_seed(0)
    make.from_config(config).save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return path


def load(folder: Path, **options: Any) -> LabelFusionForSequenceClassification:
    return LabelFusionForSequenceClassification.from_encoder_pretrained(folder, num_labels=2, **options).eval()


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


def rename(path: Path, name: Callable[[str], str | None]) -> None:
    weights = {name(k): v for k, v in load_file(path).items()}
    save_file({k: v for k, v in weights.items() if k}, path, metadata={"format": "pt"})


# --- Weights ---------------------------------------------------------------------------------------------------------


def test_weights_under_other_names_are_no_encoder(folder: Path) -> None:
    """Transformers makes random weights for those that it does not find, and only logs it."""
    rename(folder / "model.safetensors", lambda name: f"backbone.net.{name}")
    with pytest.raises(ValueError, match=r"lack 37 of the model's 39.*They hold others, such as 'backbone\.net\."):
        load(folder)


def test_a_missing_layer_is_an_error_and_a_missing_pooler_is_not(folder: Path) -> None:
    rename(folder / "model.safetensors", lambda name: None if name.startswith("pooler.") else name)
    load(folder)
    rename(folder / "model.safetensors", lambda name: None if ".layer.1." in name else name)
    with pytest.raises(ValueError, match=r"lack 16 of the model's 39, such as 'encoder\.layer\.1\."):
        load(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=64)
    with pytest.raises(ValueError, match=r"other shapes than its config\.json says"):
        load(folder)


def test_a_saved_model_without_some_weights_is_an_error(saved_model: Callable[..., Path]) -> None:
    path = saved_model()
    rename(path / "model.safetensors", lambda name: name.replace("encoder.embeddings", "encoder.embedding"))
    with pytest.raises(ValueError, match=r"lack 5 of the model's"):
        LabelFusionForSequenceClassification.from_pretrained(path)


def test_a_language_model_gives_its_encoder(
    tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_encoder_config: BertConfig
) -> None:
    path = write(tmp_path / "mlm", tiny_encoder_config, tiny_tokenizer, AutoModelForMaskedLM)
    whole = AutoModelForMaskedLM.from_pretrained(path)
    for name, weight in load(path).encoder.state_dict().items():
        assert torch.equal(weight, whole.bert.state_dict()[name]), name


@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_is_no_encoder(folder: Path, beside: bool) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    if not beside:
        (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"PEFT adapter.*merge_and_unload"):
        load(folder)


def test_the_inner_folder_of_old_sentence_transformers_is_named(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"idx": 0, "path": "0_Transformer"}]', encoding="utf-8")
    load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"give '.*0_Transformer'"):
        load(folder)


@pytest.mark.parametrize("config", [T5Config(vocab_size=99, d_model=32, num_layers=1, d_ff=8), ViTConfig(**SIZES)])
def test_what_is_no_encoder_of_texts(config: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'{config.model_type}'.*cannot be the encoder: it must make an embedding"):
        load(write(tmp_path / "other", config, None))


@pytest.mark.parametrize("model_type", ["squeezebert", "layoutlm"])
def test_encoders_that_cannot_do_without_their_pooler(
    model_type: str, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    config = AutoConfig.for_model(model_type, vocab_size=len(tiny_tokenizer), embedding_size=32, **SIZES)
    model = load(write(tmp_path / "encoder", config, tiny_tokenizer))
    assert not any("pooler" in name for name in model.state_dict())
    expected = encode_texts(model, tiny_tokenizer, TEXTS)
    model.save_pretrained(tmp_path / "fused")
    again = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "fused")
    assert torch.equal(encode_texts(again, tiny_tokenizer, TEXTS), expected)


@pytest.mark.parametrize(("model_type", "warned"), [("fnet", True), ("bert", False), ("nystromformer", False)])
def test_padding_that_moves_embeddings_is_said(
    model_type: str, warned: bool, tmp_path: Path, tiny_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    config = AutoConfig.for_model(model_type, vocab_size=len(tiny_tokenizer), **SIZES)
    with caplog.at_level(logging.WARNING, "labelfusion"):
        model = load(write(tmp_path / "encoder", config, tiny_tokenizer))
    assert ("lets padding change the embedding" in caplog.text) == warned
    together = encode_texts(model, tiny_tokenizer, TEXTS, batch_size=1)
    alone = torch.cat([encode_texts(model, tiny_tokenizer, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone)  # as the warning says


def test_a_compiled_encoder_keeps_the_names_of_its_weights(folder: Path, tiny_tokenizer: Tokenizer) -> None:
    model = load(folder)
    expected = encode_texts(model, tiny_tokenizer, TEXTS)
    model.encoder = torch.compile(model.encoder, backend="eager")
    model.save_pretrained(folder / "fused")
    again = LabelFusionForSequenceClassification.from_pretrained(folder / "fused")
    assert torch.equal(encode_texts(again, tiny_tokenizer, TEXTS), expected)


# --- Tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("setting", [{"padding_side": "left"}, {"model_input_names": ["input_ids"]}])
def test_padding_is_masked_and_on_the_right(setting: dict[str, Any], pooling: str, folder: Path) -> None:
    edit(folder / "tokenizer_config.json", **setting)
    model, own = load(folder, pooling=pooling), AutoTokenizer.from_pretrained(folder)
    alone = torch.cat([encode_texts(model, own, [text]) for text in TEXTS])
    torch.testing.assert_close(encode_texts(model, own, TEXTS), alone)
    collate = LabelFusionDataCollator(own, 0, 2)
    batch = collate([{"input_ids": own(text)["input_ids"]} for text in TEXTS])
    torch.testing.assert_close(model.encode(**batch)[0], alone)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.padding_side == "right"


def test_a_tokenizer_without_padding_token(folder: Path, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    backend = Backend.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    Tokenizer(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]").save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    model, expected = load(folder), encode_texts(load(folder), load_tokenizer(folder), TEXTS)
    alone = torch.cat([encode_texts(model, load_tokenizer(folder), [text]) for text in TEXTS])
    torch.testing.assert_close(expected, alone)
    clf = AutoFusionClassifier(encoder=str(folder), llm=None, encoder_training="probe")
    clf.fit((TEXTS * 6, ["good", "good", "bad", "bad"] * 6)).save_pretrained(tmp_path / "fused")
    assert AutoTokenizer.from_pretrained(tmp_path / "fused").pad_token == "[SEP]"


def test_no_tokenizer_at_all_is_an_error(tmp_path: Path, tiny_encoder_config: BertConfig) -> None:
    """Transformers makes one that knows special tokens alone: every word is unknown to it."""
    path = write(tmp_path / "bare", tiny_encoder_config, None)
    assert len(AutoTokenizer.from_pretrained(path)) == 5
    with pytest.raises(OSError, match="No tokenizer could be loaded"):
        load_tokenizer(path)


def test_a_tokenizer_of_another_model_is_an_error(
    tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_encoder_config: BertConfig
) -> None:
    config = BertConfig(**{**tiny_encoder_config.to_dict(), "vocab_size": 12})
    path = write(tmp_path / "small", config, tiny_tokenizer)
    clf = AutoFusionClassifier(encoder=str(path), llm=None)
    with pytest.raises(ValueError, match=r"makes token \d+ \('\w+'\), and the encoder has 12 token embeddings"):
        clf.fit((TEXTS * 6, ["good", "good", "bad", "bad"] * 6))


def test_a_tokenizer_that_needs_a_package_names_it(
    tmp_path: Path, tiny_encoder_config: BertConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeBERTa-v3 has its vocabulary in `spm.model` alone."""
    path = write(tmp_path / "deberta", AutoConfig.for_model("deberta-v2", vocab_size=60, **SIZES), None)
    (path / "spm.model").write_bytes(b"\n\x0e\n\x05<pad>\x15\x00\x00\x00\x00\x18\x03")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(OSError, match=r"spm\.model.*pip install sentencepiece"):
        load_tokenizer(path)
