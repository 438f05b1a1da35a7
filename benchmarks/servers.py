"""What a server that speaks OpenAI's format really does: its row of the table in docs/llm-providers.md.

    python benchmarks/servers.py llama.cpp transformers [--write]       # started here, with SmolLM2, on loopback
    python benchmarks/servers.py --url http://127.0.0.1:4000/v1 --model NAME --name "litellm 1.110.2" [--key-env KEY]
    python benchmarks/servers.py llama.cpp transformers --check 20      # every method against asking directly

It asks over plain HTTP, without a client and without LabelFusion, and looks at what comes back rather than at the
status: a field that is accepted and does nothing counts as ignored. `--write` puts the rows into the table: one of the
same name is replaced. `--check` is in servers_check.py.
"""

import argparse
import json
import math
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from real_servers import PACKAGES, RealServer  # noqa: E402

PAGE = ROOT / "docs" / "llm-providers.md"
START, END = "<!-- servers: made by benchmarks/servers.py -->\n", "<!-- end of servers -->\n"
COLUMNS = {
    "server": "server",
    "decisions": "decisions",
    "logprobs": "`logprobs`",
    "schema": "JSON schema",
    "n": "`n`",
    "sampling": "temperature, seed",
    "usage": "usage",
    "ignored": "accepted without effect",
    "too_long": "text beyond the context",
    "key": "wrong key",
}
QUESTION = "Which of these is an animal? A. a stone B. a dog C. a cloud D. a river. Answer with the letter."
STORY = "Tell a story about a dog."
FEW, MANY = 2, 8  # choices that are asked for


@dataclass
class Reply:
    """A reply, or what the server said instead."""

    status: int
    body: Any

    @property
    def choices(self) -> list[dict[str, Any]]:
        found = self.body.get("choices") if self.status == 200 and isinstance(self.body, dict) else None
        return found or []

    @property
    def texts(self) -> list[str]:
        return [str(choice["message"].get("content")) for choice in self.choices]

    @property
    def top(self) -> dict[str, float]:
        """Log-probabilities of the alternatives to the first token."""
        positions = ((self.choices or [{}])[0].get("logprobs") or {}).get("content") or [{}]
        return {found["token"]: found["logprob"] for found in positions[0].get("top_logprobs") or []}

    @property
    def refusal(self) -> str:
        """Status, code and parameter of an error."""
        error = self.body.get("error", self.body) if isinstance(self.body, dict) else {}
        error = error if isinstance(error, dict) else {}
        code = error.get("code") if str(error.get("code")) != str(self.status) else None
        param = "" if error.get("param") else ", no `param`"
        return f"{self.status}{f' `{code}`' if (code := code or error.get('type')) else ''}{param}"


@dataclass
class Server:
    """A server that is to be asked."""

    name: str
    url: str
    model: str
    key: str | None = None
    context: int = 1024

    def chat(self, content: str = STORY, key: str | None = None, **fields: Any) -> Reply:
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "max_tokens": 12, **fields}
        return self.post("/chat/completions", {k: v for k, v in body.items() if v is not None}, key)

    def post(self, path: str, body: dict[str, Any], key: str | None = None) -> Reply:
        headers = {"Content-Type": "application/json"}
        if used := key or self.key:
            headers["Authorization"] = f"Bearer {used}"
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as reply:
                return Reply(reply.status, json.load(reply))
        except urllib.error.HTTPError as error:
            said = error.read()
            try:
                return Reply(error.code, json.loads(said))
            except ValueError:
                return Reply(error.code, said.decode("utf-8", "replace"))


def row_of(server: Server) -> dict[str, str]:
    """The server's row: what it was seen to do."""
    plain = server.chat()
    if not plain.choices:
        sys.exit(f"{server.name} does not answer: {plain.status} {str(plain.body)[:300]}")
    ignored: list[str] = []
    row = {
        "server": server.name,
        "decisions": decisions(server),
        "logprobs": logprobs(server, ignored),
        "schema": schema(server, ignored),
        "n": choices(server, ignored),
        "sampling": sampling(server, ignored),
        "usage": usage(server, ignored),
        "too_long": too_long(server),
        "key": key(server),
    }
    unknown = server.chat(no_such_field=1)
    if unknown.choices:
        ignored.append("unknown fields")
    row["ignored"] = ", ".join(ignored) or "nothing"
    return row


