"""A stand-in for an LLM's API that keeps books: who asked what and when, which answers arrived, and what it bills.

It adds to `LLMServer` the faults that cost money and those that look like answers, outages, and a bill in dollars.
"""

import asyncio
import json
import random
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from llm_server import CONTENT_FAULTS, TRANSPORT_FAULTS, LLMServer

# Replies that come later than the client waits, byte by byte, without choices, with an error inside, or with figures
# that are none. `shuffled` is a good answer whose keys are in another order.
ODD_FAULTS = ("503", "late", "trickle", "no_choices", "error_200", "usage", "digits", "deep", "shuffled")
NUMBER_FAULTS = ("from_zero", "missing_key", "extra_key")  # of a reply to several texts
FAULTS = (*TRANSPORT_FAULTS, *ODD_FAULTS, *CONTENT_FAULTS, *NUMBER_FAULTS)

GOOD = (None, "trickle", "shuffled")  # the answer is right and complete
UNBILLED = ("429", "500", "503", "html", "hang", "error_200", "down")
FINAL = (*CONTENT_FAULTS, *NUMBER_FAULTS)  # an answer, and none that can be used: not worth asking again
ODD_USAGE: tuple[Any, ...] = (float("nan"), float("inf"), -7, "many", None, 10**30, [], True)


@dataclass(eq=False)
class Asked:
    """One request: of whom, about what, and what became of it."""

    run: str  # the key that came with it
    model: str
    texts: list[str]
    began: float  # by `time.monotonic`
    fault: str | None = None
    ended: float | None = None
    reached: bool = False  # the client was there until the last byte was sent
    unread: bool = False  # and closed the connection without reading it
    dollars: float = 0.0

    @property
    def good(self) -> bool:
        """Whether a right answer was made, and billed."""
        return self.fault in GOOD and self.dollars > 0

    @property
    def delivered(self) -> bool:
        """Whether the client has it."""
        return self.good and self.reached and not self.unread


