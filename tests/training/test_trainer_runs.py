"""Runs that users of `Trainer` know: resumed, stopped early, in bfloat16, on several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.training import LabelFusionTrainer
from test_trainer_gradients import arguments, make_dataset
from transformers import EarlyStoppingCallback, PreTrainedTokenizerFast, TrainerCallback

MakeModel = Callable[..., LabelFusionForSequenceClassification]

SCRIPT = """
import sys
sys.path[:0] = {folders!r}
from test_trainer_runs import train

train(*sys.argv[1:], processes=2)
"""


def train(source: str, target: str, processes: int) -> None:
    """Train on four rows a step, whatever the number of processes, and without chance."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    model = LabelFusionForSequenceClassification.from_pretrained(source)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    size = 4 // processes
    args = arguments(Path(target), per_device_train_batch_size=size, num_train_epochs=2, optim="sgd")
    assert args.world_size == processes
    data = make_dataset(tokenizer, 24, False)
    trainer = LabelFusionTrainer(
        model=model, args=args, train_dataset=data, eval_dataset=data, processing_class=tokenizer
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    trainer.save_model(target)


class Interrupt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 8:
            raise KeyboardInterrupt


def trainer_for(
    model: LabelFusionForSequenceClassification, tokenizer: PreTrainedTokenizerFast, folder: Path, **changes: Any
) -> LabelFusionTrainer:
    callbacks = changes.pop("callbacks", [])
    data = make_dataset(tokenizer, 24, False)
    return LabelFusionTrainer(
        model=model,
        args=arguments(folder, **changes),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def test_an_interrupted_run_resumes_to_the_same_result(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
    whole = make_model()  # with dropout: the state of the random numbers counts as well
    trainer_for(whole, tiny_tokenizer, tmp_path / "whole", **settings).train()
    broken = make_model()
    with pytest.raises(KeyboardInterrupt):
        trainer_for(broken, tiny_tokenizer, tmp_path / "broken", callbacks=[Interrupt()], **settings).train()
    resumed = make_model()
    trainer_for(resumed, tiny_tokenizer, tmp_path / "broken", **settings).train(resume_from_checkpoint=True)
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0, msg=name)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))


def test_early_stopping_keeps_the_best(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = trainer_for(
        make_model(),
        tiny_tokenizer,
        tmp_path,
        num_train_epochs=30,
        learning_rate=5e-2,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    assert trainer.state.epoch is not None
    assert trainer.state.epoch < 30
    assert trainer.evaluate()["eval_accuracy"] == trainer.state.best_metric


def test_bfloat16(make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = make_model()
    result = trainer_for(model, tiny_tokenizer, tmp_path, num_train_epochs=3, bf16=True).train()
    assert 0 < result.training_loss < 10
    assert model.encoder_head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29571"],
        [
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--num_processes",
            "2",
            "--main_process_port",
            "29572",
        ],
    ],
    ids=["torchrun", "accelerate"],
)
def test_two_processes_train_what_one_does(
    launcher: list[str],
    make_model: MakeModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    make_model(score_dropout=0.0).save_pretrained(source)
    tiny_tokenizer.save_pretrained(source)
    train(str(source), str(tmp_path / "one"), processes=1)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(folders=[str(folder) for folder in Path(__file__).parents[:2]]))
    run = subprocess.run(
        [sys.executable, "-m", *launcher, str(script), str(source), str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    one, two = (LabelFusionForSequenceClassification.from_pretrained(tmp_path / name) for name in ("one", "two"))
    before = dict(LabelFusionForSequenceClassification.from_pretrained(source).named_parameters())
    moved = max(float((p.detach() - before[name].detach()).abs().max()) for name, p in one.named_parameters())
    apart = max(
        float((p.detach() - q.detach()).abs().max()) for p, q in zip(one.parameters(), two.parameters(), strict=True)
    )
    assert apart < 0.05 * moved


def test_a_model_made_by_a_function_gets_collator_and_metrics(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    data = make_dataset(tiny_tokenizer, 24, False)
    settings: dict[str, Any] = {"train_dataset": data, "eval_dataset": data, "processing_class": tiny_tokenizer}
    args = arguments(tmp_path, num_train_epochs=1, eval_strategy="epoch")
    trainer = LabelFusionTrainer(model_init=lambda: make_model(), args=args, **settings)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    given = LabelFusionTrainer(model=trainer.model, args=args, **settings)
    for found in (history[-1], trainer.evaluate(), given.evaluate({"own": data})):
        prefix = "eval_own" if "eval_own_loss" in found else "eval"
        assert {f"{prefix}_accuracy", f"{prefix}_encoder_accuracy"} <= found.keys()
    assert np.shape(given.predict(data).predictions) == (24, 3)


def test_metrics_of_ones_own_get_the_fused_logits_alone(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    data = make_dataset(tiny_tokenizer, 6, False)
    trainer = LabelFusionTrainer(
        model=make_model(),
        args=arguments(tmp_path),
        eval_dataset=data,
        processing_class=tiny_tokenizer,
        compute_metrics=lambda prediction: {"rows": len(prediction.predictions)},
    )
    assert trainer.evaluate()["eval_rows"] == 6
