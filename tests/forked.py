"""Python processes that start in a tenth of a second: forks of one that has imported Transformers and this package.

`Popen` and `run` are those of `subprocess`. A fork is a child of this process too, with the signals and exit status of
`python -c` and `python -m`. Whatever cannot be had that way (another interpreter, other variables that count at import)
is started anew; with `LABELFUSION_TESTS_FORK=0`, everything is.
"""

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from children import listen

AT_IMPORT = (
    "PYTHON",
    "HF_",
    "HUGGING",
    "TRANSFORMERS",
    "TORCH",
    "OMP",
    "MKL",
    "OPENBLAS",
    "LD_",
    "XDG",
    "HOME",
    "CUDA",
)
PRELOADED = (
    *("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "openai", "pandas"),
    *("transformers.models.bert.modeling_bert", "labelfusion.modeling_labelfusion.modeling_labelfusion", "httpx"),
    *("labelfusion.saving", "labelfusion.hub_scripts.io.tables", "labelfusion.scoring.score_batch", "pyarrow.parquet"),
)
MAY_RUN = {"jemalloc_bg_thd"}  # Arrow's allocator knows what to do about its thread in a fork
PR_SET_CHILD_SUBREAPER = 36
_START = dict(os.environ)


def at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that may have been read by what is imported. `HF_HOME` is put in place after the fork."""
    return {k: v for k, v in environment.items() if k.startswith(AT_IMPORT) and k != "HF_HOME"}


def can_fork(command: Any, environment: Mapping[str, str]) -> bool:
    """Whether a fork does the same as this command."""
    return (
        sys.platform == "linux"
        and os.environ.get("LABELFUSION_TESTS_FORK") != "0"
        and _START.get("OMP_NUM_THREADS") == "1"  # a process with threads is not forked
        and isinstance(command, list)
        and command[0] == sys.executable
        and command[1] in ("-c", "-m")
        and at_import(environment) == at_import(_START)
    )


class ForkServer:
    """The process that is forked; it starts with the first order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.talk: socket.socket | None = None
        self.useless = False

    def is_ready(self) -> bool:
        """Whether it runs, started if need be. Not where an import fails or starts threads."""
        with self.lock:
            if self.talk is None and not self.useless:
                self.talk = self.start()
                self.useless = self.talk is None
            return self.talk is not None

    def start(self) -> socket.socket | None:
        """The socket for orders; None if it cannot be forked."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        nowhere = f"/nowhere/{os.urandom(8).hex()}"  # what has been made of it is found by it
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**_START, "HF_HOME": nowhere},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is not for it
        )
        atexit.register(server.kill)
        theirs.close()
        return ours if ours.recv(8) == b"ready" else None

    def fork(self, order: dict[str, Any], files: list[int]) -> int:
        """The process ID of a new child of this process, with these files as 0, 1 and 2."""
        assert self.talk is not None
        with self.lock:
            adopt = ctypes.CDLL(None).prctl
            adopt(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # a descendant whose parent ends becomes a child of this process
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
                self.talk.sendmsg([json.dumps(order).encode()], rights)
                return int(self.talk.recv(32))
            finally:
                adopt(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


_server = ForkServer()


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, of a fork where that is the same."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _, pass_fds, cwd, env, _, _, shell, *pipes = rest[:13]
        environment = dict(os.environ if env is None else env)
        usual = executable is None and preexec_fn in (None, listen) and not shell and not pass_fds
        if not usual or not can_fork(args, environment) or not _server.is_ready():
            super()._execute_child(args, executable, preexec_fn, *rest)  # type: ignore[misc]
            return
        order = {"args": args[1:], "env": environment, "cwd": os.path.abspath(cwd or ".")}
        ends = (pipes[0], pipes[3], pipes[5])  # of the child: to read, to write, for errors
        self.pid = _server.fork(order, [own if end == -1 else end for own, end in enumerate(ends)])
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    command: Any, *, capture_output: bool = False, check: bool = False, timeout: float | None = None, **options: Any
) -> "subprocess.CompletedProcess[Any]":
    """`subprocess.run`, of a fork where that is the same."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if capture_output else {}
    with Popen(command, **pipes, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _forked(talk: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Answer orders; returns in each fork, with its order."""
    while True:
        data, rights, _, _ = talk.recvmsg(1 << 20, 256)
        if not data:
            os._exit(0)
        files = list(array.array("i", rights[0][2]))
        told, tell = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child:
                os.write(tell, str(child).encode())
                os._exit(0)
            for end in (talk.detach(), told, tell):
                os.close(end)
            return json.loads(data), files
        os.waitpid(between, 0)
        talk.send(os.read(told, 32))
        for end in (told, tell, *files):
            os.close(end)


def _move_home(old: str, new: str) -> None:
    """Put the cache folder in place in all that has been made of it at import."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("huggingface_hub", "transformers", "datasets", "labelfusion")):
            for key, value in list(vars(module).items()):
                if isinstance(value, str | Path) and str(value).startswith(old):
                    setattr(module, key, type(value)(new + str(value)[len(old) :]))


def _become(order: dict[str, Any], files: list[int]) -> Callable[[], Any]:
    """Make this process that of the order. Returns: what runs its program."""
    for place, file in enumerate(files):
        os.dup2(file, place)
    for file in set(files) - {0, 1, 2}:
        os.close(file)
    os.chdir(order["cwd"])
    old = os.environ["HF_HOME"]
    os.environ.clear()
    os.environ.update(order["env"])
    caches = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    _move_home(old, os.environ.get("HF_HOME", os.path.join(caches, "huggingface")))
    how, what, *arguments = order["args"]
    sys.argv = [how, *arguments]
    if how == "-m":
        sys.path[0] = order["cwd"]
        return lambda: runpy.run_module(what, run_name="__main__", alter_sys=True)
    sys.path[0] = ""
    return lambda: exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))


if __name__ == "__main__":
    for _name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(_name)
    _talk = socket.socket(fileno=int(sys.argv[1]))
    _others = {(_task / "comm").read_text().strip() for _task in Path("/proc/self/task").iterdir()} - MAY_RUN
    _talk.send(b"threads" if _others - {Path("/proc/self/comm").read_text().strip()} else b"ready")
    gc.collect()
    gc.freeze()  # what a fork does not touch is not copied
    _program = _become(*_forked(_talk))
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
    _program()
