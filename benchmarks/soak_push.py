"""`labelfusion push` in the fault suite: a Hub that fails, connections that break in the middle of a file, signals."""

import shutil
import signal
from fnmatch import fnmatch
from typing import Any

from labelfusion.hub_scripts.publish.hub import IGNORED
from soak_checks import check_end
from soak_world import CANARIES, Kill, World

from hub_server import HubServer  # isort: skip

FAULTS = (429, 500, 503, "dropped", "unheard", "refused")
ROUNDS = 6
REPO = "me/news"


def push(world: World, quick: bool = False) -> None:
    """Push a model until the command says that it is there; then all of it must be, and nothing else."""
    rng, folder = world.rng, world.folder / "model"
    shutil.copytree(world.template / "model", folder)
    (folder / ".env").write_text(f"KEY={'x' * 20}")  # stays where it is
    (folder / "notes.txt").write_text("".join(rng.choices("abc \n", k=5000)))
    rate = rng.choice([0.1, 0.2, 0.3])
    with HubServer(token=f"hf_{CANARIES[0]}") as hub:

        def disturb(method: str, path: str) -> Any:
            fault = rng.choice(FAULTS) if rng.random() < rate else None
            if fault == "refused" and not path.endswith("/objects/batch"):
                fault = None
            if fault is not None:
                world.tally.fault(f"hub: {fault}")
            return fault

        hub.disturb = disturb
        command = ["push", str(folder), REPO, *(["--self-contained"] if rng.random() < 0.3 else [])]
        for number in range(ROUNDS + 1):
            if number == ROUNDS:
                hub.disturb = None
            kill = None
            if rng.random() < 0.4 and number < ROUNDS:
                kill = Kill(rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]), seconds=rng.uniform(2, 6))
            (ended,) = world.run(command, kills=[kill], HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
            check_end(world, ended)
            if ended.status == 0:
                break
        else:
            world.problem(f"nothing was pushed in {ROUNDS + 1} runs: {ended.err[-300:]}")
            return
        files = hub.repos[f"model:{REPO}"]["files"]
        for path in (p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            hidden = any(fnmatch(name, pattern) for pattern in IGNORED)
            if hidden == (name in files):
                world.problem(f"{name} is {'' if hidden else 'not '}in the repository")
            elif not hidden and "--self-contained" not in command and files[name] != path.read_bytes():
                world.problem(f"{name} in the repository is not the file that was pushed")
        if any(CANARIES[0].encode() in body for body in hub.bodies):
            world.tally.add(secrets=1)
            world.problem("a secret was sent to the Hub")
        world.tally.add(pushed=1)
