"""A fault suite: real commands against loopback servers that fail in every way, stopped and killed until they are done.

    python benchmarks/soak.py --minutes 20 --seed 0 [--write]

Prints the faults injected, texts and answers lost, what was paid twice, wrong scores, and dollars over the limits;
`--write` puts the figures into docs/reliability.md. Needs the `openai` extra; nothing leaves this machine.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import soak_scenarios
from soak_report import lines, write_report
from soak_world import CHILD, NAMES, Tally, World


def template(folder: Path) -> Path:
    """A folder with the tiny encoder and model of the scenarios."""
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, str(CHILD), "make", str(folder), ",".join(NAMES)], check=True, capture_output=True)
    return folder


def one(index: int, seed: int, tally: Tally, folder: Path, only: list[str], quick: bool, keep: bool) -> None:
    """Run the scenario number `index` of a seed."""
    rng = random.Random(f"{seed}:{index}")
    names = only or list(soak_scenarios.SCENARIOS)
    name = names[index % len(names)]
    if not quick:
        name = rng.choices(names, [soak_scenarios.SCENARIOS[n][1] for n in names])[0]
    began, before = time.monotonic(), sum(tally.faults.values())
    world = World(f"{index} {name}", folder / str(index), rng, tally, folder / "template")
    try:
        with world:
            soak_scenarios.run(world, name, quick)
    except Exception as error:  # of the suite itself
        where = traceback.extract_tb(error.__traceback__)[-1]
        world.problem(f"the suite failed in {where.name}, line {where.lineno}: {type(error).__name__}: {error}")
    tally.add(scenarios=1, runs=len(world.done), **{f"{name} scenarios": 1})
    with tally.lock:
        tally.wrongs += world.problems
        gained = sum(tally.faults.values()) - before
        taken = f"{time.monotonic() - began:.1f} s, {len(world.done)} runs, {gained} faults"
        print(f"{world.name}: {taken}. {world.what}", flush=True)
        for problem in world.problems:
            print(f"    NOT AS PROMISED: {problem}", flush=True)
    if not keep:
        shutil.rmtree(world.folder, ignore_errors=True)


def soak(
    minutes: float,
    seed: int = 0,
    jobs: int = 2,
    only: list[str] | None = None,
    count: int | None = None,
    first: int = 0,
    quick: bool = False,
    keep: Path | None = None,
) -> Tally:
    """Run scenarios until the time is over, or `count` of them, `jobs` at once."""
    tally, end = Tally(), time.monotonic() + 60 * minutes
    numbers = iter(range(first, first + (count or 1_000_000)))
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = keep or Path(name)
        if any(n not in ("score", "budget", "threads") for n in only or soak_scenarios.SCENARIOS):
            template(folder / "template")

        def work() -> None:
            while time.monotonic() < end:
                with tally.lock:
                    index = next(numbers, None)
                if index is None:
                    return
                one(index, seed, tally, folder, only or [], quick, keep is not None)

        threads = [threading.Thread(target=work) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=4, help="scenarios at once; most of their time is waiting")
    parser.add_argument("--only", action="append", choices=list(soak_scenarios.SCENARIOS), help="repeatable")
    parser.add_argument("--count", type=int, help="most scenarios")
    parser.add_argument("--first", type=int, default=0, help="number of the first scenario")
    parser.add_argument("--quick", action="store_true", help="few rows, and the scenarios in turn")
    parser.add_argument("--keep", type=Path, help="an empty folder that keeps the files of all scenarios")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    args = parser.parse_args()
    began = time.monotonic()
    tally = soak(args.minutes, args.seed, args.jobs, args.only, args.count, args.first, args.quick, args.keep)
    minutes = (time.monotonic() - began) / 60
    print("\n".join(lines(tally)))
    if args.write:
        write_report(tally, args.seed, minutes, args.jobs)
    return int(bool(tally.wrongs))


if __name__ == "__main__":
    sys.exit(main())
