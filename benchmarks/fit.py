"""Fitting beside SetFit, AutoGluon and scikit-learn: accuracy, processor seconds and peak memory at 30 to 5,000 rows.

    python benchmarks/fit.py --data ../shared/data [--rows 100] [--ways default setfit] [--seeds 3]

Every fit is a process of its own, and the ways take turns. SetFit and AutoGluon run in environments of their own, which
the script makes under `--cache`. What is measured is kept there, one JSON line a fit, and a run that was stopped goes
on. The report is written to `docs/fit.md`.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import pandas as pd
from accuracy_data import metadata, origin
from fit_child import WAYS
from labelfusion.evaluation.statistics import wilson_interval
from labelfusion.scoring.local.embedded import resolve_model

TEST_SPLITS = {"trec6": "test", "ag_news": "validation"}
TESTED = 500
ROWS = (30, 100, 300, 1000, 5000)
CALLED = {
    "default": "LabelFusion, default",
    "frozen": "LabelFusion, frozen encoder",
    "setfit": "SetFit, default",
    "setfit, 500 steps": "SetFit, `max_steps=500`",
    "autogluon": "AutoGluon, `TabularPredictor`",
    "tf-idf": "TF-IDF and logistic regression",
}
PEERS = {
    "setfit": ("setfit==1.2.0", "transformers<5", "torch"),  # SetFit 1.2 does not import with Transformers 5
    "autogluon": ("autogluon.tabular[lightgbm,catboost,xgboost]==1.6.3",),  # words and n-grams; no encoder
}
PAGE = Path("docs/fit.md")


def peer_python(cache: Path, peer: str) -> Path:
    """The interpreter of a peer's environment."""
    folder = cache / peer
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        venv.create(folder, with_pip=True, clear=True)
        torch = subprocess.run(
            [sys.executable, "-c", "import torch; print(torch.__version__.split('+')[0])"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        wanted = [f"torch=={torch}" if name == "torch" else name for name in PEERS[peer]]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (folder / "done").touch()
    return python


def measure(args: argparse.Namespace, name: str, rows: int, seed: int, way: str) -> dict[str, Any]:
    """One fit; without `right` if it was stopped, with the processor time until then."""
    learn, test = (pd.read_parquet(args.data / name / f"{split}.parquet") for split in ("train", TEST_SPLITS[name]))
    learn = learn.sample(rows, random_state=seed)
    test = test.sample(min(TESTED, len(test)), random_state=0)
    task = {
        "way": way,
        "seed": seed,
        "encoder": args.encoder,
        "folder": str(resolve_model(args.encoder)),
        "limit_s": round(60 * args.minutes),
        "texts": learn["text"].tolist(),
        "labels": learn["label"].tolist(),
        "test_texts": test["text"].tolist(),
        "test_labels": test["label"].tolist(),
    }
    peer = way.split(",")[0]
    python = peer_python(args.cache, peer) if peer in PEERS else Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.json"
        path.write_text(json.dumps(task), encoding="utf-8")
        env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        command = [python, Path(__file__).with_name("fit_child.py"), path]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            child = subprocess.Popen(command, env=env, stdout=out, stderr=err)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            told, errors = out.read(), err.read()
    found = {"name": name, "rows": rows, "seed": seed, "way": way, "threads": args.threads, "minutes": args.minutes}
    if child.returncode == -signal.SIGXCPU:  # the limit of processor time
        return {**found, "stopped": True, "processor_s": 60 * args.minutes, "peak_mb": used.ru_maxrss / 1024}
    if child.returncode:
        raise RuntimeError(f"{way} at {rows} rows of {name}:\n{errors[-3000:]}")
    return {**found, **json.loads(told)}


def write(done: list[dict[str, Any]], path: Path, folder: Path) -> None:
    """One line for each data set, number of rows and way."""
    table = pd.DataFrame(done)
    versions: dict[str, dict[str, str]] = {}
    for r in done:
        peer = r["way"].split(",")[0]
        versions.setdefault(peer if peer in PEERS else "", {}).update(r.get("versions", {}))
    called = {"": "LabelFusion and scikit-learn", "setfit": "SetFit", "autogluon": "AutoGluon"}
    loads = table["load"].dropna()
    lines = [
        "# Fitting beside SetFit, AutoGluon and scikit-learn",
        "",
        f"Written by `python benchmarks/fit.py`. Encoder `all-minilm-l6-v2`, {done[0]['threads']} thread. No LLM. Each",
        "fit is a process of its own. *Processor s*: median of the fits, with loading the model, without predicting.",
        "*Peak*: of the resident memory of the process. *Accuracy*: over all draws of the training rows, with 95 %",
        f"intervals (Wilson) for the test rows. A fit stops after {done[0]['minutes']:g} minutes of the processor.",
        "*Of SetFit's*: processor time and peak as a ratio to SetFit with its defaults in the same row; `<`: SetFit",
        "was stopped, so the ratio is lower still.",
        "",
        f"{processor()}, {os.cpu_count()} cores; load average {loads.min():.1f} to {loads.max():.1f} (from other",
        "processes too, which raises wall times most, and processor times too).",
        " ".join(f"{called[peer]}: {listed(used)}." for peer, used in versions.items()),
        "",
        "| data set | rows | way | draws | accuracy | processor s | wall s | peak, MB | of SetFit's |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: | --- |",
    ]
    for (name, rows), group in table.groupby(["name", "rows"], sort=True):
        of_peer = group[group["way"] == "setfit"]
        peer, below = of_peer.median(numeric_only=True), "< " if of_peer["right"].isna().any() else ""
        for way in WAYS:
            runs = group[group["way"] == way]
            if runs.empty:
                continue
            if runs["right"].isna().any():
                spent, peak = runs["processor_s"].max(), runs["peak_mb"].max()
                cells = [name, rows, CALLED[way], len(runs), "stopped", f"> {spent:.0f}", "", f"> {peak:.0f}", ""]
                lines.append("| " + " | ".join(map(str, cells)) + " |")
                continue
            right, tested, middle = runs["right"].sum(), runs["tested"].sum(), runs.median(numeric_only=True)
            low, high = wilson_interval(int(right), int(tested))
            cells = [name, rows, CALLED[way], len(runs), f"{right / tested:.1%} ({low:.1%} to {high:.1%})"]
            cells += [f"{middle[c]:.0f}" if middle[c] >= 10 else f"{middle[c]:.1f}" for c in ("processor_s", "wall_s")]
            cells += [f"{middle['peak_mb']:.0f}"]
            shares = [middle[c] / peer.get(c, float("nan")) for c in ("processor_s", "peak_mb")]
            cells += ["" if pd.isna(shares[0]) else f"{below}{shares[0]:.2f}, {below}{shares[1]:.2f}"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    found = {(r["name"], r["rows"], r["way"]) for r in done}
    lines += ["", "Not measured here:", ""]
    for name in TEST_SPLITS:
        for way in WAYS:
            lacking = [f"{n:,}" for n in ROWS if (name, n, way) not in found]
            lines += [f"* {name}, {CALLED[way]}: {', '.join(lacking)} rows"] if lacking else []
    names = sorted(set(table["name"]))
    path.write_text(
        "\n".join([*lines, "", *(f"{name}: {origin(metadata(folder, name)['source'])}." for name in names)]) + "\n",
        encoding="utf-8",
    )


def listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def processor() -> str:
    """Its name, where Linux tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="+", choices=TEST_SPLITS, default=list(TEST_SPLITS))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=1, help="draws of the rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10, help="of processor time, after which a fit is stopped")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--output", type=Path, default=PAGE)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    log = args.cache.resolve() / "fit.jsonl"
    args.cache = args.cache.resolve()
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    seen = {(r["name"], r["rows"], r["seed"], r["way"]) for r in done}
    for seed in range(args.seeds):
        for rows in args.rows:
            for name in args.part:
                for way in args.ways:
                    if (name, rows, seed, way) in seen:
                        continue
                    done.append(measure(args, name, rows, seed, way))
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(done[-1]) + "\n")
                    print(done[-1], flush=True)
                    write(done, args.output, args.data)
    write(done, args.output, args.data)


if __name__ == "__main__":
    main()
