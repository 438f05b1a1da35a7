"""The same seed gives the same model, however slow or busy the machine is, and minutes are kept."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import TextEncoder, encode_texts
from labelfusion.training.encoder import encoder_fit, train_budget
from labelfusion.training.encoder.train_budget import token_counts
from labelfusion.training.fit_options import ContrastiveOptions, FinetuneOptions, FitOptions
from labelfusion.training.recipe import fit_model
from test_contrastive import reviews
from transformers import PreTrainedTokenizerFast

Fixture = Callable[..., LabelFusionForSequenceClassification]
WAYS = ("auto", "contrastive", "full", "lora")


class SlowClock:
    """A clock that a forward pass of the encoder moves on by some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def __call__(self) -> float:
        return self.now

    def watch(self, model: LabelFusionForSequenceClassification) -> None:
        model.encoder.register_forward_hook(self.tick)

    def tick(self, *_: Any) -> None:
        self.now += self.seconds


def fitted(
    model: LabelFusionForSequenceClassification, tokenizer: PreTrainedTokenizerFast, way: str, **options: Any
) -> tuple[dict[str, Any], torch.Tensor]:
    """The report, and probabilities of other texts."""
    texts, labels = reviews(40)
    scores = np.full((40, 1, 2), 0.3, dtype=np.float32)
    scores[np.arange(40), 0, labels] = 0.7
    finetune = FinetuneOptions(num_train_epochs=2, learning_rate=1e-3)
    contrastive = ContrastiveOptions(max_steps=20, batch_size=16)
    settings = FitOptions(encoder_training=way, extra_sources=False, finetune=finetune, **options)
    with patch.object(encoder_fit, "ContrastiveOptions", lambda **_: contrastive):
        report = fit_model(model, tokenizer, texts, labels, scores, settings)
    with torch.no_grad():
        return report, model.fuse(encode_texts(model, tokenizer, reviews(50, seed=1)[0]))[1].softmax(-1)


@pytest.mark.parametrize("way", WAYS)
def test_a_slow_clock_changes_nothing(
    way: str, make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for seconds in (0.0, 1e4):  # hours for each batch
        clock = SlowClock(seconds)
        monkeypatch.setattr(train_budget, "clock", clock)
        for name in ("perf_counter", "monotonic", "time"):
            monkeypatch.setattr(f"time.{name}", clock)
        model = make_model(num_labels=2)
        clock.watch(model)
        found.append(fitted(model, tiny_tokenizer, way))
        monkeypatch.undo()
    (quick, first), (slow, second) = found
    assert slow.pop("seconds") > quick.pop("seconds") + 1e4  # the clock was read
    assert quick == slow
    assert quick["train_tokens"] > 0
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.fixture(scope="module")
def timed_fit(make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast) -> Iterator[Callable[..., Any]]:
    """`timed_fit(way, minutes)`: report, answers and seconds of training, with one thread and a clock of batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    @cache
    def run(way: str, minutes: float | None) -> tuple[dict[str, Any], torch.Tensor, float]:
        clock = SlowClock(1.0)
        ended: list[float] = []
        around = noting(train_budget.TrainBudget.stopping, clock, ended)
        model = make_model(num_labels=2)
        clock.watch(model)
        with patch.object(train_budget, "clock", clock), patch.object(train_budget.TrainBudget, "stopping", around):
            report, answers = fitted(model, tiny_tokenizer, way, max_train_minutes=minutes)
        assert not model.training
        assert all(p.requires_grad for p in model.encoder.parameters())
        return report, answers, ended[0] if ended else 0.0

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7])
def test_minutes_are_kept_and_a_stop_is_reported(way: str, share: float, timed_fit: Callable[..., Any]) -> None:
    """Stopped early, midway or late, the model is the one that is never trained."""
    whole, _, seconds = timed_fit(way, None)
    assert "stopped" not in whole
    assert seconds > 20
    probe, frozen, _ = timed_fit("probe", None)
    report, answers, took = timed_fit(way, share * seconds / 60)
    assert report["stopped"] == f"max_train_minutes={share * seconds / 60:g}"
    assert report["encoder_training"] == "probe"
    assert took <= max(1.2 * share * seconds, share * seconds + 1)  # one batch at least
    torch.testing.assert_close(answers, frozen, rtol=0, atol=0)
    assert report["fusion"] == probe["fusion"]


def noting(stopping: Any, clock: SlowClock, ended: list[float]) -> Any:
    """`stopping` that also notes the seconds between its begin and its end."""

    def around(self: Any, encoder: TextEncoder) -> Any:
        began = clock()
        with stopping(self, encoder):
            try:
                yield
            finally:
                ended.append(clock() - began)

    return contextmanager(around)


def test_tokens_are_those_that_the_encoder_reads(make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = TextEncoder(make_model(num_providers=0), tiny_tokenizer)
    texts = ["team", "team match goal", "", "team " * 900, "bad \ud800"]
    special = len(tiny_tokenizer("")["input_ids"])
    counts = token_counts(encoder, texts).tolist()
    assert counts[:4] == [1 + special, 3 + special, special, encoder.limit]
    assert token_counts(encoder, texts, max_length=4).max() == 4
    assert len(token_counts(encoder, ["team"] * 2500)) == 2500


SCRIPT = """
import json, sys
sys.path[:0] = {folders!r}
from test_train_budget import fit_saved
import torch
torch.set_num_threads(int(sys.argv[3]))
assert torch.get_num_threads() == int(sys.argv[3])
fit_saved(*sys.argv[1:3])
"""


def fit_saved(source: str, target: str) -> None:
    """Fit the model in a folder in each way, and write what it answers."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    found = {}
    for way in WAYS:
        model = LabelFusionForSequenceClassification.from_pretrained(source)
        report, answers = fitted(model, tokenizer, way)
        found[way] = {"chosen": chosen(report), "answers": answers.tolist()}
    Path(target).write_text(json.dumps(found))


def chosen(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report.get(name) for name in ("encoder_training", "train_tokens", "contrastive_steps")}


@pytest.mark.slow
def test_one_or_two_threads_give_the_same_predictions(
    make_model: Fixture, tiny_tokenizer: PreTrainedTokenizerFast, timed_fit: Callable[..., Any], tmp_path: Path
) -> None:
    make_model(num_labels=2).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT.format(folders=[str(folder) for folder in Path(__file__).parents[:3]]))
    out = tmp_path / "answers.json"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "model"), str(out), "2"],
        env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(out.read_text())
    for way in WAYS:
        report, answers, _ = timed_fit(way, None)  # of one thread
        assert chosen(report) == two[way]["chosen"]
        first, second = answers.numpy(), np.array(two[way]["answers"])
        np.testing.assert_array_equal(first.argmax(axis=1), second.argmax(axis=1))
        np.testing.assert_allclose(first, second, atol=0.01)
