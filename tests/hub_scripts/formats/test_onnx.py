"""The export to ONNX: equal logits whatever is missing, and the pipeline on ONNX Runtime."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer, point_client_at
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.formats.onnx_export import compare, example, export_onnx
from labelfusion.hub_scripts.publish.hub import push_folder
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.heads import PAIR_BUCKETS
from transformers import RobertaConfig, pipeline

from labelfusion import LabelFusionOnnxModel

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'labelfusion-transformers[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'labelfusion-transformers[onnx]'")

TEXTS = ["the team is great", "the bank . the price of the stock is not good , the market is awful", "rain", "a film"]

VOCABULARY = 200
ROBERTA = RobertaConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=66,
    type_vocab_size=1,
)

KNOTS = [[-2.0, 0.0, 3.0], [-1.0, 0.5, 1.0]]
MAPS = {"score_maps": [KNOTS, None], "answer_map": KNOTS}


@pytest.fixture(autouse=True)
def no_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="torch.__trace")  # thousands of lines


def test_equal_logits_and_answers(
    saved_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_model(num_providers=2, encoder_config=ROBERTA, calibration=MAPS)
    out = folder / "onnx"  # in the model's own repository
    assert main(["export", str(folder), str(out), "--onnx"]) == 0
    model = LabelFusionForSequenceClassification.from_pretrained(folder).eval()
    check_graph(model, onnxruntime.InferenceSession(str(out / "model.onnx")))
    LabelFusionOnnxModel.from_pretrained(folder, subfolder="onnx").save_pretrained(tmp_path / "again")
    check_pipeline(model, LabelFusionOnnxModel.from_pretrained(tmp_path / "again"), str(out))
    with HubServer() as hub:
        point_client_at(hub.url, monkeypatch)
        push_folder(folder, "me/fusion", token=hub.token)
        options: dict[str, Any] = {"subfolder": "onnx", "token": hub.token, "cache_dir": tmp_path / "cache"}
        pushed = LabelFusionOnnxModel.from_pretrained("me/fusion", **options)
    assert compare(model, pushed) < 1e-4


def check_graph(model: LabelFusionForSequenceClassification, session: Any) -> None:
    """In plain ONNX Runtime, as on another platform: free shapes, and missing scores inside the graph."""
    shapes = {i.name: (i.type, len(i.shape), [d for d in i.shape if isinstance(d, int)]) for i in session.get_inputs()}
    assert shapes == {
        "input_ids": ("tensor(int64)", 2, []),
        "attention_mask": ("tensor(int64)", 2, []),
        "llm_scores": ("tensor(float)", 3, [2, 3]),
    }
    for count, length in ((1, 1), (7, 40), (4, 64)):
        batch = example(model, count, length)
        with torch.inference_mode():
            wanted = model(**batch)
        logits, encoder_logits, _ = session.run(None, {name: value.numpy() for name, value in batch.items()})
        np.testing.assert_allclose(logits, wanted.logits.numpy(), atol=1e-4)
        np.testing.assert_allclose(encoder_logits, wanted.encoder_logits.numpy(), atol=1e-4)
        silent = np.isnan(batch["llm_scores"].numpy()).any(axis=2).all(axis=1)
        assert np.array_equal(logits[silent], encoder_logits[silent])
        assert silent.any() == (count > 1)
        assert not np.allclose(logits[~silent], encoder_logits[~silent], atol=1e-2)


def check_pipeline(model: LabelFusionForSequenceClassification, exported: LabelFusionOnnxModel, folder: str) -> None:
    row = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]
    scores = [row, None, row, [row[1], [float("nan")] * 3]]
    make: Any = pipeline  # typed for the tasks of Transformers alone
    pipes = [make("labelfusion-classification", model=m, tokenizer=folder) for m in (model, exported)]
    answers = []
    for policy in ("always", 0.5):
        options = {"llm_scores": scores, "llm_policy": policy, "top_k": None, "return_sources": True, "batch_size": 2}
        wanted, found = (pipe(TEXTS, **options) for pipe in pipes)
        for a, b in zip(wanted, found, strict=True):
            assert [x["label"] for x in a["labels"]] == [x["label"] for x in b["labels"]]
            assert [x["score"] for x in a["labels"]] == pytest.approx([x["score"] for x in b["labels"]], abs=1e-5)
            assert [s is None for s in a["sources"].values()] == [s is None for s in b["sources"].values()]
        answers.append(found)
    assert answers[0] != answers[1]  # the recorded scores count for a share of the texts only
    assert pipes[1]("the team is great")[0]["label"] in {"class0", "class1", "class2"}


@pytest.mark.parametrize(
    "options",
    [
        {"num_providers": 0, "lexical_size": VOCABULARY + PAIR_BUCKETS, "kernel_size": 5, "novelty_size": 4},
        {
            "num_providers": 2,
            "multi_label": True,
            "pooling": "cls",
            "pooling_layers": [0],
            "novelty_size": 4,
            "inner_novelty_size": 3,
            "fusion": "routing",
            "calibration": MAPS,
        },
        {"num_providers": 1, "multi_label": True, "label_set_size": 6},
    ],
)
def test_other_models(saved_model: Callable[..., Path], tmp_path: Path, options: dict[str, Any]) -> None:
    folder = saved_model(encoder_config=ROBERTA, **options)
    zeros = LabelFusionForSequenceClassification.from_pretrained(folder)
    novelty = [zeros.novelty_head, zeros.inner_novelty_head]
    heads: list[Any] = [zeros.lexical_head, zeros.kernel_head, *novelty, zeros.label_set_head]
    with torch.no_grad():  # new heads are all zeros
        for parameter in (p for head in heads if head is not None for p in head.parameters()):
            parameter.uniform_(0.1, 1.0)
    zeros.save_pretrained(folder)
    assert export_onnx(folder, tmp_path / "onnx") < 1e-4
    model = LabelFusionForSequenceClassification.from_pretrained(folder).eval()
    exported = LabelFusionOnnxModel.from_pretrained(tmp_path / "onnx")
    assert compare(model, exported) < 1e-4
    ids = torch.randint(5, VOCABULARY, (3, 6))
    with torch.no_grad():
        own, theirs = (m.encode(input_ids=ids, attention_mask=torch.ones_like(ids))[0] for m in (model, exported))
        torch.testing.assert_close(theirs, own, atol=1e-4, rtol=1e-4)
        assert own.shape[1] == model.config.embedding_size
        model.encoder_head.weight.mul_(1.1)
    assert compare(model, exported) > 1e-4  # the comparison can fail


def test_what_is_wrong_is_said(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved_model(num_providers=1)
    with pytest.raises(OSError, match=r"model\.onnx"):
        LabelFusionOnnxModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="folder of its own"):
        export_onnx(folder, folder)
    with pytest.raises(ValueError, match="give another one"):
        export_onnx(folder, saved_model())
    with pytest.raises(ValueError, match="is not a LabelFusion model"):
        export_onnx(tmp_path / "nothing", tmp_path / "onnx")


def test_token_types_are_refused(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved_model()
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["post_processor"]["single"][0]["SpecialToken"]["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **names}))
    with pytest.raises(ValueError, match="token types"):
        export_onnx(folder, tmp_path / "onnx")
