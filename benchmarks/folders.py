"""Folders on Ray workers: many rows while workers and the driver are killed; and two workers beside one.

    python benchmarks/folders.py --rows 2000000 --kill-every 60      # every row once, paid twice, memory
    python benchmarks/folders.py --speed 6000                        # one worker, then two: rows a second

The rows are texts of a data set, repeated with a number each. The LLM is the loopback server of the tests. The encoder
of the large run is tiny and random: the run is about rows. `--speed` takes all-MiniLM-L6-v2, without an LLM.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from llm_server import LLMServer

COMMAND = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "predict"]
CLASSES = ["World", "Sports", "Business", "Sci/Tech"]
FILE_ROWS = 250_000
JUST_S = 0.2  # an answer sent this long before a kill may not be stored yet


def write_rows(folder: Path, texts: list[str], rows: int) -> None:
    """Write Parquet files of `rows` distinct texts."""
    folder.mkdir()
    for start in range(0, rows, FILE_ROWS):
        ids = np.arange(start, min(rows, start + FILE_ROWS))
        numbered = [f"{texts[i % len(texts)]} no. {i}" for i in ids]
        pq.write_table(pa.table({"text": numbered, "id": ids}), folder / f"{start // FILE_ROWS:04}.parquet")


def make_model(folder: Path, texts: list[str], encoder: str, llm: Any = None) -> Path:
    """A saved model that was fitted on some of the texts with made-up labels."""
    from labelfusion import AutoFusionClassifier

    labels = np.random.default_rng(0).choice(CLASSES, 200).tolist()
    clf: Any = AutoFusionClassifier(encoder, llm, CLASSES, encoder_training="probe", max_length=64)
    clf.fit(texts[:200], labels)
    clf.save_pretrained(folder)
    return folder


def workers_of(driver: int) -> dict[int, float]:
    """Resident memory in MB of the driver's workers, by process."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,rss,args"], capture_output=True, text=True, check=True).stdout
    rows = [(int(a), int(b), int(c), d) for a, b, c, d in (line.split(None, 3) for line in found.splitlines()[1:])]
    mine = {driver}
    for _ in range(4):
        mine |= {pid for pid, parent, _, _ in rows if parent in mine}
    return {pid: rss / 1024 for pid, _, rss, text in rows if pid in mine and "ray::" in text and "JobActor" in text}


class Memory(threading.Thread):
    """Samples the memory of the workers every second: `(seconds, MB of the largest)`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver, self.samples, self.started = 0, [], time.monotonic()  # type: ignore[var-annotated]

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            sizes = workers_of(self.driver) if self.driver else {}
            if sizes:
                self.samples.append((time.monotonic() - self.started, max(sizes.values())))
            time.sleep(1.0)


def endure(args: argparse.Namespace, texts: list[str], folder: Path) -> dict[str, Any]:
    """Classify all rows while a worker dies every `kill_every` seconds and the driver once."""
    from reading import tiny_encoder

    write_rows(folder / "in", texts, args.rows)
    llm = {"model": "m", "method": "json", "price": [1.0, 4.0], "max_concurrency": 16}
    with LLMServer(labels=CLASSES, latency=0.02) as server:
        model = make_model(folder / "model", texts, tiny_encoder(folder / "encoder"), {**llm, "api_base": server.url})
        command = [*COMMAND, str(model), str(folder / "in"), str(folder / "out"), "--llm-policy", str(args.share)]
        command += ["--engine", "ray", "--workers", str(args.workers), "--store", str(folder / "scores.sqlite")]
        command += ["--partition-rows", str(args.partition_rows)]
        server.paid.clear()
        memory, killed, wire, driver_killed = Memory(), 0, 0, False
        memory.start()
        while True:
            process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                                       stdout=subprocess.PIPE)  # fmt: skip
            memory.driver, next_kill = process.pid, time.monotonic() + args.kill_every
            while process.poll() is None:
                time.sleep(0.5)
                asked = len(server.paid)
                if not driver_killed and asked >= args.share * args.rows / 2:
                    wire += server.in_flight + server.just_delivered(JUST_S)
                    process.kill()
                    driver_killed = True
                    process.wait()
                    time.sleep(5.0)  # its workers end
                elif time.monotonic() >= next_kill and (found := workers_of(process.pid)):
                    wire += server.in_flight + server.just_delivered(JUST_S)
                    os.kill(next(iter(found)), signal.SIGKILL)
                    killed, next_kill = killed + 1, time.monotonic() + args.kill_every
            if process.returncode != -signal.SIGKILL:
                break
        told = process.stdout.read() if process.stdout else ""
        if process.returncode:
            raise SystemExit(f"status {process.returncode}: {told}")
        twice = server.paid.total() - len(server.paid)
        paid = len(server.paid)
    out = pa.concat_tables(pq.read_table(path, columns=["id"]) for path in sorted((folder / "out").glob("*.parquet")))[
        "id"
    ].to_numpy()
    when, size = np.array(memory.samples).T
    part = np.minimum(4 * (when - when[0]) // (when[-1] - when[0]), 3)  # quarters of the run
    return {
        "rows in": args.rows,
        "rows out": len(out),
        "each once": bool(np.array_equal(np.sort(out), np.arange(args.rows))),
        "seconds": round(time.monotonic() - memory.started),
        "workers killed": killed,
        "driver killed": int(driver_killed),
        "questions paid": paid,
        "paid twice": twice,
        "on the wire at kills": wire,
        "MB of a worker, by quarter": [round(float(np.median(size[part == i]))) for i in range(4)],
        "MB of a worker, most": round(float(size.max())),
    }


def compare(args: argparse.Namespace, texts: list[str], folder: Path) -> dict[str, Any]:
    """Rows a second with one worker and with two, from the first finished partition to the last."""
    write_rows(folder / "in", texts, args.speed)
    model = make_model(folder / "model", texts, "embedded/all-minilm-l6-v2")
    rates = {}
    for workers in (1, 2):
        out = folder / f"out{workers}"
        command = [*COMMAND, str(model), str(folder / "in"), str(out), "--llm-policy", "never", "--engine", "ray"]
        command += ["--workers", str(workers), "--partition-rows", str(max(1, args.speed // 24))]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL)
        done = sorted((path.stat().st_mtime, pq.ParquetFile(path).metadata.num_rows) for path in out.glob("*.parquet"))
        skipped = 2 * workers  # the workers do not start at the same time
        rates[workers] = sum(rows for _, rows in done[skipped:]) / (done[-1][0] - done[skipped - 1][0])
    return {
        "rows": args.speed,
        **{f"rows/s, {workers} worker(s)": round(rate, 1) for workers, rate in rates.items()},
        "ratio": round(rates[2] / rates[1], 2),
    }


def main() -> None:
    """Run one of the two measurements and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--share", type=float, default=0.1, help="of the rows that are queried")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partition-rows", type=int, default=20_000)
    parser.add_argument("--kill-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--speed", type=int, metavar="ROWS", help="compare two workers with one instead")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "ag_news")
    args = parser.parse_args()
    texts = pd.read_parquet(args.data / "train.parquet", columns=["text"])["text"].tolist()
    with tempfile.TemporaryDirectory() as folder:
        found = (compare if args.speed else endure)(args, texts, Path(folder))
    print(f"load {os.getloadavg()[0]:.1f}\n{json.dumps(found, indent=1)}")


if __name__ == "__main__":
    main()
