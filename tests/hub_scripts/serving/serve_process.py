"""A real `labelfusion serve` in a process of its own."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from forked import Popen


class Reply:
    """Status, headers and body of an answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers = response.status, {k.lower(): v for k, v in response.getheaders()}
        self.text = response.read().decode()

    def json(self) -> Any:
        return json.loads(self.text)


class ServeProcess:
    """The server; use as a context manager.

    Args:
        model: Folder of the model.
        home: Folder for the score store and the budget.
        options: Of the command.
        environment: Variables besides those of this process.
    """

    def __init__(self, model: Path, home: Path, *options: str, **environment: str) -> None:
        self.command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "serve", str(model), "--port", "0"]
        self.command += options
        self.environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.environment |= environment
        self.errors = ""

    def __enter__(self) -> Self:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = Popen(self.command, env=self.environment, text=True, **pipes)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found is not None, self._end()
        self.url = found[0]
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop(signal.SIGKILL)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def _end(self) -> str:
        self.process.wait(60)
        self._reader.join(60)
        return self.errors

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal if it still runs, and wait. Returns: the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self._end()
        return self.process.returncode

    def ready(self) -> Self:
        """Wait until `/health` says so."""
        for _ in range(1200):
            if self.get("/health").status == 200:
                return self
            assert self.process.poll() is None, self.errors
            time.sleep(0.05)
        raise AssertionError(self.errors)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=120)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        given = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, given, **{"content_type": "application/json", **headers})

    def predict(self, inputs: Any, **parameters: Any) -> Reply:
        return self.post("/predict", {"inputs": inputs, "parameters": parameters})

    def metric(self, name: str, **headers: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics", **headers).text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if re.match(rf"labelfusion_{name}[ {{]", line)]
        return sum(values)
