"""Memory of long runs: what is free goes back to the system once the process has grown."""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from labelfusion.configuration import freed_memory
from labelfusion.configuration.freed_memory import FIRST, ROOM, FreedMemory, resident_bytes
from labelfusion.modeling_labelfusion.encoding import TextEncoder
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
        memory.after_batch()
    before = resident_bytes()
    pieces = [c.malloc(PIECE) for _ in range(100_000)]
    for piece in pieces:
        ctypes.memset(piece, 1, PIECE)
    for i, piece in enumerate(pieces):
        if i % 100:  # one of a hundred stays, and keeps the heap from shrinking
            c.free(piece)
    grown = resident_bytes() - before
    assert grown > 100e6
    memory.after_batch()
    assert resident_bytes() - before < 0.3 * grown
    for piece in pieces[::100]:
        c.free(piece)


GAPS = """
import ctypes, sys
from labelfusion.configuration.freed_memory import resident_bytes, steady_heap
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "steady":
    steady_heap()
size = 8 << 20
c.free(c.malloc(2 * size))  # from now on, glibc by itself takes tensors of this size from the heap
before, tensors = resident_bytes(), []
for _ in range(20):
    tensors.append(c.malloc(size))
    ctypes.memset(tensors[-1], 1, size)
    ctypes.memset(c.malloc(100_000), 1, 100_000)  # something smaller that stays
for tensor in tensors:
    c.free(tensor)
print((resident_bytes() - before) / size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells the memory")
def test_large_tensors_leave_no_gaps_in_a_steady_heap() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    held = {}
    for heap in ("as it is", "steady"):
        command = [sys.executable, "-c", GAPS, heap]
        held[heap] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert held["as it is"] > 15  # of 20 tensors
    assert held["steady"] < 2


def test_an_encoder_gives_back_only_when_it_has_grown(
    make_model: Callable[..., LabelFusionForSequenceClassification],
    tiny_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: Any,
) -> None:
    trims: list[int] = []
    # At the first look; less; more, and what is left after it; between the two limits; more than the new one.
    sizes = iter([100, 99, 104, 98, 107, 150, 100, *[101] * 100])
    monkeypatch.setattr(freed_memory, "_malloc_trim", lambda: trims.append)
    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: next(sizes))
    encoder = TextEncoder(make_model(), tiny_tokenizer, batch_size=1)
    for part in range(3):  # one encoder sees the texts of a run window by window
        encoder([f"film w{i % 10} {i} {part}" for i in range(FIRST // 3 + 4)])
    assert ROOM * 98 > 107  # memory that cannot be given back is not searched for after every batch
    assert trims == [0, 0]  # at 104 and 150
