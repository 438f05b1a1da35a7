"""Scores that went through the command, an interruption and a dead server, against asking the same server directly.

    python benchmarks/servers.py llama.cpp transformers --check 20 [--methods logprob,json]

For each method: `labelfusion score` on AG News texts, one of them longer than llama.cpp reads; Ctrl-C after a quarter
of them; the same command again, under which the server is killed and started anew; and again until it has nothing left
to do. Then each row is asked directly and read by the few lines below, which share nothing with the product but the
request's body. llama.cpp's numbers move once a prompt is cached, and with what else it works on: here it caches none,
and gets one request at a time, so that they are the same.
"""

import csv
import fcntl
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from labelfusion.configuration import LLMProvider, Task
from labelfusion.scoring.api.questions import Questions
from labelfusion.scoring.methods.decision import DecisionMethod
from labelfusion.scoring.methods.registry import METHODS
from labelfusion.scoring.providers.endpoints import resolve
from real_servers import RealServer

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "ag_news" / "validation.parquet"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
LETTERS = "ABCD"
NEAR = 1e-3
RUNS = 6
STOPPED = (130, -signal.SIGINT)
PARAMS: dict[str, dict[str, Any]] = {
    "json": {"max_tokens": 64},
    "vote": {"max_tokens": 8, "seed": 7},
    "auto": {"max_tokens": 64, "seed": 7},
}
Row = list[float] | None