def decisions(server: Server) -> str:
    """Which of the two interfaces answers a question with probabilities."""
    asked = {"type": "choice", "instructions": "What is it about?"}
    openai = {"input": STORY, "questions": [{**asked, "choices": [{"value": "dog"}, {"value": "sea"}]}]}
    systemone = {"state": STORY, "questions": {"0": {**asked, "criteria": {"dog": None, "sea": None}}}}
    found = []
    for name, body in (("decisions", openai), ("systemone", systemone)):
        reply = server.post(f"/{name}", {"model": server.model, **body})
        found.append(
            f"`/{name}`: "
            + ("probabilities" if reply.status == 200 and reply.body.get("answers") else str(reply.status))
        )
    return ", ".join(found)


def logprobs(server: Server, ignored: list[str]) -> str:
    """Whether they come, how many, and whether they are the model's or those of the sampler."""
    found: dict[int, Reply] = {
        n: server.chat(QUESTION, max_tokens=1, logprobs=True, top_logprobs=n) for n in (5, 20, 100)
    }
    counts = {n: len(reply.top) for n, reply in found.items()}
    if not any(counts.values()):
        if not found[5].choices:
            return f"refused ({found[5].refusal})"
        ignored.append("`logprobs`")
        return "none"
    most = max(counts, key=lambda n: counts[n])
    limit = f"at most {counts[most]}" if counts[100] < 100 else "100 and more"
    if not found[100].choices:
        limit += f", 100 refused ({found[100].refusal})"
    at = {t: server.chat(QUESTION, max_tokens=1, logprobs=True, top_logprobs=5, temperature=t).top for t in (0.3, 2)}
    kind = "raw" if _distance(at[0.3], at[2]) < 0.1 else "after the temperature"
    moved = max(_moved(server) for _ in range(4))
    return f"{kind}; {limit}; " + (f"moved by {moved:.2g} when asked again" if moved else "equal when asked again")


def _moved(server: Server) -> float:
    """Largest difference between the answers to a question that the server has not seen, and to the same again."""
    asked = f"{uuid4().hex} {QUESTION}"
    first, second = (server.chat(asked, max_tokens=1, logprobs=True, top_logprobs=5).top for _ in range(2))
    return _distance(first, second)