@dataclass
class LedgerServer(LLMServer):
    """`LLMServer` with a ledger.

    Args:
        price: Dollars for a million tokens of input and of output.
        reasoning: Most tokens that it "thinks" before an answer; as many as the hash of the text says.
        jitter: Seconds, at most, that a reply takes beyond `latency`.
        patience: Seconds that the client waits; a `late` reply takes longer.
    """

    price: tuple[float, float] = (1.0, 4.0)
    reasoning: int = 0
    jitter: float = 0.0
    patience: float = 2.0
    loading: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ledger: list[Asked] = []
        self.reached: Counter[str] = Counter()  # faults that a client came to see
        self._readers: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}
        self._last: dict[asyncio.StreamWriter, Asked] = {}
        self._random = random.Random(self.seed)

    def outage(self) -> None:
        """Go down: open connections break, new ones are refused. `recover` ends it."""
        self.reached["down"] += 1
        self.__exit__()

    def recover(self) -> None:
        """Come back, on the same port."""
        for _ in range(100):
            try:
                self.__enter__()
                return
            except AssertionError:
                time.sleep(0.05)
        raise AssertionError(f"port {self.port} is taken")

    def dollars(self) -> float:
        """The bill."""
        return sum(asked.dollars for asked in self.ledger)

    def dearest(self) -> float:
        """Dollars of the most expensive request."""
        return max((asked.dollars for asked in self.ledger), default=0.0)

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until nothing is being answered any more."""
        end = time.monotonic() + timeout
        while self.in_flight and time.monotonic() < end:
            time.sleep(0.01)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._readers[writer] = reader
        try:
            await super()._connection(reader, writer)
        finally:
            del self._readers[writer]
            last = self._last.pop(writer, None)
            # A socket that is closed with bytes in it sends a reset, not an end.
            if last is not None and isinstance(reader.exception(), ConnectionError):
                last.unread = True

    async def _reply(
        self, writer: asyncio.StreamWriter, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> None:
        decision = path.endswith("/decisions")
        texts = self._texts(body, decision)
        who = headers.get("authorization", "").removeprefix("Bearer ")
        asked = self._last[writer] = Asked(who, str(body.get("model")), texts, time.monotonic())
        asked.fault = "503" if self.loading else self._fault(texts, decision)
        if asked.fault in NUMBER_FAULTS and (decision or "number=" not in body["messages"][-1]["content"]):
            asked.fault = None
        self.ledger.append(asked)
        try:
            await asyncio.sleep(self.latency + self._random.uniform(0, self.jitter))
            if asked.fault == "late":
                await asyncio.sleep(self.patience + 0.5)
            await self._serve(writer, decision, body, asked)
        except asyncio.CancelledError:
            asked.fault = asked.fault or "down"
            raise
        finally:
            asked.ended = time.monotonic()
            if asked.fault is not None and asked.reached:
                self.reached[asked.fault] += 1

    async def _serve(self, writer: asyncio.StreamWriter, decision: bool, body: dict[str, Any], asked: Asked) -> None:
        fault, texts = asked.fault, asked.texts
        known = fault if fault in CONTENT_FAULTS else None
        reply = self._decide(body, texts[0], known) if decision else self._chat(body, texts, known)
        self._charge(reply, body, decision, asked)
        if fault in FAULTS:
            self._disturb(reply, fault, decision)
        asked.reached = self._is_there(writer) or fault in ("late", "hang")  # who has gone has seen that one
        if fault == "503":
            return await self._error(writer, 503, "loading")
        while fault == "hang" and self._is_there(writer):
            await asyncio.sleep(0.05)
        if fault == "hang":
            raise ConnectionResetError
        if fault in TRANSPORT_FAULTS:
            return await self._break(writer, fault)
        data = json.dumps(reply).encode()
        if fault == "digits":
            data = data[:-1] + b', "created": ' + b"9" * 5000 + b"}"
        if fault == "deep":
            data = data[:-1] + b', "extra": ' + b"[" * 5000 + b"]" * 5000 + b"}"
        await (self._trickle(writer, data) if fault == "trickle" else self._send(writer, 200, data))
        asked.reached = fault == "late" or (asked.reached and self._is_there(writer))
        if asked.good and asked.reached:
            self.paid.update(texts)

    def _is_there(self, writer: asyncio.StreamWriter) -> bool:
        return not (writer.transport.is_closing() or self._readers[writer].at_eof())

    def _charge(self, reply: dict[str, Any], body: dict[str, Any], decision: bool, asked: Asked) -> None:
        prompt = len(json.dumps(body)) // 4
        written = 0
        if not decision:
            content = sum(len(json.dumps(choice)) for choice in reply["choices"])
            written = content // 4 + (zlib.crc32(asked.texts[0].encode()) % self.reasoning if self.reasoning else 0)
        names = ("input_tokens", "output_tokens") if decision else ("prompt_tokens", "completion_tokens")
        reply["usage"] = dict(zip(names, (prompt, written), strict=True))
        if asked.fault not in UNBILLED:
            asked.dollars = (prompt * self.price[0] + written * self.price[1]) / 1e6
            self.tokens[0] += prompt
            self.tokens[1] += written

    def _disturb(self, reply: dict[str, Any], fault: str | None, decision: bool) -> None:
        """Change a reply as the fault says."""
        if fault == "usage":
            reply["usage"] = {name: self._random.choice(ODD_USAGE) for name in reply["usage"]}
        if fault == "no_choices":
            reply["answers" if decision else "choices"] = []
        if fault == "error_200":
            reply.clear()
            reply["error"] = {"code": "overloaded", "message": "try again"}
        if fault not in (*NUMBER_FAULTS, "shuffled") or decision:
            return
        for choice in reply["choices"]:
            text = choice["message"]["content"] or ""
            if not text.startswith("{"):
                continue
            pairs = list(json.loads(text).items())
            if fault == "shuffled":
                pairs.reverse()
            if fault == "from_zero":
                pairs = [(str(int(number) - 1), said) for number, said in pairs]
            if fault == "missing_key":
                del pairs[len(pairs) // 2]
            if fault == "extra_key":
                pairs.append((str(len(pairs) + 1), pairs[0][1]))
            choice["message"]["content"] = json.dumps(dict(pairs))

    async def _trickle(self, writer: asyncio.StreamWriter, data: bytes, pieces: int = 6, seconds: float = 0.3) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data))
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            await asyncio.sleep(seconds / pieces)


def even(total: float, rare: float = 0.01) -> dict[str, float]:
    """Rates of all faults that come to `total`; those that the client waits out are `rare`."""
    slow = ("hang", "late")
    return {kind: rare if kind in slow else (total - rare * len(slow)) / (len(FAULTS) - len(slow)) for kind in FAULTS}


__all__ = ["FAULTS", "FINAL", "GOOD", "Asked", "LedgerServer", "even"]
