"""Owners of the claims in the score store: which process makes which query."""

import os
import time
from functools import cache

CLAIM_S = 30.0  # a claim ends this long after its owner last extended it


def owner_name(part: int) -> str:
    """A name for one part of this process: the machine and its boot, the process and its start, the part."""
    pid = os.getpid()
    return f"{_machine()} {pid} {_started(pid)} {part}"


def holds(owner: str, expires: float) -> bool:
    """Whether a claim is valid: its time is not over, and its owner is not known to be dead."""
    now = time.time()
    if not isinstance(expires, int | float) or not now < expires < now + 2 * CLAIM_S:  # clocks are set back, too
        return False
    try:
        machine, pid, started, _ = str(owner).split()
        return "?" in (machine, _machine()) or machine != _machine() or _started(int(pid)) == started
    except ValueError:
        return False


@cache
def _machine() -> str:
    """Names the boot and, for containers, the process numbers' namespace; "?" where that is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return "?"


def _started(pid: int) -> str:
    """When a process was started, in ticks since the boot; "-" if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return "-"
    return "-" if state in (b"Z", b"X") else fields[18].decode()
