"""Every kind of encoder under the model: forward, backward, saving, loading, attention, precision, devices."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run
from labelfusion.configuration import LabelFusionConfig
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from safetensors.torch import load_file, save_file
from tiny_encoders import ENCODERS
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PretrainedConfig

MakeModel = Callable[..., LabelFusionForSequenceClassification]

each_encoder = pytest.mark.parametrize("model_type", ENCODERS)


def encoder_config(model_type: str) -> PretrainedConfig:
    return AutoConfig.for_model(model_type, **ENCODERS[model_type])


@pytest.fixture
def model(make_model: MakeModel, model_type: str) -> LabelFusionForSequenceClassification:
    return make_model(encoder_config=encoder_config(model_type), num_providers=2)


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, 8:] = 0
    llm_scores = torch.rand(3, 2, 3, generator=generator).softmax(-1)
    llm_scores[2, 1] = float("nan")
    input_ids = torch.randint(5, 60, (3, 12), generator=generator)
    return {"input_ids": input_ids, "attention_mask": mask, "llm_scores": llm_scores}


def gradients(model: LabelFusionForSequenceClassification) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs(), labels=torch.tensor([0, 1, 2])).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# --- Training --------------------------------------------------------------------------------------------------------


@each_encoder
def test_every_parameter_is_trained(model: LabelFusionForSequenceClassification) -> None:
    trained = gradients(model)
    assert trained.keys() == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in trained.values())
    assert trained["classifier.encoder_head.weight"].abs().sum() > 0


@each_encoder
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # renamed in recent Transformers
def test_gradient_checkpointing_gives_the_same_gradients(model: LabelFusionForSequenceClassification) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.score_dropout = 0.0
    for name, value in model.encoder.config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(model.encoder.config, name, 0.0)
    model.train()
    plain = gradients(model)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    again = gradients(model)
    assert plain.keys() == again.keys()
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], msg=name)


@each_encoder
def test_eager_and_sdpa_agree(model: LabelFusionForSequenceClassification, model_type: str, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    eager = LabelFusionForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert eager.encoder.config._attn_implementation == "eager"
    output = eager(**inputs(), output_attentions=True, output_hidden_states=True)
    assert len(output.attentions) == 2
    assert output.attentions[0].shape == (3, 4, 12, 12)
    assert len(output.hidden_states) == 3
    expected = model(**inputs())
    assert model.encoder.config._attn_implementation == ("eager" if model_type == "deberta-v2" else "sdpa")
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.encoder_logits, expected.encoder_logits, rtol=1e-5, atol=1e-5)


# --- Saving and loading ----------------------------------------------------------------------------------------------


@each_encoder
def test_save_and_load(model: LabelFusionForSequenceClassification, tmp_path: Path) -> None:
    expected = model(**inputs())
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    autos: list[Any] = [LabelFusionForSequenceClassification, AutoModel, AutoModelForSequenceClassification]
    for auto in autos:
        loaded, report = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(loaded, LabelFusionForSequenceClassification)
        assert not any(report.values()), report
        output = loaded(**inputs())
        assert not loaded.training
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.encoder_logits, expected.encoder_logits)
    assert type(loaded.config.encoder_config) is type(encoder_config(model.config.encoder_config.model_type))


SCRIPT = """
import sys, torch
from safetensors.torch import load_file, save_file
import labelfusion
from transformers import AutoModelForSequenceClassification
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder)
output = model(**load_file(folder + "/inputs.st"))
save_file({"logits": output.logits, "encoder_logits": output.encoder_logits}, folder + "/outputs.st")
"""


@pytest.mark.parametrize("model_type", ["roberta"])
def test_a_new_process_gives_bit_equal_logits(model: LabelFusionForSequenceClassification, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    save_file(inputs(), tmp_path / "inputs.st")
    run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, timeout=120)
    expected, got = model(**inputs()), load_file(tmp_path / "outputs.st")
    assert torch.equal(got["logits"], expected.logits)
    assert torch.equal(got["encoder_logits"], expected.encoder_logits)


@each_encoder
def test_from_encoder_pretrained_takes_the_weights_as_they_are(model_type: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModel.from_config(encoder_config(model_type)).save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    model = LabelFusionForSequenceClassification.from_encoder_pretrained(
        str(tmp_path), labels=["a", "b", "c"], llm_providers=["recorded", "openai/gpt-5-nano"], fusion_hidden_size=5
    ).eval()
    batch = {k: v for k, v in inputs().items() if k != "llm_scores"}
    torch.testing.assert_close(
        model.encode(**batch)[1].last_hidden_state, encoder(**batch).last_hidden_state, rtol=0, atol=0
    )
    assert model.config.label_names == ["a", "b", "c"]
    assert [p.model for p in model.config.providers] == ["recorded", "openai/gpt-5-nano"]
    assert model.config.fusion_hidden_size == 5
    model.save_pretrained(tmp_path / "fused")
    again = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "fused")
    assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)


def test_from_encoder_pretrained_options(tiny_encoder_dir: str) -> None:
    make = LabelFusionForSequenceClassification.from_encoder_pretrained
    model = make(tiny_encoder_dir, num_labels=4, multi_label=True, encoder_kwargs={"attn_implementation": "eager"})
    assert (model.config.num_labels, model.config.multi_label, model.config.num_providers) == (4, True, 0)
    assert model.encoder.config._attn_implementation == "eager"
    assert make(tiny_encoder_dir, num_labels=2, encoder_kwargs={"dtype": torch.bfloat16}).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="`labels` \\(the class names\\) or `num_labels`"):
        make(tiny_encoder_dir)
    with pytest.raises(ValueError, match="`num_labels` is 3 but `labels` names 2"):
        make(tiny_encoder_dir, labels=["a", "b"], num_labels=3)
    with pytest.raises(OSError, match="no-such-folder"):
        make("./no-such-folder", num_labels=2)


def test_a_half_precision_encoder_is_trained_in_single_precision(tmp_path: Path) -> None:
    """Transformers would keep the checkpoint's dtype, in which training on a CPU is slow and bad."""
    AutoModel.from_config(encoder_config("bert")).to(torch.float16).save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.float16
    model = LabelFusionForSequenceClassification.from_encoder_pretrained(str(tmp_path), num_labels=3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@each_encoder
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model: LabelFusionForSequenceClassification, dtype: torch.dtype, tmp_path: Path) -> None:
    expected = model(**inputs()).logits
    model.save_pretrained(tmp_path / "single")
    half = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "single", dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    output = half(**inputs(), labels=torch.tensor([0, 1, 2]))
    assert output.logits.dtype == dtype
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits.float(), expected, rtol=0.1, atol=0.1)

    half.save_pretrained(tmp_path / "half")
    loaded = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(**inputs()).logits, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("model_type", ["roberta"])
