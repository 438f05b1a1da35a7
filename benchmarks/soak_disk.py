"""Disk faults of the fault suite: a full disk, a locked store, files that a dying process left half written."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from soak_checks import check_end, stored
from soak_world import CHILD, Done, World


def fill_up(
    world: World, command: list[str], check: Callable[[list[Done]], None], texts: list[str], concurrency: int
) -> None:
    """Run a command whose files may not grow beyond a few answers. What is paid then finds no room."""
    world.tally.fault("full disk")
    size = world.rng.randint(40, 120) * 1024

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    before = len(world.server.ledger)
    done = world.run(command, before=limit)
    for ended in done:
        check_end(world, ended)
        warnings = ended.err.count("cannot be written")
        if warnings > 1:
            world.problem(f"{warnings} warnings for one full disk")
    mine = world.server.ledger[before:]
    kept = stored(world, texts) or set()
    homeless = {one for one in mine if one.delivered and not {(one.model, text) for text in one.texts} <= kept}
    world.wire |= homeless  # nobody can keep them
    world.tally.add(no_room=len(homeless))
    world.tally.peak("answers paid after the disk was full", len(homeless))
    most = int(concurrency * 2.5) + 5
    if len(homeless) > most:
        world.problem(f"{len(homeless)} answers were paid when there was no room for them; {most} may be on their way")
    check(done)


def hold_lock(world: World, command: list[str], check: Callable[[list[Done]], None]) -> None:
    """Run a command while another process has the store locked for a while."""
    world.tally.fault("locked store")

    def during() -> None:
        for _ in range(100):
            if world.store.exists() and world.server.requests > 5:
                break
            world.pause(0.1)
        seconds = world.rng.uniform(0.5, 3.0)
        arguments = [sys.executable, str(CHILD), "lock", str(world.store), str(seconds)]
        subprocess.run(arguments, env=world.env("none"), capture_output=True, timeout=60)

    done = world.run(command, during=during)
    for ended in done:
        check_end(world, ended)
    check(done)


def disturb(world: World, outs: list[Path]) -> None:
    """Between two runs: a journal that breaks off, an output and a temporary file that are half written."""
    for out in outs:
        journal = out.with_name(out.name + ".journal")
        kind = world.rng.choice(["journal", "temporary", "nothing"])
        if kind == "journal" and journal.exists():
            world.tally.fault("journal cut off")
            content = journal.read_bytes()
            last = content.rstrip(b"\n").rfind(b"\n") + 1  # the last line is what a crash can leave unfinished
            journal.write_bytes(content[: world.rng.randint(last, len(content))])
        if kind == "temporary":
            world.tally.fault("output half written")
            out.with_name(out.name + ".tmp").write_bytes(b"id,te")