def _distance(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest difference among the tokens that both have."""
    return max((abs(one[token] - other[token]) for token in one.keys() & other.keys()), default=math.inf)


def schema(server: Server, ignored: list[str]) -> str:
    """Whether an answer has the one key that nobody would guess, and a number within bounds that nobody would guess."""
    number = {"type": "integer", "minimum": 41, "maximum": 43}
    wanted = {"type": "object", "properties": {"zq": number}, "required": ["zq"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": wanted}}
    reply = server.chat(max_tokens=60, response_format=form)
    plain = server.chat(max_tokens=60, response_format={"type": "json_object"})
    said = f"refused ({reply.refusal})"
    if reply.choices:
        try:
            value = json.loads(reply.texts[0])["zq"]
            said = "enforced, bounds of numbers too" if 41 <= value <= 43 else "enforced, bounds of numbers not"
        except (ValueError, KeyError, TypeError):
            said = "not enforced"
            ignored.append("`response_format`")
    if plain.choices:
        opened = plain.texts[0].lstrip().startswith("{")
        return said + ("; `json_object` too" if opened and said.startswith("enforced") else "")
    return f"{said}; `json_object` refused ({plain.refusal})"


def choices(server: Server, ignored: list[str]) -> str:
    """How many answers come for one request."""
    few, many = server.chat(n=FEW), server.chat(n=MANY)
    if not few.choices:
        return f"refused ({few.refusal})"
    if len(few.choices) < FEW:
        ignored.append("`n`")
        return "one answer"
    return f"{MANY} and more" if len(many.choices) == MANY else f"{FEW}; {MANY} refused ({many.refusal})"


def sampling(server: Server, ignored: list[str]) -> str:
    """Whether a temperature makes answers differ, and a seed makes them the same again."""
    texts = {text for _ in range(4) for text in server.chat(temperature=1.5).texts}
    if len(texts) == 1:
        ignored.append("`temperature`, `seed`")
        return "the likeliest answer always"
    pairs = [[server.chat(temperature=1.5, seed=seed).texts for _ in range(2)] for seed in (1, 2, 3)]
    repeats = all(one == other for one, other in pairs)
    if not repeats:
        ignored.append("`seed`")
    return "sampled; " + ("a seed repeats the answer" if repeats else "a seed does not repeat the answer")


def usage(server: Server, ignored: list[str]) -> str:
    """Whether tokens are counted, those of all choices too, and whether either limit of the length holds."""
    for name in ("max_tokens", "max_completion_tokens"):
        reply = server.chat(**{"max_tokens": None, name: 3})  # type: ignore[arg-type]
        if reply.choices and reply.choices[0].get("finish_reason") != "length":
            ignored.append(f"`{name}`")
    reply = server.chat(n=FEW, max_tokens=4)
    reply = reply if len(reply.choices) == FEW else server.chat(max_tokens=4)
    told = reply.body.get("usage") if isinstance(reply.body, dict) else None
    if not told:
        return "none"
    counted, should = told.get("completion_tokens"), 4 * len(reply.choices)
    if counted == should:
        return "all tokens" if len(reply.choices) == FEW else "given"
    return f"too low for `n`: {counted} for {len(reply.choices)} answers of 4 tokens"


def too_long(server: Server) -> str:
    """What comes of a text that has more tokens than the model reads."""
    words = server.context + 100
    reply = server.chat("dog " * words, max_tokens=1)
    if not reply.choices:
        return f"refused ({reply.refusal})"
    read = (reply.body.get("usage") or {}).get("prompt_tokens")
    return "cut without a word" if isinstance(read, int) and read < words else f"answered all the same ({read} tokens)"


def key(server: Server) -> str:
    """What comes of a wrong key."""
    reply = server.chat(key="sk-wrong-key", max_tokens=1)
    return "accepted: it looks at none" if reply.choices else reply.refusal


@contextmanager
def started(kind: str) -> Iterator[Server]:
    """One of the servers of tests/real_servers.py."""
    package = PACKAGES[kind][0] if kind == "llama.cpp" else kind
    name = f"llama.cpp ({package} {version(package)})" if kind == "llama.cpp" else f"transformers serve {version(kind)}"
    secret = "loopback-only" if kind == "llama.cpp" else None
    # SmolLM2 reads 8192 tokens; `transformers serve` has no limit of its own.
    with RealServer(kind, context=1024, key=secret) as server:
        yield Server(name, server.url, server.model, secret, 1024 if kind == "llama.cpp" else 8192)


def table(rows: list[dict[str, str]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row[name] for name in COLUMNS) + " |" for row in rows]) + "\n"


def write(rows: list[dict[str, str]]) -> None:
    """Put the rows into the page; other servers' rows stay."""
    before, rest = PAGE.read_text("utf-8").split(START)
    old, after = rest.split(END)
    lines = [line.removeprefix("| ").removesuffix(" |") for line in old.splitlines()[2:]]
    kept = [dict(zip(COLUMNS, line.split(" | "), strict=True)) for line in lines]
    names = {row["server"].split()[0] for row in rows}
    kept = [row for row in kept if row["server"].split()[0] not in names]
    PAGE.write_text(before + START + table(sorted(kept + rows, key=lambda row: row["server"])) + END + after, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"to start here: {', '.join(PACKAGES)}")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--model", help="its model")
    parser.add_argument("--name", help="its name and version")
    parser.add_argument("--key-env", help="environment variable with its key")
    parser.add_argument("--context", type=int, default=8192, help="tokens that it reads (default: 8192)")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/llm-providers.md")
    parser.add_argument("--check", type=int, metavar="TEXTS", help="score so many AG News texts instead")
    parser.add_argument("--methods", type=lambda names: names.split(","), help="of --check (default: all)")
    given = parser.parse_args()
    if given.check:
        from servers_check import check

        sys.exit(check(given.servers, given.check, given.methods))
    rows = []
    for kind in given.servers:
        with started(kind) as server:
            rows.append(row_of(server))
    if given.url:
        secret = os.environ[given.key_env] if given.key_env else None
        rows.append(row_of(Server(given.name or given.url, given.url, given.model, secret, given.context)))
    print(table(rows))
    if given.write:
        write(rows)


if __name__ == "__main__":
    main()
