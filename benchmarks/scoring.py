"""Speed, prompt length, caching and behaviour under faults of LLM scoring, against a loopback server.

    python benchmarks/scoring.py [--write] [--only "A limit"]

`--write` puts the figures into docs/scoring.md, `--only` those of one section, with its own date. Needs the `openai`
extra; nothing leaves this machine. The local LLM has a benchmark of its own (benchmarks/local_llm.py).
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import budget  # noqa: E402
from llm_server import CONTENT_FAULTS, LABELS, TRANSPORT_FAULTS, LLMServer, truth  # noqa: E402

LATENCY_S = 0.2
IN_FLIGHT = 64
FILLER = " ".join(["Stocks rose on Friday after the central bank left its rate unchanged."] * 3)  # as long as AG News
Row = tuple[str, str, str]  # what, figure, target
LIMIT_TITLE = (
    "A limit in dollars: spent, by the server's count, as a share of limit + one request; at 8 / 48 / 128 in flight"
)


@contextmanager
def server_process(latency: float) -> Iterator[str]:
    """The stand-in in a process of its own, so that it does not share our interpreter."""
    command = [sys.executable, str(ROOT / "tests" / "llm_server.py"), "--latency", str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def new_texts(count: int) -> list[str]:
    stamp = time.time_ns()
    return [f"{stamp} {i} {FILLER}" for i in range(count)]


async def ceiling(url: str, texts: list[str]) -> float:
    """Requests a second that the server serves to a client which does nothing: bare sockets, `IN_FLIGHT` at once."""
    host, port = url.split("/")[2].split(":")
    body = {"model": "m", "temperature": 0, "response_format": {"type": "json_schema"}}
    rows = iter(texts)

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for text in rows:
            messages = [
                {"role": "system", "content": "x" * 400},
                {"role": "user", "content": f"<text>\n{text}\n</text>"},
            ]
            data = json.dumps({**body, "messages": messages}).encode()
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return len(texts) / (time.perf_counter() - started)


def throughput(repeats: int, count: int) -> list[Row]:
    from labelfusion.scoring import build_scorer, score_texts

    ours, ceilings, ratios = [], [], []
    with server_process(LATENCY_S) as url, tempfile.TemporaryDirectory() as folder:
        provider = {"model": "m", "api_base": url, "method": "json", "max_concurrency": IN_FLIGHT}
        scorer = build_scorer(provider, LABELS, False, store=Path(folder) / "s.sqlite")
        score_texts([scorer], new_texts(IN_FLIGHT))
        for _ in range(repeats):
            ceilings.append(asyncio.run(ceiling(url, new_texts(count))))
            texts = new_texts(count)
            started, cpu = time.perf_counter(), time.process_time()
            _, (batch,) = score_texts([scorer], texts)
            ours.append(count / (time.perf_counter() - started))
            cpu_ms = 1000 * (time.process_time() - cpu) / count
            assert not batch.errors
            ratios.append(ours[-1] / ceilings[-1])
        one = build_scorer({**provider, "max_concurrency": 1}, LABELS, False, cache=False)
        texts = new_texts(15)
        started = time.perf_counter()
        score_texts([one], texts)
        alone = 15 / (time.perf_counter() - started)
    spread = f"{min(ours):.0f} to {max(ours):.0f}"
    return [
        (
            f"texts per second, {IN_FLIGHT} in flight, answers stored",
            f"{statistics.median(ours):.0f} ({spread})",
            ">= 200",
        ),
        ("ceiling of the stand-in server, plain sockets", f"{statistics.median(ceilings):.0f}", ""),
        ("share of the ceiling", f"{statistics.median(ratios):.0%}", ">= 90 %"),
        ("our CPU time per text", f"{cpu_ms:.1f} ms", ""),
        ("texts per second, one request after the other", f"{alone:.1f}", ""),
    ]


def prompts() -> list[Row]:
    from labelfusion.configuration import LLMProvider, Task
    from labelfusion.scoring.api.client import body_length
    from labelfusion.scoring.api.questions import Questions
    from labelfusion.scoring.providers.endpoints import resolve

    rows = []
    for method in ("decision", "logprob", "json", "vote"):
        provider = LLMProvider("m", api_base="http://localhost:1", method=method)
        lengths = []
        for multi_label in (False, True):
            questions = Questions(provider, resolve(provider), Task(LABELS, multi_label))
            body = questions.method(method).body([FILLER])
            lengths.append(body_length(body) + len(str(body.get("response_format", ""))) - len(FILLER))
        rows.append((f"`{method}`, single-label / multi-label", f"{lengths[0]} / {lengths[1]}", "<= 900"))
    return rows


def caching(count: int = 10_000) -> list[Row]:
    from labelfusion.scoring import build_scorer, score_texts
    from labelfusion.scoring.store.score_store import Answer, ScoreStore

    with LLMServer() as server, tempfile.TemporaryDirectory() as folder:
        store = ScoreStore(Path(folder) / "s.sqlite")
        scorer: Any = build_scorer({"model": "m", "api_base": server.url, "method": "json"}, LABELS, False, store=store)
        texts = new_texts(count)
        score_texts([scorer], ["warm"])
        answers = [
            Answer(scorer.questions.key("json", text), np.array(truth(text, LABELS)), "m", "json", 200, 20, 1e-5)
            for text in texts
        ]
        started = time.perf_counter()
        for i in range(0, count, 100):
            store.put_many(answers[i : i + 100])
        stored = time.perf_counter() - started
        started = time.perf_counter()
        scores, (batch,) = score_texts([scorer], texts)
        answered = time.perf_counter() - started
        assert batch.cached == count
        assert server.requests == 1
        np.testing.assert_allclose(scores[:, 0], [truth(text, LABELS) for text in texts], atol=1e-6)
        size = sum(p.stat().st_size for p in Path(folder).iterdir())
    return [
        (f"{count:,} texts answered from the store", f"{answered:.2f} s", "< 1 s"),
        (f"{count:,} answers stored, in transactions of 100", f"{stored:.2f} s", "< 2 s"),
        ("bytes per answer on disk", f"{size / count:.0f}", ""),
    ]


def faults(count: int = 2000) -> list[Row]:
    from labelfusion.scoring import build_scorer, score_texts

    kinds = (*TRANSPORT_FAULTS, *CONTENT_FAULTS)
    with LLMServer(latency=0.02, faults={kind: 0.2 / len(kinds) for kind in kinds}) as server:
        provider = {"model": "m", "api_base": server.url, "method": "json", "timeout_s": 1.0, "max_concurrency": 64}
        scorer = build_scorer(provider, LABELS, False, store=":memory:")
        texts = new_texts(count)
        started = time.perf_counter()
        scores, (batch,) = score_texts([scorer], texts)
        seconds = time.perf_counter() - started
        answered = batch.mask
        wrong = np.abs(scores[answered, 0] - np.array([truth(t, LABELS) for t in texts])[answered]).max(axis=1) > 1e-5
        stats = server.stats()
        injected = sum(stats["injected"].values())
        assert len(batch.errors) + answered.sum() == count
    return [
        ("kinds of fault", ", ".join(kinds), ""),
        (
            "requests, and how many failed on purpose",
            f"{stats['requests']}, {injected} ({injected / stats['requests']:.0%})",
            "20 %",
        ),
        ("texts answered", f"{answered.sum()} of {count}", ""),
        ("texts reported missing, all for answers without content", f"{len(batch.errors)}", ""),
        ("answers that are wrong", f"{wrong.sum()}", "0"),
        ("texts paid twice", f"{stats['paid_twice']}", "0"),
        ("seconds", f"{seconds:.1f}", ""),
    ]


def limits(count: int) -> list[Row]:
    with server_process(LATENCY_S) as url:
        return [*budget.sweep(), *budget.time_taken(url, count)]


def imports(repeats: int = 5) -> list[Row]:
    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return time.perf_counter() - started

    names = ("import labelfusion", "import transformers, torch", "import transformers, torch, labelfusion")
    found: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        seconds(name)
    for _ in range(repeats):  # in turn, so that other load falls on all of them
        for name in names:
            found[name].append(seconds(name))
    alone, base, both = (statistics.median(found[name]) for name in names)
    return [
        ("`import labelfusion`", f"{alone:.2f} s", ""),
        ("`import transformers, torch`", f"{base:.2f} s", ""),
        ("`import labelfusion`, as a share of it", f"{alone / base:.2f}", "<= 1.15"),
        ("all three, as a share of the two", f"{both / base:.2f}", "<= 1.15"),
    ]


def table(rows: list[Row]) -> str:
    lines = ["| | measured | target |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {what} | {figure} | {target} |" for what, figure, target in rows)])


def replaced(text: str, title: str, section: str) -> str:
    """The page with one section put in place of the one with its title, or before the last."""
    start = text.find(f"## {title}\n")
    end = text.find("\n## ", start) if start >= 0 else -1
    if start < 0:
        start = end = text.rfind("\n## ") + 1
    rest = text[end:].lstrip("\n") if end >= 0 else ""
    return (text[:start] + section + "\n\n" + rest).rstrip("\n") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write docs/scoring.md")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, default=2000, help="texts of a throughput run")
    parser.add_argument("--only", metavar="TITLE", help="the section whose title begins so")
    args = parser.parse_args()
    measures: dict[str, Callable[[], list[Row]]] = {
        f"Throughput at {LATENCY_S * 1000:.0f} ms latency": lambda: throughput(args.repeats, args.count),
        "Characters of a zero-shot prompt for four classes, beyond the text": prompts,
        "The score store": caching,
        "A run with faults": faults,
        LIMIT_TITLE: lambda: limits(args.count),
        "Importing": imports,
    }
    if args.only:
        title = next(title for title in measures if title.startswith(args.only))
        section = f"## {title}\n\nMeasured on {datetime.now(UTC):%Y-%m-%d}.\n\n{table(measures[title]())}"
        print(section)
        if args.write:
            page = ROOT / "docs" / "scoring.md"
            page.write_text(replaced(page.read_text(encoding="utf-8"), title, section), encoding="utf-8")
        return
    sections = {title: measure() for title, measure in measures.items()}
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    text = (
        "# Scoring: measured figures\n\n"
        f"Written by `python benchmarks/scoring.py --write` on {datetime.now(UTC):%Y-%m-%d}, {machine}, against a "
        "loopback stand-in for the OpenAI HTTP API (`tests/llm_server.py`), on the same machine. Speed is the median "
        f"of {args.repeats} runs of {args.count:,} texts; each run alternates with a run of the plain client. Figures "
        "of the local LLM are in [local-llm.md](local-llm.md).\n\n"
    )
    text += "\n\n".join(f"## {title}\n\n{table(rows)}" for title, rows in sections.items()) + "\n"
    print(text)
    if args.write:
        (ROOT / "docs" / "scoring.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
