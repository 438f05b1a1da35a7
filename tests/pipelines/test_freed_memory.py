"""Memory of long runs: what is free goes back to the system once the process has grown."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import pytest
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.pipelines import freed_memory
from labelfusion.pipelines.freed_memory import FIRST, FreedMemory, resident_bytes
from labelfusion.pipelines.inference import infer
from labelfusion.routing.run_options import Routing
from transformers import PreTrainedTokenizerBase

from labelfusion import LabelFusionForSequenceClassification

PIECE = 2048


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells the memory")
def test_a_heap_in_pieces_goes_back_to_the_system() -> None:
    c = ctypes.CDLL(None)
    if not hasattr(c, "malloc_trim"):
        pytest.skip("the C library is not glibc")
    c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    memory = FreedMemory()
    for _ in range(FIRST):
        memory.after_window()
    before = resident_bytes()
    pieces = [c.malloc(PIECE) for _ in range(100_000)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    for i, piece in enumerate(pieces):
        if i % 100:  # one of a hundred stays, and keeps the heap from shrinking
            c.free(piece)
    grown = resident_bytes() - before
    assert grown > 100e6
    memory.after_window()
    assert resident_bytes() - before < 0.3 * grown
    for piece in pieces[::100]:
        c.free(piece)


def test_a_run_gives_back_only_when_it_has_grown(
    make_model: Callable[..., LabelFusionForSequenceClassification],
    tiny_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: Any,
) -> None:
    trims: list[int] = []
    model, sizes = make_model(), iter([100, 102, 104, 150, 103, *[101] * 100])
    monkeypatch.setattr(freed_memory, "_malloc_trim", lambda: trims.append)
    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: next(sizes))
    texts = ((f"film w{i % 10}", None) for i in range(128 * (FIRST + 12)))
    parts = list(infer(TextEncoder(model, tiny_tokenizer), texts, Routing.parse(model.config, "never")))
    assert len(parts) == FIRST + 12
    assert trims == [0, 0]  # at 104 and 150
