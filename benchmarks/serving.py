"""A load test of `labelfusion serve`, with locust as the client and a stand-in for the LLM.

    pip install locust
    python benchmarks/serving.py --minutes 10 --write

Server, stand-in and client run on this machine, on loopback alone, and end by themselves. `--write` writes the part
*A server* of `docs/performance.md`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- A server: benchmarks/serving.py -->", "<!-- end of A server -->"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
EVERY_S = 2.0  # between two looks at the server's memory
FIRST = 0.2  # share of the time after which memory should not grow any more


@dataclass
class Load:
    """One run: what the client saw, and what the server and the LLM's stand-in counted."""

    requests: list[dict[str, Any]] = field(default_factory=list)  # locust's statistics of each kind
    memory_mb: list[tuple[float, float]] = field(default_factory=list)  # seconds since the start, and MB
    metrics: dict[str, float] = field(default_factory=dict)
    llm: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def growth_mb(self) -> float:
        """Mean memory of the last fifth of the run, less that of the second fifth."""
        end = self.memory_mb[-1][0]
        early = [mb for at, mb in self.memory_mb if FIRST * end <= at <= 2 * FIRST * end]
        late = [mb for at, mb in self.memory_mb if at >= (1 - FIRST) * end]
        return sum(late) / len(late) - sum(early) / len(early)


def make_model(folder: Path, encoder: str, llm_url: str) -> None:
    """A model with a real encoder and random heads: they take as long as fitted ones."""
    import torch
    from labelfusion.scoring.local.embedded import resolve_model
    from transformers import AutoTokenizer

    from labelfusion import LabelFusionForSequenceClassification

    torch.manual_seed(0)
    source = str(resolve_model(encoder))
    provider: dict[str, Any] = {
        "model": "openai/stand-in",
        "name": "llm",
        "api_base": llm_url,
        "api_key_env": "STAND_IN_KEY",
    }
    provider |= {"method": "json", "price": [0.05, 0.4], "max_concurrency": 64}
    model = LabelFusionForSequenceClassification.from_encoder_pretrained(
        source, labels=LABELS, llm_providers=[provider]
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def started(stack: ExitStack, command: list[str], environment: dict[str, str], log: Path) -> tuple[Any, str]:
    """A process that prints its URL, and the URL."""
    errors = stack.enter_context(log.open("w"))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
    stack.callback(_end, process)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    if found is None:
        raise RuntimeError(f"{command[1]} did not start:\n{log.read_text()}")
    return process, found[0]


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    process.wait(120)


def get(url: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def metrics(url: str) -> dict[str, float]:
    """The server's metrics, summed over their labels."""
    found: dict[str, float] = {}
    for line in get(f"{url}/metrics")[1].splitlines():
        if not line.startswith("#"):
            name = re.split(r"[{ ]", line)[0]
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


def measure(args: argparse.Namespace, folder: Path) -> Load:
    """Start everything, let the users work, and collect."""
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "STAND_IN_KEY": "stand-in", "HF_HUB_OFFLINE": "1"}
    briefs = pd.read_csv(ROOT / "hub_scripts" / "commands" / "demo_data" / "news_briefs.csv")["text"]
    texts = folder / "texts.txt"
    texts.write_text("\n".join(" ".join(text.split()) for text in briefs), encoding="utf-8")
    load = Load()
    with ExitStack() as stack:
        stand_in = [sys.executable, "tests/llm_server.py", "--latency", str(args.latency), "--labels", ",".join(LABELS)]
        _, llm_url = started(stack, stand_in, environment, folder / "llm.log")
        make_model(folder / "model", args.encoder, llm_url)
        command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "serve", str(folder / "model"), "--port", "0"]
        command += ["--llm-policy", args.llm_policy, "--budget-per-day", "1000"]
        server, url = started(stack, command, environment, folder / "server.log")
        while get(f"{url}/health")[0] != 200:
            if server.poll() is not None:
                raise RuntimeError((folder / "server.log").read_text())
            time.sleep(0.2)
        users = [sys.executable, "-m", "locust", "-f", "benchmarks/serving_users.py", "--headless", "--json"]
        users += ["-u", str(args.users), "-r", str(args.users), "-t", f"{round(60 * args.minutes)}s", "--host", url]
        users += ["--stop-timeout", "30", "--exit-code-on-error", "0"]
        before, begun = metrics(url), time.monotonic()
        output = stack.enter_context((folder / "users.json").open("w+"))
        client = subprocess.Popen(users, env={**environment, "SERVING_TEXTS": str(texts)}, cwd=ROOT, stdout=output)
        while client.poll() is None:
            now = time.monotonic() - begun
            load.memory_mb.append((now, metrics(url)["process_resident_memory_bytes"] / 1e6))
            time.sleep(EVERY_S)
        load.seconds = time.monotonic() - begun
        load.metrics = {name: value - before.get(name, 0.0) for name, value in metrics(url).items()}
        load.llm = json.loads(get(llm_url.removesuffix("/v1") + "/stats")[1])
        server.terminate()
        status = server.wait(120)
        if status or "Traceback" in (said := (folder / "server.log").read_text()) or " ERROR " in said:
            raise RuntimeError(f"The server ended with {status}:\n{(folder / 'server.log').read_text()[-4000:]}")
    load.requests = json.loads((folder / "users.json").read_text())
    return load


