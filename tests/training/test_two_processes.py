"""Training on two processes, of which one may have no LLM score in a batch."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.training import LabelFusionTrainer
from safetensors.torch import load_file, save_file
from test_trainer_gradients import arguments, make_dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, Trainer

MakeModel = Callable[..., LabelFusionForSequenceClassification]
ROWS = 16
SCORED: dict[str, set[int]] = {"none": set(), "few": {2, 5}, "most": {*range(ROWS)} - {0, 7}}
RUNS = list(product(("Trainer", "LabelFusionTrainer"), SCORED, (False, True)))

SCRIPT = """
import sys
sys.path[:0] = {folders!r}
from test_two_processes import train_all

train_all(*sys.argv[1:], processes=2)
"""


def rows_of(tokenizer: PreTrainedTokenizerFast, trainer: str, scored: str) -> Dataset:
    data = make_dataset(tokenizer, ROWS, False, with_scores=scored != "none")
    if scored == "none":
        return data
    # The default collator of Transformers takes no null in a column of numbers.
    missing = None if trainer == "LabelFusionTrainer" else [[math.nan] * 3]
    column = [s if i in SCORED[scored] else missing for i, s in enumerate(data["llm_scores"])]
    return data.remove_columns("llm_scores").add_column("llm_scores", column)


def train(source: str, run: tuple[str, str, bool], folder: str, processes: int) -> dict[str, torch.Tensor]:
    """Train on four rows a step, whatever the number of processes, and without chance."""
    trainer_name, scored, checkpointing = run
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    model = LabelFusionForSequenceClassification.from_pretrained(source)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = arguments(
        Path(folder),
        per_device_train_batch_size=4 // processes,
        num_train_epochs=1,
        optim="sgd",
        learning_rate=0.05,
        gradient_checkpointing=checkpointing,
        ddp_timeout=60,
    )
    assert args.world_size == processes
    settings: dict[str, Any] = {"model": model, "args": args, "train_dataset": rows_of(tokenizer, trainer_name, scored)}
    if trainer_name == "Trainer":
        trainer = Trainer(**settings, data_collator=DataCollatorWithPadding(tokenizer))
    else:
        trainer = LabelFusionTrainer(**settings, processing_class=tokenizer)
    trainer.train()
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def train_all(source: str, target: str, processes: int) -> None:
    for run in RUNS:
        state = train(source, run, target, processes)
        if os.environ.get("RANK", "0") == "0":
            save_file(state, f"{target}/{'-'.join(map(str, run))}.safetensors")


@pytest.fixture(scope="module")
def trained(
    make_model: MakeModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Where the model lies, and what two processes made of it in each run: all in one start of them."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("two")
    make_model(score_dropout=0.0).save_pretrained(source)
    tiny_tokenizer.save_pretrained(source)
    script = target / "train.py"
    script.write_text(SCRIPT.format(folders=[str(folder) for folder in Path(__file__).parents[:2]]))
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(script), str(source), str(target)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return source, target


@pytest.mark.parametrize("run", RUNS, ids=lambda run: "-".join(map(str, run)))
def test_two_processes_train_what_one_does(
    trained: tuple[Path, Path], tmp_path: Path, run: tuple[str, str, bool]
) -> None:
    source, target = trained
    two = load_file(target / f"{'-'.join(map(str, run))}.safetensors")
    one = train(str(source), run, str(tmp_path), processes=1)
    before = LabelFusionForSequenceClassification.from_pretrained(source).state_dict()
    moved = {name: float((one[name] - before[name]).abs().max()) for name in one}
    assert max(moved.values()) > 1e-3
    assert all(float((one[name] - two[name]).abs().max()) < 0.05 * max(moved.values()) for name in one)
    fusion = [name for name in one if "score_pool" in name or "fusion_mlp" in name]
    assert len(fusion) == 10
    assert bool(any(moved[name] for name in fusion)) is (run[1] != "none")
