"""A real PostgreSQL in a temporary folder, on the loopback interface alone."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

USER, PASSWORD = "worker", "pa55-w0rd-of-the-team"


def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None if PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


class PostgresServer:
    """Use as a context manager. PostgreSQL refuses to run as root, so root runs it as the user `nobody`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="labelfusion-postgres-"))  # pytest's folders are one user's own
        self._data = self.folder / "data"
        self._bin = binaries()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> "PostgresServer":
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            user = pwd.getpwnam("nobody")
            for path in (self.folder, secret):
                os.chown(path, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret, "--no-sync")
        self.start()
        return self

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off -c shared_buffers=16MB"
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log", "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def _run(self, name: str, *arguments: Any) -> None:
        user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
        command = [str(self._bin and self._bin / name), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, timeout=60, **user)

    def __exit__(self, *_: Any) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
