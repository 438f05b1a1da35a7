"""An encoder that several threads share: the texts that wait for it are encoded together."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from ..modeling_labelfusion.encoding import TextEncoder

ROUND = 4  # forward passes of full batches in one round: what a new request waits for at most
CHARACTERS_PER_TOKEN = 4  # roughly


@dataclass(eq=False)
class _Waiting:
    """The texts of one call, of which the first `taken` have been encoded or are being encoded."""

    encoder: TextEncoder
    texts: list[str]
    quick: bool = False
    done: "Future[torch.Tensor]" = field(default_factory=Future)
    parts: list[torch.Tensor] = field(default_factory=list)
    taken: int = 0


class EncoderQueue:
    """Runs encoders in one thread of its own.

    There is no timer: while a round is computed, new calls wait, and the next round takes texts from all of them in
    equal shares. So a text never waits for company, and a long call does not hold up short ones. A round is bounded by
    its number of texts and by their length.

    Args:
        on_round: Called with the number of texts of each round.
    """

    def __init__(self, on_round: Callable[[int], None] = lambda texts: None) -> None:
        self._on_round = on_round
        self._calls: deque[_Waiting] = deque()
        self._filled = threading.Condition()
        threading.Thread(target=self._run, name="labelfusion-encoder", daemon=True).start()

    def encode(self, encoder: TextEncoder, texts: Sequence[str], quick: bool = False) -> torch.Tensor:
        """`encoder(texts, quick)`, from any thread."""
        call = _Waiting(encoder, list(texts), quick)
        with self._filled:
            self._calls.append(call)
            self._filled.notify()
        return call.done.result()

    def _run(self) -> None:
        while True:
            with self._filled:
                self._filled.wait_for(lambda: self._calls)
                shares = self._next_round()
            self._on_round(sum(len(texts) for _, texts in shares))
            try:
                _encode(shares)
            except Exception:  # which call it comes from shows when each is alone
                for share in shares:
                    try:
                        _encode([share])
                    except Exception as error:
                        share[0].done.set_exception(error)
            with self._filled:
                for call, _ in shares:
                    if not call.done.done() and call.taken == len(call.texts):
                        call.done.set_result(torch.cat(call.parts))
                self._calls = deque(call for call in self._calls if not call.done.done())

    def _next_round(self) -> list[tuple[_Waiting, list[str]]]:
        """The calls of the next round with their texts; the first one of these waits at the end from now on."""
        first, quick = self._calls[0].encoder, self._calls[0].quick
        alike = [call for call in self._calls if call.encoder.limit == first.limit and call.quick == quick]
        self._calls.rotate(-1)
        most = ROUND * first.batch_size
        left = most * first.limit * CHARACTERS_PER_TOKEN
        shares = []
        for call in alike[:most]:
            texts: list[str] = []
            room = left // len(alike)
            for text in call.texts[call.taken : call.taken + max(1, most // len(alike))]:
                room -= min(len(text), first.limit * CHARACTERS_PER_TOKEN)
                if texts and room < 0:
                    break
                texts.append(text)
            call.taken += len(texts)
            shares.append((call, texts))
        return shares


def _encode(shares: list[tuple[_Waiting, list[str]]]) -> None:
    first = shares[0][0]
    found = TextEncoder.__call__(first.encoder, [text for _, texts in shares for text in texts], first.quick)
    for (call, _), part in zip(shares, found.split([len(own) for _, own in shares]), strict=True):
        call.parts.append(part)


@dataclass(frozen=True, eq=False)
class SharedEncoder(TextEncoder):
    """A `TextEncoder` whose texts are encoded together with those of other threads.

    Args:
        queue: Where the texts wait; the other arguments are those of `TextEncoder`.
    """

    queue: EncoderQueue | None = None

    def __call__(self, texts: Sequence[str], quick: bool = False) -> torch.Tensor:
        """As `TextEncoder`."""
        if self.queue is None or not texts:
            return super().__call__(texts, quick)
        return self.queue.encode(self, texts, quick)
