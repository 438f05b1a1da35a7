"""PEFT's usual recipe on the model: LoRA in the encoder, head and fusion trained and saved as a whole."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer, point_client_at
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.heads import PAIR_BUCKETS
from labelfusion.training import LabelFusionTrainer
from labelfusion.training.encoder.low_rank import low_rank_updates, merged_weights
from made_data import frame
from safetensors.torch import load_file, save_file
from test_trainer_gradients import arguments, make_dataset
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, Trainer, pipeline

from labelfusion import AutoFusionClassifier

peft = pytest.importorskip("peft")
MakeModel = Callable[..., LabelFusionForSequenceClassification]
FITTED: dict[str, Any] = {"pooling_layers": [1], "lexical_size": PAIR_BUCKETS + 113, "kernel_size": 5}


@pytest.fixture
def base(tmp_path: Path, make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast) -> str:
    make_model(**FITTED).save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def adapted(base: str, **options: Any) -> Any:
    options = {"target_modules": "all-linear", "r": 4, **options}
    config = peft.LoraConfig(task_type=peft.TaskType.SEQ_CLS, **options)
    return peft.get_peft_model(LabelFusionForSequenceClassification.from_pretrained(base), config)


def trainer_of(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, **changes: Any) -> LabelFusionTrainer:
    data = make_dataset(tokenizer, 24, False)
    args = arguments(folder, max_steps=6, learning_rate=1e-2, **changes)
    settings: dict[str, Any] = {"train_dataset": data, "eval_dataset": data, "processing_class": tokenizer}
    return LabelFusionTrainer(model=model, args=args, **settings)


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(4, 1, 3, generator=generator).softmax(dim=-1)
    scores[2] = float("nan")
    return {"input_ids": torch.randint(5, 60, (4, 9), generator=generator), "llm_scores": scores}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(**batch()).logits


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


@pytest.mark.parametrize("target_modules", ["all-linear", ["query", "value"]])
@pytest.mark.parametrize("kind", [Trainer, LabelFusionTrainer])
def test_the_usual_recipe_trains_and_saves_head_and_fusion(
    base: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: Any, target_modules: Any
) -> None:
    model = adapted(base, target_modules=target_modules)
    before = weights(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    data = make_dataset(tiny_tokenizer, 24, False)
    args = arguments(tmp_path / "run", max_steps=6)
    kind(model=model, args=args, train_dataset=data, processing_class=tiny_tokenizer).train()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved <= trained
    assert any(".lora_B." in name for name in moved)
    head = "base_model.model.classifier.modules_to_save.default."
    for part in ("encoder_head.weight", "score_pool.weight", "score_pool.bias", "fusion_mlp.out_proj.weight"):
        assert head + part in moved
    assert not any(".lora_" in name and "classifier" in name for name in before)  # trained as a whole

    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = [
        peft.PeftModel.from_pretrained(
            LabelFusionForSequenceClassification.from_pretrained(base), tmp_path / "adapter"
        ),
        peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter"),
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter"),
        LabelFusionForSequenceClassification.from_pretrained(tmp_path / "adapter"),
    ]
    for other in loaded:
        assert torch.equal(logits(other), expected), type(other)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(LabelFusionForSequenceClassification.from_pretrained(base)))
    merged = model.merge_and_unload()
    assert isinstance(merged, LabelFusionForSequenceClassification)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(again), logits(merged))


def test_the_trainer_knows_the_parts_of_an_adapted_model(
    base: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = adapted(base)
    trainer = trainer_of(model, tiny_tokenizer, tmp_path / "run", save_strategy="steps", save_steps=3)
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-3 if "classifier" in name else 1e-2), name
    trainer.train()
    found = trainer.evaluate()
    assert {"eval_accuracy", "eval_encoder_accuracy"} <= found.keys()
    whole = logits(model)
    resumed = adapted(base)
    trainer_of(resumed, tiny_tokenizer, tmp_path / "run", save_strategy="steps", save_steps=3).train(
        resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")
    )
    torch.testing.assert_close(logits(resumed), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", [r"^encoder_head\.", r"^classifier\.encoder_head\."])
@pytest.mark.parametrize("with_peft", [False, True])
def test_learning_rates_go_by_the_names_of_the_plain_model(
    base: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, pattern: str, with_peft: bool
) -> None:
    model = adapted(base) if with_peft else LabelFusionForSequenceClassification.from_pretrained(base)
    args = arguments(tmp_path)
    trainer = LabelFusionTrainer(model=model, args=args, processing_class=tiny_tokenizer, learning_rates={pattern: 0.5})
    fast = [p for group in trainer.create_optimizer().param_groups if group["lr"] == 0.5 for p in group["params"]]
    head = model.classifier.encoder_head
    assert {id(p) for p in fast} == {id(head.weight), id(head.bias)}


def test_pipeline_and_classifier_load_an_adapter(
    base: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = trainer_of(adapted(base), tiny_tokenizer, tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    model: Any = trainer.model
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    tiny_tokenizer.save_pretrained(tmp_path / "merged")
    texts = ["good great fine", "game match team", "court law vote"]

    def answers(folder: Path) -> tuple[Any, Any]:
        clf = AutoFusionClassifier.from_pretrained(folder)
        load: Any = pipeline
        scores = [a["score"] for a in load("labelfusion-classification", model=str(folder))(texts, llm_policy="never")]
        return clf.predict_proba(texts, llm_policy="never"), scores

    for found, expected in zip(answers(tmp_path / "adapter"), answers(tmp_path / "merged"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    plain = AutoFusionClassifier.from_pretrained(base).predict_proba(texts, llm_policy="never")
    assert not np.allclose(answers(tmp_path / "adapter")[0], plain, atol=1e-3)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        for name in [n for n in os.environ if n.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        point_client_at(server.url, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def test_an_adapter_is_pushed_and_loaded(
    hub: HubServer, base: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    LabelFusionForSequenceClassification.from_pretrained(base).push_to_hub("me/base")
    model = adapted("me/base")
    trainer = trainer_of(model, tiny_tokenizer, tmp_path / "run", hub_model_id="me/adapter")
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub(license="apache-2.0", tags="news")
    files = hub.repos["model:me/adapter"]["files"]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= files.keys()
    assert not {"config.json", "model.safetensors"} & files.keys()
    card = files["README.md"].decode()
    for part in ("library_name: peft", "base_model: me/base", "license: apache-2.0", "Last evaluation in training"):
        assert part in card
    expected = logits(model)
    assert torch.equal(logits(AutoModelForSequenceClassification.from_pretrained("me/adapter")), expected)
    assert torch.equal(logits(peft.AutoPeftModelForSequenceClassification.from_pretrained("me/adapter")), expected)
    model.push_to_hub("me/again")
    assert torch.equal(logits(AutoModelForSequenceClassification.from_pretrained("me/again")), expected)


def test_fit_with_low_rank_updates(tiny_encoder_dir: str, tmp_path: Path) -> None:
    def fitted() -> AutoFusionClassifier:
        options: dict[str, Any] = {"encoder_training": "lora", "num_train_epochs": 2, "learning_rate": 5e-3}
        return AutoFusionClassifier(encoder=tiny_encoder_dir, llm="recorded", **options).fit(frame(90))

    clf = fitted()
    assert clf.report_["encoder_training"] == "lora"
    assert clf.report_["encoder_log_loss"]["lora"] > 0
    model = clf.model_
    assert not any("lora" in name or "base_layer" in name for name, _ in model.named_modules())
    assert all(p.requires_grad for name, p in model.named_parameters() if name.startswith(("encoder.", "classifier.")))
    untrained = LabelFusionForSequenceClassification.from_encoder_pretrained(tiny_encoder_dir, num_labels=3)
    assert not torch.equal(
        model.encoder.encoder.layer[0].output.dense.weight, untrained.encoder.encoder.layer[0].output.dense.weight
    )
    texts = list(frame(12, seed=5)["text"])
    expected = clf.predict_proba(texts)
    assert np.array_equal(fitted().predict_proba(texts), expected)
    clf.save_pretrained(tmp_path / "saved")
    assert np.array_equal(AutoFusionClassifier.from_pretrained(tmp_path / "saved").predict_proba(texts), expected)


def test_weights_are_merged_without_changing_the_training(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = make_model(**FITTED)
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert merged_weights(model).keys() == start.keys()
    with low_rank_updates(model, 4, seed=0) as with_updates:
        trainer_of(with_updates, tiny_tokenizer, tmp_path).train()
        during = merged_weights(model)
    assert during.keys() == model.state_dict().keys() == start.keys()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(during[name], weight, msg=name)
    for part in ("score_pool", "fusion_mlp"):  # fitted later
        assert all(torch.equal(during[name], start[name]) for name in start if part in name)
    assert not torch.equal(during["classifier.encoder_head.weight"], start["classifier.encoder_head.weight"])


def test_without_peft_the_error_says_what_to_install(tiny_encoder_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labelfusion.training.encoder.low_rank.find_spec", lambda name: None)
    clf = AutoFusionClassifier(encoder=tiny_encoder_dir, llm="recorded", encoder_training="lora")
    with pytest.raises(ImportError, match=r"labelfusion-transformers\[peft\]"):
        clf.fit(frame(30))


@pytest.mark.parametrize("fusion", ["mlp", "weighted"])
def test_files_with_the_names_from_before(make_model: MakeModel, tmp_path: Path, fusion: str) -> None:
    """The head had no module of its own: files hold `encoder_head.weight`, ..."""
    model = make_model(fusion=fusion, **FITTED)
    model.save_pretrained(tmp_path / "old")
    path = tmp_path / "old" / "model.safetensors"
    old = {name.removeprefix("classifier."): weight for name, weight in load_file(path).items()}
    save_file(old, path, metadata={"format": "pt"})
    loaded = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "old")
    assert torch.equal(logits(loaded), logits(model))
    loaded.save_pretrained(tmp_path / "again")
    again = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), logits(model))
    other = make_model(fusion=fusion, seed=1, **FITTED)
    other.load_state_dict(old)  # as the Trainer resumes
    assert torch.equal(logits(other), logits(model))
