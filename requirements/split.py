"""Write constraints.txt and the files beside this one from what `make lock` resolved.

`python requirements/split.py PINS LOCK WHEELS`: versions, versions with hashes, and a folder with CPU builds of torch.
"""

import hashlib
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEADER = "# Made by `make lock`: do not edit. CONTRIBUTING.md tells how these files belong together.\n"
TORCH = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")


def main(pins: Path, lock: Path, wheels: Path) -> None:
    """Write all four files."""
    blocks = [block for block in re.split(r"(?m)^(?=\S)", lock.read_text("utf-8")) if block.strip()]
    of_torch = [block for block in blocks if TORCH.match(block)]
    write(HERE / "lock.txt", [block for block in blocks if block not in of_torch])
    write(HERE / "torch.txt", of_torch)
    versions = pins.read_text("utf-8").splitlines(keepends=True)
    write(
        HERE.parent / "constraints.txt",
        [line for line in versions if line.startswith("torch==") or not TORCH.match(line)],
    )
    (version,) = [line.strip() for line in versions if line.startswith("torch==")]
    cpu, hashes = HERE / "torch-cpu.txt", set()
    if cpu.exists() and f"{version}+cpu" in cpu.read_text("utf-8"):
        hashes = set(re.findall(r"sha256:(\w+)", cpu.read_text("utf-8")))  # builds for other machines
    hashes |= {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.glob(f"{version.replace('==', '-')}+cpu-*")
    }
    write(cpu, [f"{version}+cpu", *(f" \\\n    --hash=sha256:{digest}" for digest in sorted(hashes)), "\n"])


def write(path: Path, parts: list[str]) -> None:
    """Write one file, with the header."""
    path.write_text(HEADER + "".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
