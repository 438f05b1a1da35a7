"""The model under the unmodified `Trainer` of Transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils.generic import find_labels

MakeModel = Callable[..., LabelFusionForSequenceClassification]
WITHOUT_CHANCE = {"classifier_dropout": 0.0, "fusion_dropout": 0.0, "score_dropout": 0.0}
CUES = ["good great fine", "game match team", "court law vote"]


def make_dataset(tokenizer: PreTrainedTokenizerFast, rows: int, multi_label: bool, with_scores: bool = True) -> Dataset:
    """Texts whose words tell the class; an LLM that is right three times out of four."""
    generator = np.random.default_rng(0)
    data: dict[str, list[Any]] = {"text": [], "labels": [], "llm_scores": []}
    for row in range(rows):
        truth = row % 3
        noise = " ".join(generator.choice(["the", "a", "was", "film", "data", "w1", "w2"], size=int(row % 7)))
        data["text"].append(f"{noise} {CUES[truth]} .")
        guess = truth if row % 4 else (truth + 1) % 3
        if multi_label:
            data["labels"].append([float(k == truth) for k in range(3)])
            data["llm_scores"].append([[0.8 if k == guess else 0.1 for k in range(3)]])
        else:
            data["labels"].append(truth)
            data["llm_scores"].append([[0.8 if k == guess else 0.1 for k in range(3)]])
    if not with_scores:
        del data["llm_scores"]
    dataset = Dataset.from_dict(data)
    return dataset.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=["text"])


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        **changes,
    }
    return TrainingArguments(**values)


class Gradients(TrainerCallback):
    """Keeps the gradients of the first optimizer step."""

    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.first:
            model = kwargs["model"]
            self.first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("with_scores", [False, True])
def test_gradient_accumulation_changes_nothing(
    make_model: MakeModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    multi_label: bool,
    with_scores: bool,
) -> None:
    dataset = make_dataset(tiny_tokenizer, 16, multi_label, with_scores)

    def gradients(steps: int) -> dict[str, torch.Tensor]:
        model = make_model(multi_label=multi_label, **WITHOUT_CHANCE)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        callback = Gradients()
        args = arguments(
            tmp_path,
            per_device_train_batch_size=16 // steps,
            gradient_accumulation_steps=steps,
            max_steps=1,
            max_grad_norm=0.0,
        )
        collator = DataCollatorWithPadding(tiny_tokenizer)
        trainer = Trainer(model, args, train_dataset=dataset, data_collator=collator, callbacks=[callback])
        trainer.train()
        return callback.first

    whole, parts = gradients(1), gradients(4)
    assert whole.keys() == parts.keys()
    assert bool(whole["classifier.score_pool.weight"].any()) is with_scores  # always there: processes must agree on it
    assert whole["classifier.encoder_head.weight"].abs().max() > 1e-3
    for name in whole:
        rounding = 1e-6 * max(1.0, float(whole[name].abs().max()))  # the parts are sums in another order
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=rounding, msg=name)


@pytest.mark.parametrize("multi_label", [False, True])
def test_training_evaluating_predicting(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, multi_label: bool
) -> None:
    torch.manual_seed(0)
    train, test = (make_dataset(tiny_tokenizer, rows, multi_label) for rows in (96, 24))

    def accuracy(prediction: Any) -> dict[str, float]:
        truth = prediction.label_ids.argmax(-1) if multi_label else prediction.label_ids
        return {"accuracy": float((prediction.predictions.argmax(-1) == truth).mean())}

    model = make_model(multi_label=multi_label)
    trainer = Trainer(
        model,
        arguments(tmp_path, num_train_epochs=6, per_device_eval_batch_size=5),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tiny_tokenizer,  # makes the default collator the padding one
        compute_metrics=accuracy,
    )
    assert trainer.label_names == ["labels"]
    assert not trainer.model_accepts_loss_kwargs
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_accuracy"] > 0.95  # better than the LLM's 0.75

    prediction: Any = trainer.predict(test)
    assert prediction.predictions.shape == (24, 3)  # the fused logits alone, as every `compute_metrics` expects
    assert prediction.label_ids.shape == ((24, 3) if multi_label else (24,))
    trainer.compute_metrics = None
    both: Any = trainer.predict(test, ignore_keys=["hidden_states", "attentions"])
    logits, encoder_logits = both.predictions
    assert np.array_equal(logits, prediction.predictions)
    assert encoder_logits.shape == (24, 3)
    assert not np.allclose(logits, encoder_logits)

    trainer.save_model(str(tmp_path / "saved"))
    loaded = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "saved")
    again = Trainer(loaded, arguments(tmp_path), processing_class=tiny_tokenizer).predict(test)
    np.testing.assert_allclose(again.predictions, prediction.predictions, rtol=1e-5, atol=1e-5)


def test_the_trainer_takes_labels_alone_for_labels() -> None:
    assert find_labels(LabelFusionForSequenceClassification) == ["labels"]


def test_training_goes_on_from_a_checkpoint(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    dataset = make_dataset(tiny_tokenizer, 32, multi_label=False)

    def run(folder: Path, resume: str | None = None) -> dict[str, torch.Tensor]:
        args = arguments(folder, max_steps=6, save_strategy="steps", save_steps=3)
        model = make_model()
        trainer = Trainer(model, args, train_dataset=dataset, processing_class=tiny_tokenizer)
        trainer.train(resume_from_checkpoint=resume)
        return {name: value.clone() for name, value in model.state_dict().items()}

    whole = run(tmp_path / "one")
    resumed = run(tmp_path / "two", resume=str(tmp_path / "one" / "checkpoint-3"))
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_model_trained_in_bfloat16(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    dataset = make_dataset(tiny_tokenizer, 32, multi_label=True)
    model = make_model(multi_label=True)
    trainer = Trainer(
        model, arguments(tmp_path, max_steps=4, bf16=True), train_dataset=dataset, processing_class=tiny_tokenizer
    )
    trainer.train()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in model.parameters())
