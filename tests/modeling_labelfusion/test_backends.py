"""What runs the encoder, and in which precision: the same answers from each."""

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.configuration.text_pair import TextPair
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification, hardware
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.modeling_labelfusion.openvino_encoder import OpenVinoEncoder, openvino_encoder
from tiny_encoders import ENCODERS
from transformers import AutoConfig, PreTrainedTokenizerFast

from labelfusion import AutoFusionClassifier

MakeModel = Callable[..., LabelFusionForSequenceClassification]
TEXTS = ["the movie was good", "a bad plot", "stock price", "team " * 30, "the movie was good"]


@pytest.fixture
def openvino() -> None:
    pytest.importorskip("openvino")


def test_openvino_computes_the_same_embeddings(
    openvino: None, make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model(pooling_layers=[1], lexical_size=2**15 + len(tiny_tokenizer))
    assert model.lexical_head is not None
    torch.nn.init.normal_(model.lexical_head.weight)
    wanted = TextEncoder(model, tiny_tokenizer, batch_size=2)(TEXTS)
    fast = TextEncoder(model, tiny_tokenizer, batch_size=2, backend="openvino")
    np.testing.assert_allclose(fast(TEXTS), wanted, atol=1e-4)
    half = TextEncoder(model, tiny_tokenizer, backend="openvino", bf16=True)(TEXTS)
    compiled = dict(model.__dict__["_openvino"].encoders)
    fast(TEXTS)
    assert model.__dict__["_openvino"].encoders == compiled
    assert len(compiled) == 2
    assert float((half - wanted)[:, :64].abs().max()) < 0.1


def test_new_weights_are_compiled_again(
    openvino: None, make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model()
    fast = TextEncoder(model, tiny_tokenizer, backend="openvino")
    before = fast(TEXTS)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        weight = model.encoder.encoder.layer[1].output.dense.weight
        weight.add_(torch.randn_like(weight))
    assert float((fast(TEXTS) - before).abs().max()) > 0.01
    np.testing.assert_allclose(fast(TEXTS), TextEncoder(model, tiny_tokenizer)(TEXTS), atol=1e-4)
    np.testing.assert_allclose(TextEncoder(twin, tiny_tokenizer, backend="openvino")(TEXTS), before, atol=1e-5)


def test_pairs_of_texts_keep_their_token_types(
    openvino: None, make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model, pairs = make_model(), [TextPair("good movie", "bad plot"), TextPair("team", "the match was good")]
    wanted = TextEncoder(model, tiny_tokenizer)(pairs)
    np.testing.assert_allclose(TextEncoder(model, tiny_tokenizer, backend="openvino")(pairs), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_encoders_of_any_kind_give_the_same(openvino: None, kind: str, make_model: MakeModel) -> None:
    config = AutoConfig.for_model(kind, **ENCODERS[kind])
    model = make_model(encoder_config=config, num_providers=0)
    ids = torch.arange(3, 33).reshape(2, 15)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    run = openvino_encoder(model, {"input_ids": ids, "attention_mask": mask})
    with torch.inference_mode():
        wanted = model.encode(ids, mask)[0]
        np.testing.assert_allclose(model.encode(ids, mask, encoder=run)[0], wanted, atol=1e-4)


def test_a_classifier_takes_the_backend(openvino: None, tiny_encoder_dir: str) -> None:
    texts = ["good movie w1", "bad plot w2", "good team w3", "bad match w4"] * 5
    labels = ["yes", "no"] * 10
    clf = AutoFusionClassifier(tiny_encoder_dir, None, encoder_training="probe", backend="openvino").fit(texts, labels)
    fast = clf.predict_proba(texts)
    clf.backend = "torch"
    np.testing.assert_allclose(fast, clf.predict_proba(texts), atol=1e-4)


@pytest.mark.parametrize(("name", "value"), [("backend", "onnx"), ("backend", None), ("bf16", "yes"), ("bf16", 1)])
def test_unknown_options_are_refused(
    name: str, value: Any, make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tiny_encoder_dir: str
) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is {value!r}; expected"):
        TextEncoder(make_model(), tiny_tokenizer, **{name: value})
    with pytest.raises(ValueError, match=f"`{name}` is {value!r}; expected"):
        AutoFusionClassifier(tiny_encoder_dir, None, **{name: value}).fit(["a", "b"] * 4, ["x", "y"] * 4)


def test_bf16_is_measured_or_warned_of(
    make_model: MakeModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hardware, "fast_bf16", lambda device: False)
    slow = make_model()
    with caplog.at_level(logging.INFO):
        assert not hardware.resolved_bf16("auto", slow)
        assert not hardware.resolved_bf16(False, slow)
        other = make_model()
        assert hardware.resolved_bf16(True, other)
        assert hardware.resolved_bf16(True, other)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # once for each model
    monkeypatch.setattr(hardware, "fast_bf16", lambda device: True)
    for gain in (0.5, 2.0):
        monkeypatch.setattr(hardware, "bf16_gain", lambda model, gain=gain: gain)
        model = make_model()
        with caplog.at_level(logging.INFO):
            assert hardware.resolved_bf16("auto", model) is (gain > 1)
        assert f"bfloat16 is {gain:.2f} times as fast" in caplog.records[-1].getMessage()
    monkeypatch.undo()
    assert hardware.bf16_gain(make_model(), runs=1) > 0
    TextEncoder(make_model(), tiny_tokenizer, bf16="auto")(TEXTS)


def test_openvino_neither_reports_nor_changes_logging(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    program = """
import logging, os, sys
from transformers import BertConfig
from labelfusion.configuration import LabelFusionConfig
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.openvino_encoder import openvino_encoder
small = dict(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
model = LabelFusionForSequenceClassification(LabelFusionConfig(encoder_config=BertConfig(**small).to_dict())).eval()
openvino_encoder(model, {"input_ids", "attention_mask"})
print("openvino_telemetry" in sys.modules, logging.root.level, logging.root.filters, os.listdir(os.environ["HOME"]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout == "False 30 [] []\n", done.stderr


def test_what_cannot_run_says_so(openvino: None, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    logging_of_others = (logging.root.level, logging.root.filters[:])
    monkeypatch.setattr(OpenVinoEncoder, "_difference", lambda *args: float("nan"))
    with pytest.raises(ValueError, match=r"computes other embeddings .* Give `backend='torch'`"):
        openvino_encoder(make_model(), {"input_ids", "attention_mask"})
    model = make_model()
    monkeypatch.setattr(model.encoder, "forward", lambda **kwargs: 1 / 0)
    with pytest.raises(ValueError, match=r"(?s)OpenVINO cannot run this encoder \(a 'bert'\).* Give `backend='torch'`"):
        openvino_encoder(model, {"input_ids", "attention_mask"})
    assert (logging.root.level, logging.root.filters) == logging_of_others