def check(kinds: list[str], count: int, methods: list[str] | None = None) -> int:
    """Check every method on every server; the exit status."""
    texts = pd.read_parquet(DATA)["text"].sample(count, random_state=0).tolist()
    texts[count // 2] = " ".join([texts[count // 2]] * 60)
    bad = 0
    for kind in kinds:
        for method in methods or [*METHODS, "auto"]:
            with RealServer(kind) as server, tempfile.TemporaryDirectory() as folder:
                given = texts if kind == "llama.cpp" else texts[: count // 2] + texts[count // 2 + 1 :]
                bad += _check(server, method, given, Path(folder))
    return 1 if bad else 0


def _check(server: RealServer, method: str, texts: list[str], folder: Path) -> int:
    """Check a method; the number of rows that are wrong, or missing without a reason."""
    started = time.monotonic()
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    llm: dict[str, Any] = {"model": server.model, "api_base": server.url, "method": method, "max_concurrency": 1}
    llm["params"] = {**PARAMS.get(method, {}), **({"cache_prompt": False} if server.kind == "llama.cpp" else {})}
    command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "score", "in.csv", "out.jsonl"]
    command += ["--llm", json.dumps(llm), "--labels", ",".join(LABELS), "--store", "store.sqlite"]
    command += ["--chunk-size", "5", "--failure-limit", str(len(texts) + 1)]
    print(f"\n{server.kind}, {method}:", flush=True)
    ends, said = [], ""
    for number in range(RUNS):
        disturb = (lambda run: run.send_signal(signal.SIGINT)) if number == 0 else None
        disturb = (lambda run: _restart(server)) if number == 1 else disturb
        code, said = _run(command, folder, len(texts) // 4, disturb)
        ends.append(code)
        if not server.is_ready():
            server.start()
        if not (folder / "out.jsonl").exists() and code not in STOPPED:
            print(f"  ended with {code}: {said.strip().splitlines()[-1].replace(server.model, 'MODEL')}", flush=True)
            return 0 if "offers no" in said else 1
        if number > 1 and "connection failed" not in said and code in (0, 1):
            break
    rows = [json.loads(line)["llm_scores"][0] for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]
    used = (re.search(r"\((\w+)\): \d+ answered", said) or ["", method])[1]
    print(
        "\n".join(
            f"  | {line.strip().replace(server.model, 'MODEL')}"
            for line in said.splitlines()
            if re.match(r"\s+\d+ x|.*answered", line)
        )
    )
    found = (
        Counter(_compare(server, used, llm, text, row) for text, row in zip(texts, rows, strict=True))
        if used in READERS
        else Counter({"no method": len(rows)})
    )
    print(f"  ended with {ends}; {dict(found)}; {time.monotonic() - started:.0f} s", flush=True)
    return found["WRONG"] + found["MISSING WITHOUT A REASON"] + (len(rows) != len(texts))


def _run(
    command: list[str], folder: Path, after: int, disturb: Callable[[subprocess.Popen[bytes]], None] | None
) -> tuple[int, str]:
    """Run the command in a terminal; `disturb` it once so many texts are done. Its exit status and what it said."""
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=folder, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    said, disturbed = b"", disturb is None
    with suppress(OSError):  # the end of a terminal
        while chunk := os.read(ours, 4096):
            said += chunk
            done = max((int(number) for number in re.findall(rb"(\d+)/\d+ \[", said)), default=0)
            if disturb is not None and not disturbed and done >= after:
                disturbed = True
                disturb(run)
    os.close(ours)
    told = said.decode("utf-8", "replace").replace("\r\n", "\n")
    code = run.wait()
    if not disturbed and code == 0:
        raise RuntimeError(f"The run was not disturbed, although it did all texts:\n{told}")
    return code, re.sub(r".*\r", "", told)


def _restart(server: RealServer) -> None:
    server.stop()
    threading.Timer(1, server.start).start()


def _compare(server: RealServer, method: str, llm: dict[str, Any], text: str, row: Row) -> str:
    """What asking directly says about a row."""
    provider = LLMProvider(**llm)
    asked = Questions(provider, resolve(provider), Task(LABELS)).method(method, text)
    body = asked.body([text])
    if isinstance(asked, DecisionMethod):
        body = asked.systemone({name: value for name, value in body.items() if name not in llm["params"]})
    try:
        found = READERS[method](server, body)
    except urllib.error.HTTPError as error:
        told = error.read().decode("utf-8", "replace")
        reason = "too long" if "context" in told else f"HTTP {error.code}"
        return "WRONG" if row is not None else f"missing: {reason}"
    if _same(row, found):
        return "right" if row is not None else "missing: not readable"
    return "WRONG" if row is not None else "MISSING WITHOUT A REASON"


def _same(one: Row, other: Row) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < NEAR


def _logprob(server: RealServer, body: dict[str, Any]) -> Row:
    """The letters' probabilities, where a letter is the likeliest token and they hold half of what came."""
    found = server.ask(body)["choices"][0].get("logprobs")
    if not found:  # the field is accepted, and nothing comes
        return None
    tokens = found["content"][0]["top_logprobs"]
    mass = dict.fromkeys(LETTERS, 0.0)
    for token in tokens:
        name = token["token"].strip(" .:)\n").upper()
        if name in mass and len(name) == 1:
            mass[name] += math.exp(token["logprob"])
    total = sum(mass.values())
    likeliest = max(tokens, key=lambda token: token["logprob"])["token"].strip(" .:)\n").upper()
    if likeliest not in mass or total < 0.5 * sum(math.exp(token["logprob"]) for token in tokens):
        return None
    return [mass[letter] / total for letter in LETTERS]


def _json(server: RealServer, body: dict[str, Any]) -> Row:
    """The confidences, where the answer is an object that has one from 0 to 100 for each class and nothing else."""
    written = server.ask(body)["choices"][0]["message"]["content"]
    try:
        values = json.loads(written[written.index("{") : written.rindex("}") + 1])
        numbers = [float(values[label]) for label in LABELS]
    except (ValueError, KeyError, TypeError):
        return None
    if len(values) != len(LABELS) or not all(0 <= number <= 100 for number in numbers) or not sum(numbers):
        return None
    return [number / sum(numbers) for number in numbers]


def _vote(server: RealServer, body: dict[str, Any]) -> Row:
    """Shares of five answers with the seeds of the product's requests, where three of them are a letter."""
    votes = []
    for seed in range(5):
        one = {name: value for name, value in body.items() if name != "n"} | {"seed": body["seed"] + seed}
        votes.append(server.ask(one)["choices"][0]["message"]["content"].strip(" .\n"))
    letters = [vote for vote in votes if vote in [*LETTERS]]
    return [letters.count(letter) / len(letters) for letter in LETTERS] if len(letters) > 2 else None


def _decision(server: RealServer, body: dict[str, Any]) -> Row:
    """The probabilities of System One."""
    (answer,) = server.ask(body, "/systemone")["answers"].values()
    return [answer["probabilities"][label] for label in LABELS]


READERS: dict[str, Callable[[RealServer, dict[str, Any]], Row]] = {
    "decision": _decision,
    "logprob": _logprob,
    "json": _json,
    "vote": _vote,
}
