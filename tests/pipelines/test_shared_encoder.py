"""`SharedEncoder`: the texts of several threads are encoded together, each as if it were alone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.pipelines.shared_encoder import EncoderQueue, SharedEncoder


class Held:
    """A tokenizer that waits before the first batch, so that more calls come meanwhile."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.free, self.begun = tokenizer, threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, texts: list[str], **options: Any) -> Any:
        self.begun.set()
        assert self.free.wait(60)
        self.batches.append(texts)
        if "bad" in texts:
            raise ValueError("a bad text")
        return self.tokenizer(texts, **options)


def calls(encoder: SharedEncoder, held: Held, given: list[list[str]]) -> list[Any]:
    """The results of calls that wait together while the first one runs."""
    with ThreadPoolExecutor(len(given) + 1) as pool:
        first = pool.submit(encoder, ["first"])
        assert held.begun.wait(60)
        queue = encoder.queue
        assert queue is not None
        found = []
        for i, texts in enumerate(given):
            found.append(pool.submit(encoder, texts))
            while len(queue._calls) < i + 2:
                held.begun.wait(0.001)
        held.free.set()
        first.result()
        return [(future.exception() or future.result()) for future in found]


def test_calls_that_wait_are_encoded_together(make_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model, held, rounds = make_model(), Held(tiny_tokenizer), list[int]()
    encoder = SharedEncoder(model, held, batch_size=2, queue=EncoderQueue(rounds.append))  # type: ignore[arg-type]
    long = [f"w{i % 10} {'good ' * (i // 10)}" for i in range(30)]
    given = [long, ["rain"], ["the bank", "rain", "the bank"], ["sun " * 40]]
    found = calls(encoder, held, given)
    plain = TextEncoder(model, tiny_tokenizer)
    for texts, result in zip(given, found, strict=True):
        torch.testing.assert_close(result, plain(texts), atol=1e-5, rtol=1e-4)
    assert rounds[0] == 1
    assert rounds[1] > 4  # all four of them, in equal shares
    assert max(rounds) <= 8  # four batches of two
    assert sum(rounds) == 1 + sum(map(len, given))
    place = {text: i for i, batch in enumerate(held.batches) for text in batch}
    assert place["rain"] < place[long[-1]]  # the long call does not hold up a short one


def test_an_error_is_that_of_its_call_alone(make_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model, held = make_model(), Held(tiny_tokenizer)
    encoder = SharedEncoder(model, held, queue=EncoderQueue())  # type: ignore[arg-type]
    right, wrong, late = calls(encoder, held, [["rain"], ["sun", "bad"], ["the bank"]])
    assert str(wrong) == "a bad text"
    plain = TextEncoder(model, tiny_tokenizer)
    torch.testing.assert_close(right, plain(["rain"]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(late, plain(["the bank"]), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="bad text"):
        encoder(["bad"])
    assert len(encoder([])) == 0


def test_calls_with_other_lengths_are_apart(make_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    model, held, queue = make_model(), Held(tiny_tokenizer), EncoderQueue()
    text = "a very good movie , not bad"
    long, short = (SharedEncoder(model, held, max_length=n, queue=queue) for n in (32, 4))  # type: ignore[arg-type]
    held.free.set()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda encoder: encoder([text]), [long, short] * 8))
    for encoder, limit in ((long, 32), (short, 4)):
        assert encoder.limit == limit
        expected = TextEncoder(model, tiny_tokenizer, max_length=limit)([text])
        for result in found[encoder is short :: 2]:
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)