def test_autocast_trains(model: LabelFusionForSequenceClassification) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**inputs(), labels=torch.tensor([0, 1, 2])).loss
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@each_encoder
@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_map(model: LabelFusionForSequenceClassification, device_map: str, tmp_path: Path) -> None:
    expected = model(**inputs()).logits
    model.save_pretrained(tmp_path)
    loaded = LabelFusionForSequenceClassification.from_pretrained(tmp_path, device_map=device_map)
    torch.testing.assert_close(loaded(**inputs()).logits.cpu(), expected, rtol=1e-4, atol=1e-4)


@each_encoder
def test_sharded_checkpoint(model: LabelFusionForSequenceClassification, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = LabelFusionForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)


@pytest.mark.parametrize("model_type", ["roberta", "modernbert"])
def test_compile(model: LabelFusionForSequenceClassification) -> None:
    compiled = torch.compile(model, backend="aot_eager")
    expected, got = model(**inputs()), compiled(**inputs())
    torch.testing.assert_close(got.logits, expected.logits)
    compiled(**inputs(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@each_encoder
def test_a_resized_vocabulary_is_saved(model: LabelFusionForSequenceClassification, tmp_path: Path) -> None:
    expected = model(**inputs()).logits
    model.resize_token_embeddings(70, mean_resizing=False)
    assert model.config.encoder_config.vocab_size == 70
    model.save_pretrained(tmp_path)
    loaded = LabelFusionForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.get_input_embeddings().weight.shape == (70, 32)
    assert torch.equal(loaded(**inputs()).logits, expected)


# --- Odd inputs and damaged files ------------------------------------------------------------------------------------


@each_encoder
def test_what_an_encoder_does_not_take_is_dropped(model: LabelFusionForSequenceClassification) -> None:
    """One collator serves every encoder: `token_type_ids` reach those that know them."""
    batch = inputs()
    expected = model(**batch).logits
    output = model(**batch, token_type_ids=torch.zeros_like(batch["input_ids"]))
    torch.testing.assert_close(output.logits, expected)


@pytest.mark.parametrize("model_type", ["bert"])
def test_damaged_files_are_errors(model: LabelFusionForSequenceClassification, tmp_path: Path) -> None:
    load = LabelFusionForSequenceClassification.from_pretrained
    model.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = weights.read_bytes(), config.read_text(encoding="utf-8")

    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Exception, match=r"(?i)safetensor|header|incomplete|buffer"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load(tmp_path)
    weights.write_bytes(whole)

    config.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(OSError, match=r"config\.json"):
        load(tmp_path)
    config.write_text(json.dumps({**json.loads(text), "pooling": "max"}), encoding="utf-8")
    with pytest.raises(ValueError, match="`pooling` is 'max'"):
        load(tmp_path)
    wider = json.loads(text)
    wider["id2label"] = {str(i): f"class{i}" for i in range(4)}
    wider.pop("label2id")
    config.write_text(json.dumps(wider), encoding="utf-8")
    with pytest.raises(ValueError, match="other shapes"):
        load(tmp_path)


@pytest.mark.parametrize("model_type", ["bert"])
def test_a_model_with_a_secret_is_not_saved(model: LabelFusionForSequenceClassification, tmp_path: Path) -> None:
    model.config.llm_providers[0]["params"] = {"api_key": "hunter2secret"}
    with pytest.raises(ValueError, match="credential"):
        model.save_pretrained(tmp_path)
    assert not any(b"hunter2secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_config_and_weights_stay_apart(make_model: MakeModel) -> None:
    """The encoder's config is nested, not copied up: two models with different encoders do not mix."""
    first = make_model(encoder_config=encoder_config("bert"))
    second = make_model(encoder_config=encoder_config("roberta"))
    assert isinstance(first.config, LabelFusionConfig)
    assert first.config.encoder_config.model_type == first.encoder.config.model_type == "bert"
    assert second.config.encoder_config.model_type == second.encoder.config.model_type == "roberta"
