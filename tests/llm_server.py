"""A loopback stand-in for the OpenAI HTTP API: a real HTTP server with latency, faults and a memory of what was paid.

Its "model" scores a text by a hash of it (`truth`), so that a test knows every right answer. In a process of its own:
`python tests/llm_server.py --latency 0.2`, which prints its URL; `GET /stats` tells what happened.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from token_rule import count_tokens

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
TRANSPORT_FAULTS = ("429", "500", "hang", "truncated", "malformed", "html", "disconnect")
CONTENT_FAULTS = ("refusal", "prose", "unknown_class", "empty", "out_of_range")
_BLOCK = re.compile(r"<text(?: number=\"(\d+)\")?>\n(.*?)\n</text>", re.DOTALL)


def truth(text: str, labels: list[str], multi_label: bool = False) -> list[float]:
    """The model's opinion: probabilities, none of them 0."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    if multi_label:
        return [(digest[i % 32] % 98 + 1) / 100 for i in range(len(labels))]
    weights = [digest[i % 32] + 8 for i in range(len(labels))]
    return [w / sum(weights) for w in weights]


@dataclass
class LLMServer:
    """The server and its behaviour; use as a context manager.

    Args:
        labels: Classes, in order.
        multi_label: Whether several may apply.
        latency: Seconds before each reply.
        faults: `{kind: probability}` of `TRANSPORT_FAULTS` and `CONTENT_FAULTS`, decided for each text and attempt.
        offers: Features: `decisions` (in both formats), `systemone` (in that format alone), `logprobs`, `json_schema`,
            `json_object`, `n`, `temperature`.
        retry_after: What a 429 says, seconds.
        answer: Overrides the model: `(system prompt, user message) -> content`.
        status: Reply to everything with this HTTP status.
        special: `(path, body, text) -> (status, reply)` for a reply of its own; None for the usual one.
        keep: Keep the request bodies in `bodies`.
        usage: Report usage figures.
        thinks: Bill as a provider does, by `count_tokens`, what the model thinks before it answers included: the
            function gives its tokens for a text. Requests that broke on the way are billed too.
        token_s: Seconds that each of these tokens takes.
    """

    labels: list[str] = field(default_factory=lambda: list(LABELS))
    multi_label: bool = False
    latency: float = 0.0
    faults: dict[str, float] = field(default_factory=dict)
    offers: set[str] = field(default_factory=lambda: {"json_schema", "json_object", "temperature"})
    retry_after: float = 0.05
    answer: Callable[[str, str], str] | None = None
    status: int | None = None
    special: Callable[[str, dict[str, Any], str], tuple[int, Any] | None] | None = None
    keep: bool = False
    usage: bool = True
    thinks: Callable[[str], int] | None = None
    token_s: float = 0.0
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        self.requests = self.in_flight = self.peak = 0
        self.attempts: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()  # texts whose good answer was delivered
        self.injected: Counter[str] = Counter()
        self.tokens = [0, 0]
        self.bills: list[tuple[int, int]] = []  # tokens of prompt and answer of each request, with `thinks`
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.delivered: list[float] = []  # when good answers left
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def billed(self, prompt_price: float, answer_price: float) -> tuple[float, float]:
        """Dollars of all requests, and of the dearest; prices in dollars per million tokens."""
        dollars = [(prompt * prompt_price + answer * answer_price) / 1e6 for prompt, answer in self.bills]
        return sum(dollars), max(dollars, default=0.0)

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "peak": self.peak,
            "paid_texts": len(self.paid),
            "paid_twice": sum(count > 1 for count in self.paid.values()),
            "injected": dict(self.injected),
            "prompt_tokens": self.tokens[0],
            "completion_tokens": self.tokens[1],
        }

    def just_delivered(self, seconds: float = 0.2) -> int:
        """How many good answers left so lately that the client may not have read and stored them."""
        return sum(time.monotonic() - left < seconds for left in self.delivered)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        async def serve() -> None:
            server = await asyncio.start_server(self._connection, self.host, self.port, backlog=1024)
            self.port = server.sockets[0].getsockname()[1]
            self._server = server
            started.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(serve())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: Any) -> None:
        async def stop() -> None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request, *lines = head.split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = request.split(" ")
                if (given := await self._other(method, path, headers, body)) is not None:
                    await self._send(writer, *given)
                    continue
                if method == "GET":
                    await self._send(writer, 200, self.stats())
                    continue
                self.requests += 1
                self.in_flight += 1
                self.peak = max(self.peak, self.in_flight)
                self.times.append(time.monotonic())
                try:
                    await self._reply(writer, path, json.loads(body), headers)
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _other(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any] | None:
        """Status and reply of what a subclass serves beside; None for the usual."""
        return None

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, data: Any, headers: str = "", kind: str = "application/json"
    ) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode()
            + body
        )
        await writer.drain()

    async def _error(
        self, writer: asyncio.StreamWriter, status: int, code: str, param: str | None = None, headers: str = ""
    ) -> None:
        error = {"message": f"{code}: sk-secretsecretsecretsecret", "type": "error", "param": param, "code": code}
        await self._send(writer, status, {"error": error}, headers)

    async def _reply(
        self, writer: asyncio.StreamWriter, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> None:
        if self.keep:
            self.bodies.append(body)
            self.headers.append(headers)
        await asyncio.sleep(self.latency)
        if self.status is not None:
            return await self._error(writer, self.status, "forced")
        systemone = path.endswith("/systemone")
        if systemone:
            body = _from_systemone(body)
        decision = systemone or path.endswith("/decisions")
        if decision and self.offers.isdisjoint({"decisions", "systemone"} if systemone else {"decisions"}):
            return await self._error(writer, 404, "not_found")
        texts = self._texts(body, decision)
        if self.special is not None and (given := self.special(path, body, " ".join(texts))) is not None:
            return await self._send(writer, *given)
        if refusal := self._unsupported(body):
            return await self._error(writer, 400, "unsupported_value", refusal)
        fault = self._fault(texts, decision)
        thought = self.thinks(texts[0]) if self.thinks else 0
        if self.thinks and fault not in ("429", "500"):
            place = len(self.bills)
            self.bills.append((count_tokens(json.dumps(body, ensure_ascii=False)), thought))
        if fault in TRANSPORT_FAULTS:
            return await self._break(writer, fault)
        await asyncio.sleep(thought * self.token_s)
        reply = self._decide(body, texts[0], fault) if decision else self._chat(body, texts, fault)
        if self.usage:
            prompt = len(json.dumps(body)) // 4
            contents = [] if decision else [str(c["message"]["content"] or "") for c in reply["choices"]]
            written = sum(len(content) // 4 + 1 for content in contents)
            if self.thinks:
                prompt, written = self.bills[place][0], thought + sum(map(count_tokens, contents))
                self.bills[place] = prompt, written
            names = ("input_tokens", "output_tokens") if decision else ("prompt_tokens", "completion_tokens")
            reply["usage"] = dict(zip(names, (prompt, written), strict=True))
            self.tokens[0] += prompt
            self.tokens[1] += written
        if fault is None:  # counted before the client can have it, so that no test looks in between
            self.paid.update(texts)
            self.delivered.append(time.monotonic())
        try:
            await self._send(writer, 200, _to_systemone(reply, body) if systemone else reply)
        except ConnectionError:
            if fault is None:
                self.paid.subtract(texts)
                self.paid += Counter()  # without those that were not delivered
            raise

    def _unsupported(self, body: dict[str, Any]) -> str | None:
        wanted = (body.get("response_format") or {}).get("type")
        if wanted and wanted not in self.offers:
            return "response_format"
        if body.get("logprobs") and "logprobs" not in self.offers:
            return "logprobs"
        return "temperature" if "temperature" in body and "temperature" not in self.offers else None

    def _texts(self, body: dict[str, Any], decision: bool) -> list[str]:
        if decision:
            given = body["input"]
            return [given if isinstance(given, str) else given[-1]["content"]]
        blocks = _BLOCK.findall(body["messages"][-1]["content"])
        numbered = [text for number, text in blocks if number]
        return numbered or [blocks[-1][1]] if blocks else [""]

    def _fault(self, texts: list[str], decision: bool) -> str | None:
        self.attempts.update(texts)
        seed = f"{self.seed}|{texts[0]}|{self.attempts[texts[0]]}"
        pick = random.Random(hashlib.sha256(seed.encode("utf-8", "replace")).digest()).random()
        for kind, probability in self.faults.items():
            pick -= probability
            if pick < 0:
                self.injected[kind] += 1
                return kind
        return None

    async def _break(self, writer: asyncio.StreamWriter, fault: str) -> None:
        if fault == "429":
            return await self._error(writer, 429, "rate_limit_exceeded", headers=f"retry-after: {self.retry_after}\r\n")
        if fault == "500":
            return await self._error(writer, 500, "server_error")
        if fault == "malformed":
            return await self._send(writer, 200, b'{"choices": [{"message": {"content": "Spor')
        if fault == "html":
            return await self._send(writer, 200, b"<html>Bad gateway</html>", kind="text/html")
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "truncated":
            writer.write(
                b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n" + b'{"choices": ['
            )
            await writer.drain()
        writer.close()
        raise ConnectionResetError

    def _chat(self, body: dict[str, Any], texts: list[str], fault: str | None) -> dict[str, Any]:
        count = body.get("n", 1) if "n" in self.offers else 1
        return {"object": "chat.completion", "choices": [self._choice(body, texts, fault, i) for i in range(count)]}

    def _choice(self, body: dict[str, Any], texts: list[str], fault: str | None, index: int) -> dict[str, Any]:
        *system, user = [m["content"] for m in body["messages"]]
        prompt = system[0] if system else user
        message: dict[str, Any] = {"role": "assistant", "content": None}
        choice: dict[str, Any] = {"index": index, "message": message, "finish_reason": "stop", "logprobs": None}
        scores = [truth(text, self.labels, self.multi_label) for text in texts]
        letters = dict(re.findall(r"^(\w+)\. (.+?)(?::.*)?$", prompt, re.MULTILINE))
        if fault == "refusal":
            message["refusal"] = "I cannot help with that."
        elif fault in ("prose", "empty"):
            message["content"] = "Well, that depends." if fault == "prose" else ""
        elif self.answer is not None:
            message["content"] = self.answer("\n".join(system), user)
        elif letters and not body.get("logprobs"):
            message["content"] = self._vote(scores[0], list(letters), texts[0], fault)
        elif body.get("logprobs"):
            choice["logprobs"] = {"content": self._logprobs(scores[0], list(letters), fault)}
            message["content"] = " ".join(p["token"] for p in choice["logprobs"]["content"])
        else:
            objects = [self._confidences(s, fault) for s in scores]
            numbered = {str(i): o for i, o in enumerate(objects, 1)}
            message["content"] = json.dumps(numbered if "number=" in user else objects[0])
        return choice

    def _confidences(self, scores: list[float], fault: str | None) -> dict[str, float]:
        confidences: dict[str, float] = {label: round(100 * s, 6) for label, s in zip(self.labels, scores, strict=True)}
        if fault == "unknown_class":
            confidences["Weather"] = 90
        if fault == "out_of_range":
            confidences[self.labels[0]] = 250
        return confidences

    def _vote(self, scores: list[float], letters: list[str], text: str, fault: str | None) -> str:
        if fault in ("unknown_class", "out_of_range"):
            return "Z"
        if self.multi_label:
            return ", ".join(letter for letter, s in zip(letters, scores, strict=True) if s > 0.5) or "none"
        return letters[scores.index(max(scores))]

    def _logprobs(self, scores: list[float], letters: list[str], fault: str | None) -> list[dict[str, Any]]:
        if fault in ("unknown_class", "out_of_range"):
            letters = [f"?{letter}" for letter in letters]
        if not self.multi_label:
            top = [{"token": t, "logprob": math.log(s)} for t, s in zip(letters, scores, strict=True)]
            top.sort(key=lambda t: -float(str(t["logprob"])))
            return [{**top[0], "top_logprobs": top}]
        tokens = ("Y", "N") if fault is None else ("perhaps", "so")
        return [
            {"token": tokens[s < 0.5], "logprob": math.log(max(s, 1 - s)),
             "top_logprobs": [{"token": t, "logprob": math.log(q)} for t, q in zip(tokens, (s, 1 - s), strict=True)]}
            for s in scores
        ]  # fmt: skip

    def _decide(self, body: dict[str, Any], text: str, fault: str | None) -> dict[str, Any]:
        scores = dict(zip(self.labels, truth(text, self.labels, self.multi_label), strict=True))
        answers: list[dict[str, Any]] = []
        for question in body["questions"]:
            name = question.get("name")
            if fault == "refusal":
                answers.append({"type": "refusal", "name": name})
            elif fault in ("prose", "empty"):
                answers.append({"type": question["type"], "name": name})
            elif question["type"] == "predicate":
                answers.append(
                    {"type": "predicate", "name": name, "probability": scores[name] + 2 * (fault is not None)}
                )
            else:
                offered = [c["value"] for c in question["choices"]]
                given = [{"value": v, "probability": scores[v]} for v in offered]
                if fault == "unknown_class":
                    given[0]["value"] = "Weather"
                if fault == "out_of_range":
                    given[0]["probability"] = 2.5
                best = max(offered, key=scores.__getitem__)
                answers.append(
                    {"type": "choice", "name": name, "choice": best, "confidence": scores[best], "probabilities": given}
                )
        return {"model": body["model"], "answers": answers}


def _from_systemone(body: dict[str, Any]) -> dict[str, Any]:
    questions: list[dict[str, Any]] = []
    for name, q in body["questions"].items():
        if q["type"] == "noul":
            questions.append({"type": "predicate", "name": name})
        else:
            questions.append({"type": "choice", "name": name, "choices": [{"value": v} for v in q["criteria"]]})
    return {"model": body["model"], "input": body["state"].split("\n\n")[-1], "questions": questions}


def _to_systemone(reply: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    answers = {}
    for question, answer in zip(body["questions"], reply["answers"], strict=True):
        if answer["type"] == "predicate":
            answers[question["name"]] = {"type": "noul", "noul": answer["probability"]}
        elif answer["type"] == "choice":
            shares = {p["value"]: p["probability"] for p in answer["probabilities"]}
            given = {"choice": answer["choice"], "confidence": answer["confidence"], "probabilities": shares}
            answers[question["name"]] = {"type": "choice", **given}
    return {**reply, "answers": answers}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--labels", default=",".join(LABELS))
    parser.add_argument("--offers", default="json_schema,json_object,temperature")
    args = parser.parse_args()
    server = LLMServer(labels=args.labels.split(","), latency=args.latency, offers=set(args.offers.split(",")))
    with server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
