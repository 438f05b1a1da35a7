"""The surroundings of one scenario of the fault suite: a folder, servers, child processes, and signals to them."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from ledger_server import Asked, LedgerServer, even  # noqa: E402
from llm_server import LABELS  # noqa: E402

CHILD = Path(__file__).with_name("soak_child.py")
COMMAND = [sys.executable, "-m", "labelfusion.hub_scripts.cli"]
NAMES = sorted(LABELS)
LONGEST_S = 150.0  # a child that lives longer hangs
LONGEST_STOP_S = 20.0  # from the first signal on
JUST_S = 0.1  # an answer sent this long before a kill may be in a buffer, or in a transaction that is not over
MARK = "zqmark"  # in every text, to find texts where none may be
CANARIES = ("canary9Zt4Qm7Lw2Xv8Kp3Rb6", "sk-secretsecret")  # in every secret; the second is in the server's errors
WORDS = [
    "market",
    "goal",
    "chip",
    "war",
    "peace",
    "bank",
    "match",
    "film",
    "rain",
    "vote",
    "law",
    "team",
    "code",
    "stock",
    "price,",
    "the",
    "a",
    "is",
    "was",
    "very",
    "good",
    "bad",
]


@dataclass
class Tally:
    """What a run of the suite has counted; shared by the threads."""

    faults: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    most: dict[str, float] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def fault(self, kind: str, count: int = 1) -> None:
        """Count faults of a kind."""
        with self.lock:
            self.faults[kind] += count

    def add(self, **counts: int) -> None:
        """Count anything else."""
        with self.lock:
            self.sums.update(counts)

    def peak(self, name: str, value: float) -> None:
        """Remember the largest value."""
        with self.lock:
            self.most[name] = max(value, self.most.get(name, value))


@dataclass
class Kill:
    """When and how a child is stopped: after `requests` of its own, or `seconds`."""

    signal: int
    requests: int | None = None
    seconds: float = 0.0
    frozen_s: float = 0.0  # SIGSTOP before
    again_s: float | None = None  # the same signal once more after that time
    hard: bool = False  # nobody there listens to the signal


@dataclass
class Done:
    """How a child ended."""

    key: str
    command: list[str]
    status: int
    out: str
    err: str
    signalled: int | None = None
    hard: bool = False  # it had no chance to put anything away
    stop_s: float = 0.0
    killed_at: float = 0.0  # on the clock of the ledger


@dataclass
class World:
    """One scenario's surroundings; use as a context manager."""

    name: str
    folder: Path
    rng: random.Random
    tally: Tally
    template: Path  # folder with `encoder` and `model`
    server: LedgerServer = field(init=False)
    wire: set[Asked] = field(default_factory=set)
    done: list[Done] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    what: str = ""  # was drawn

    def __enter__(self) -> "World":
        self.folder.mkdir(parents=True)
        rate = self.rng.choice([0.2, 0.35, 0.5])
        self.server = LedgerServer(
            labels=NAMES,
            latency=self.rng.choice([0.0, 0.005, 0.02]),
            jitter=self.rng.choice([0.005, 0.03, 0.06]),
            faults=even(rate),
            offers={"json_schema", "json_object", "temperature", "logprobs", "decisions", "n"},
            seed=self.rng.randrange(1 << 30),
            reasoning=self.rng.choice([0, 0, 200]),
        )
        self.server.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        with suppress(Exception):
            self.server.__exit__()
        for kind, count in self.server.reached.items():
            self.tally.fault(kind, count)

    def problem(self, what: str) -> None:
        """Note that something is not as promised."""
        self.problems.append(f"{self.name}: {what}")

    def count(self, key: str) -> int:
        """Requests so far of the child with this key."""
        return sum(asked.run == key for asked in list(self.server.ledger))

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def text(self, i: int) -> str:
        """A text; no two are equal."""
        words = self.rng.choices(WORDS, k=self.rng.randint(3, 30))
        odd = self.rng.choice(["", "", "", '"quoted", yes', "a\nline", "день", "株価が上がった", "é😀", "=1+1"])
        return f"{MARK}{i} {' '.join(words)} {odd}".strip()

    def llm(self, **fields: Any) -> dict[str, Any]:
        """The declaration of the server's model."""
        price = [float(p) for p in self.server.price]
        common = {"model": "m", "api_base": self.server.url, "api_key_env": "SOAK_KEY", "timeout_s": 2.0}
        return {**common, "price": price, **fields}

    def env(self, key: str, **more: str) -> dict[str, str]:
        """The variables of a child: secrets in all the usual places."""
        secret = CANARIES[0]
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "SOAK_KEY": key,
            "OPENAI_API_KEY": f"sk-proj-{secret}",
            "HF_TOKEN": f"hf_{secret}",
            "DB_PASSWORD": secret,
            **more,
        }

    @property
    def store(self) -> Path:
        """The score store of the children."""
        return self.folder / "hf" / "labelfusion" / "scores.sqlite"

    def run(
        self,
        *commands: Sequence[str],
        kills: Sequence[Kill | None] = (),
        during: Callable[[], None] | None = None,
        before: Callable[[], None] | None = None,
        **env: str,
    ) -> list[Done]:
        """Run commands beside each other to their ends, with a signal for each where `kills` has one.

        Args:
            *commands: Arguments of `labelfusion`; or, with a Python file first, of Python.
            kills: One for each command.
            during: Called meanwhile.
            before: Called in each child before it starts.
            **env: More variables.
        """
        found: list[Done] = []
        threads = []
        for i, command in enumerate(commands):
            kill = kills[i] if i < len(kills) else None
            options = (list(command), kill, found, before, env)
            threads.append(threading.Thread(target=self._child, args=options, daemon=True))
        for thread in threads:
            thread.start()
        if during is not None:
            during()
        for thread in threads:
            thread.join()
        self.server.settle()
        self.done += found
        return found

    def _child(
        self,
        given: list[str],
        kill: Kill | None,
        found: list[Done],
        before: Callable[[], None] | None,
        env: dict[str, str],
    ) -> None:
        command = [sys.executable, *given] if given[0].endswith(".py") else [*COMMAND, *given]
        key = f"sk-{CANARIES[0]}-{threading.get_ident() % 100000}-{time.monotonic_ns()}"
        out, err = (self.folder / f"{kind}-{time.monotonic_ns()}.log" for kind in ("stdout", "stderr"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=self.env(key, **env),
                cwd=self.folder, preexec_fn=lambda: _prepare(before),
            )  # fmt: skip
        ended = Done(key, given, 0, "", "")
        try:
            if kill is not None:
                self._stop(process, kill, ended)
            process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            self.problem(f"hang: {' '.join(command[2:4])} did not end in {LONGEST_S:.0f} s")
            self._hard(process, ended, time.monotonic(), signal.SIGKILL)
        ended.status = process.returncode
        ended.out, ended.err = (path.read_text(encoding="utf-8", errors="replace") for path in (out, err))
        found.append(ended)

    def _stop(self, process: "subprocess.Popen[bytes]", kill: Kill, ended: Done) -> None:
        began = time.monotonic()
        while process.poll() is None:
            mine = self.count(ended.key) if kill.requests else 0
            if mine >= kill.requests if kill.requests else time.monotonic() - began >= kill.seconds:
                break
            if time.monotonic() - began > LONGEST_S:
                return
            time.sleep(0.01)
        if process.poll() is not None:
            return
        since = time.monotonic()
        if kill.frozen_s:
            self.tally.fault("SIGSTOP")
            process.send_signal(signal.SIGSTOP)
            time.sleep(kill.frozen_s)
            if kill.signal != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
        if kill.signal == signal.SIGCONT:
            return
        ended.signalled = kill.signal
        if kill.signal == signal.SIGKILL or kill.hard:
            return self._hard(process, ended, since, kill.signal)
        self.tally.fault(signal.Signals(kill.signal).name)
        frozen, since = since, time.monotonic()
        process.send_signal(kill.signal)
        if kill.again_s is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(kill.again_s)
            if process.poll() is None:  # what came while it was frozen had no time to be read
                return self._hard(process, ended, frozen if kill.frozen_s else time.monotonic(), kill.signal)
        try:
            process.wait(LONGEST_STOP_S)
        except subprocess.TimeoutExpired:
            self.problem(f"{signal.Signals(kill.signal).name} had not ended it after {LONGEST_STOP_S:.0f} s")
            return self._hard(process, ended, time.monotonic(), signal.SIGKILL)
        ended.stop_s = time.monotonic() - since
        self.tally.peak("seconds from a signal to the end", ended.stop_s)

    def _hard(self, process: "subprocess.Popen[bytes]", ended: Done, since: float, number: int) -> None:
        """End a child that cannot put anything away, and note what was on the wire."""
        self.tally.fault(signal.Signals(number).name)
        process.send_signal(number)
        try:
            process.wait(LONGEST_STOP_S)
        except subprocess.TimeoutExpired:
            self.problem(f"{signal.Signals(number).name} did not end it at once")
            process.kill()
            process.wait()
        ended.hard, ended.stop_s, ended.killed_at = True, time.monotonic() - since, since
        self.server.settle()
        mine = [asked for asked in list(self.server.ledger) if asked.run == ended.key]
        open_ = {asked for asked in mine if asked.ended is None or asked.ended >= since}
        just = {asked for asked in mine if asked not in open_ and (asked.ended or 0) >= since - JUST_S}
        self.wire |= open_ | just
        self.tally.add(kills=1, wire_open=_texts(open_), wire_just=_texts(just))


def _prepare(before: Callable[[], None] | None) -> None:
    """In the child: signals as a terminal's shell leaves them, whatever started the suite."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if before is not None:
        before()


def _texts(asked: set[Asked]) -> int:
    return sum(len(request.texts) for request in asked)


__all__ = ["CHILD", "COMMAND", "MARK", "NAMES", "Done", "Kill", "Tally", "World"]
