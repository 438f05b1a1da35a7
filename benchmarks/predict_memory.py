"""Peak memory and rate of `labelfusion predict` on Parquet files of 10,000 and 1,000,000 rows.

    python benchmarks/predict_memory.py [--data ../shared/data] [--rows 10000 1000000] [--speed fast]

The model is fitted on AG News, on the first layer of an encoder alone, so that a million rows take minutes: memory, not
speed, is measured. The texts are made of 20 words of AG News each, drawn at random, so that no two are equal. The
command is a process of its own; its peak is that of its resident memory. The table goes into `docs/performance.md`.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PAGE = Path(__file__).parent.parent / "docs/performance.md"
START, END = "<!-- A large file: benchmarks/predict_memory.py -->\n", "<!-- end of A large file -->\n"
WORDS, CHUNK = 20, 50_000  # words of a text; rows that are made and written at once
FIT = """
import sys
from labelfusion import AutoFusionClassifier
from labelfusion.scoring.local.embedded import resolve_model
from transformers import AutoModel, AutoTokenizer
train, encoder, folder = sys.argv[1:]
source, small = str(resolve_model(encoder)), folder + "-encoder"
AutoModel.from_pretrained(source, num_hidden_layers=1).save_pretrained(small)
AutoTokenizer.from_pretrained(source).save_pretrained(small)
AutoFusionClassifier(small, None, encoder_training="probe", progress=False).fit(train).save_pretrained(folder)
"""


def write_texts(path: Path, words: list[str], rows: int) -> None:
    """A Parquet file with a column `text`."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema([("id", pa.int64()), ("text", pa.string())])) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            drawn = np.asarray(words, dtype=object)[rng.integers(0, len(words), (count, WORDS))]
            texts = [" ".join(row) for row in drawn]
            writer.write_table(pa.table({"id": np.arange(start, start + count), "text": texts}))


def predicted(model: Path, source: Path, target: Path, speed: str) -> tuple[float, float]:
    """Seconds and peak memory in MB of the command."""
    for left in target.parent.glob(f"{target.name}*"):  # of a run that was stopped, its journal, too
        left.unlink()
    script = Path(sys.executable).with_name("labelfusion")
    command = [str(script), "predict", str(model), str(source), str(target), "--speed", speed]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    told = b""
    while process.poll() is None:
        told = ((process.stderr.read() or b"") + told)[-2000:]
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = int(status.split("VmHWM:")[1].split()[0])
        except (OSError, IndexError):  # it ends just now
            pass
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(told.decode(errors="replace"))
    if pq.read_metadata(target).num_rows != pq.read_metadata(source).num_rows:
        raise RuntimeError(f"{target} has not as many rows as {source}.")
    return time.perf_counter() - began, peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--speed", default="fast")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks/predict-memory"))
    args = parser.parse_args()
    if find_spec("labelfusion") is None:
        raise SystemExit("Install LabelFusion first: make install")
    args.cache.mkdir(parents=True, exist_ok=True)
    model, rows = args.cache / "model", args.data / "ag_news/train.parquet"
    table = pq.read_table(rows, columns=["text", "label"])
    if not model.exists():
        train = args.cache / "train.parquet"
        pq.write_table(table.slice(0, 2000), train)
        subprocess.run([sys.executable, "-c", FIT, str(train), args.encoder, str(model)], check=True)
    words = sorted({word for text in table["text"].to_pylist() for word in text.split()})
    lines, first = [], None
    for count in args.rows:
        source = args.cache / f"{count}.parquet"
        if not source.exists():
            write_texts(source, words, count)
        seconds, peak = predicted(model, source, args.cache / "answers.parquet", args.speed)
        first = first or peak
        lines.append(f"| {count:,} | {seconds:.0f} | {count / seconds:.0f} | {peak:.0f} | {peak / first:.2f} |")
        print(lines[-1], flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    text = [
        START + "## A large file",
        "",
        f"`python benchmarks/predict_memory.py`: `labelfusion predict --speed {args.speed}` of Parquet files with",
        f"{WORDS} words a text, all different, by a model on the first layer of `{Path(args.encoder).name}`,",
        f"which leaves the time to the rest; {threads} thread(s), load average {os.getloadavg()[2]:.1f}. Seconds with",
        "the start of the command; the peak is that of the resident memory. What would grow is memory that is free, in",
        "pieces: large tensors have memory of their own, and free memory goes back to the system when the process",
        "holds more than after its first batches (`configuration/freed_memory.py`).",
        "",
        "| rows | seconds | rows/s | peak, MB | of the first |",
        "| --: | --: | --: | --: | --: |",
        *lines,
    ]
    page = PAGE.read_text(encoding="utf-8")
    if START in page:
        page = page[: page.index(START)] + page[page.index(END) + len(END) :]
    PAGE.write_text(page.rstrip() + "\n\n" + "\n".join(text) + "\n" + END, encoding="utf-8")


if __name__ == "__main__":
    main()