def row(title: str, kinds: list[dict[str, Any]]) -> str:
    """A line of the table."""
    times = sorted((float(ms), number) for kind in kinds for ms, number in kind["response_times"].items())
    values = np.repeat([ms for ms, _ in times], [number for _, number in times])  # locust rounds them
    p50, p99 = np.quantile(values, (0.5, 0.99), method="higher")
    seconds = max(k["last_request_timestamp"] for k in kinds) - min(k["start_time"] for k in kinds)
    failed, slowest = sum(k["num_failures"] for k in kinds), max(k["max_response_time"] for k in kinds)
    return f"| {title} | {len(values) / seconds:.1f} | {p50:.0f} ms | {p99:.0f} ms | {slowest:.0f} ms | {failed} |"


def report(load: Load, args: argparse.Namespace) -> str:
    """The part of the report."""
    count, number = load.metrics, sum(kind["num_requests"] for kind in load.requests)
    texts, asked = count["labelfusion_texts_total"], count["labelfusion_asked_texts_total"]
    missing, rounds = (
        count.get(f"labelfusion_{n}", 0.0) for n in ("missing_answers_total", "encoder_round_texts_count")
    )
    how = (
        f"`python benchmarks/serving.py --minutes {args.minutes:g} --users {args.users}` on {os.cpu_count()} CPU "
        f"cores, which server, client (locust) and the LLM's stand-in ({args.latency:g} s for an answer) share. "
        f"Encoder: `{args.encoder}`. `--llm-policy {args.llm_policy}`. {args.users} clients send the next request as "
        "soon as they have an answer; one request of eight holds ten texts, the others one."
    )
    table = ["| requests of | requests/s | p50 | p99 | slowest | errors |", "| --- | --- | --- | --- | --- | --- |"]
    for title, names in (("1 text", "1"), ("10 texts", "10"), ("both", "1 10")):
        table.append(row(title, [kind for kind in load.requests if kind["name"] in names.split()]))
    found = (
        f"{number:,} requests with {texts:,.0f} texts, {texts / load.seconds:.0f} a second; "
        f"{asked / texts:.1%} of them sent to the LLM, {missing:.0f} answers missing, {load.llm['paid_twice']} paid "
        f"twice. {texts / rounds:.1f} texts were encoded together on average. The server used "
        f"{1000 * count['process_cpu_seconds_total'] / texts:.0f} ms of CPU time a text. Its memory: "
        f"{load.memory_mb[-1][1]:.0f} MB at the end, {load.growth_mb:+.1f} MB from the second fifth of the time to the "
        "last."
    )
    parts = [f"{BEGIN}\n## A server", fill(how, 125), "\n".join(table), fill(found, 125)]
    return "\n\n".join(parts) + f"\n{END}\n"


def write(part: str) -> None:
    """Put the part into the report, in the place of an older one."""
    text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else "# Performance\n"
    before, found, rest = text.partition(BEGIN)
    rest = rest.partition(END)[2].lstrip("\n") if found else ""
    REPORT.write_text(f"{before.rstrip()}\n\n{part}{rest and chr(10) + rest}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds that the LLM takes")
    parser.add_argument("--llm-policy", default="0.3")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.relative_to(ROOT)}")
    args = parser.parse_args()
    if find_spec("locust") is None:
        parser.error("this needs locust: pip install locust")
    with tempfile.TemporaryDirectory() as folder:
        load = measure(args, Path(folder))
    part = report(load, args)
    print(part)
    if args.write:
        write(part)
    if any(kind["num_failures"] for kind in load.requests):
        raise SystemExit("There were errors.")


if __name__ == "__main__":
    main()
