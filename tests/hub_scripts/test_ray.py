"""Ray: the same answers as in one process, one limit for all workers, and workers that die."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from children import listen
from forked import Popen, run
from labelfusion.hub_scripts.cli import main
from labelfusion.pipelines.partitions.partition import PredictWork
from labelfusion.pipelines.partitions.ray_data import classify_dataset
from labelfusion.pipelines.partitions.ray_leases import Lender
from llm_server import LLMServer

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
pytest.importorskip("ray.data", reason="Ray Data is not installed (the extra ray)")

CLASSES = [f"class{i}" for i in range(3)]


def llm(server: LLMServer, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "api_base": server.url, "method": "json", "max_concurrency": 8, "price": [1.0, 4.0], **fields}


def write_input(folder: Path, rows: int) -> pd.DataFrame:
    folder.mkdir()
    frame = pd.DataFrame({"text": [f"a movie w{i % 10} number {i}" for i in range(rows)], "id": range(rows)})
    for part in range(4):
        frame[part::4].to_parquet(folder / f"{part}.parquet")
    return frame


def read_output(folder: Path) -> pd.DataFrame:
    paths = sorted(path for path in folder.rglob("*.parquet") if "_labelfusion" not in path.parts)
    frame = pd.concat([pq.read_table(path).to_pandas() for path in paths], ignore_index=True)
    return frame.sort_values("id", ignore_index=True)


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", **TOKEN}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster.

    It and all that uses it are processes of their own: Ray ends a process whose cluster is lost, and pytest with it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--port", str(port), "--num-cpus", "2", "--object-store-memory", "100000000"]
    command += ["--include-dashboard", "false"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 120
        while not (found := re.search(r"--address='([^']+)'", told := text_of(log))):
            assert process.poll() is None, told
            assert time.monotonic() < end, told
            time.sleep(0.1)
        yield found[1]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def text_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def on_ray(
    cluster: str, command: list[str], cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command of `labelfusion` on the cluster, whose workers start in another folder."""
    command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", *command, "--engine", "ray", "--address", cluster]
    return run(
        command,
        env=ENVIRONMENT | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        preexec_fn=listen,
        check=False,
    )


def test_the_lender_leases_no_more_than_there_is() -> None:
    lender = Lender(1.0)
    assert lender.lease("a", 0.0, 0.0, 0.001) == pytest.approx(0.01)  # a hundredth at least
    assert lender.lease("b", 0.0, 0.0, 0.95) == pytest.approx(0.95)
    assert lender.lease("a", 0.01, 0.01, 0.5) == pytest.approx(0.04)
    assert lender.lease("a", 0.05, 0.06, 0.5) == 0.0  # one request more than leased
    assert lender.committed() == pytest.approx(1.01)
    lender.lease("b", 0.2, 0.2, 0.0)  # gives back
    assert lender.lease("c", 0.0, 0.0, 5.0) == pytest.approx(1.0 - 0.06 - 0.2)
    waits = [lender.turn("requests", 600.0, 1.0) for _ in range(5)]
    assert waits == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=0.05)
    assert lender.turn("tokens", 600.0, 1.0) == 0.0


def on_both(cluster: str, tmp_path: Path, command: list[str], capsys: Any, rows: int) -> pd.DataFrame:
    """What Ray and one process answer to the same command, which is the same."""
    found = {}
    for engine in ("ray", "local"):
        here = [*command[:3], str(tmp_path / engine), *command[3:], "--store", str(tmp_path / "s.sqlite")]
        if engine == "ray":
            done = on_ray(cluster, [*here, "--workers", "2"])
            assert done.returncode == 0, done.stderr
            told = done.stdout
        else:
            assert main(here) == 0
            told = capsys.readouterr().out
        assert f"{rows} rows in, {rows} rows out" in told
        found[engine] = read_output(tmp_path / engine)
    pd.testing.assert_frame_equal(found["ray"], found["local"])
    return found["ray"]


@pytest.mark.slow
def test_a_share_gives_the_same_answers_as_in_one_process_and_a_wrong_row_is_named(
    cluster: str, tmp_path: Path, saved_model: Callable[..., Path], capsys: Any
) -> None:
    frame = write_input(tmp_path / "in", 80)
    pd.DataFrame({"text": ["x", None], "id": [80, 81]}).to_parquet(tmp_path / "in" / "4.parquet")
    with LLMServer(labels=CLASSES) as server:
        command = ["predict", str(saved_model(llm_providers=[llm(server)])), str(tmp_path / "in")]
        command += ["--partition-rows", "15", "--top-k", "3", "--llm-policy", "0.3"]
        done = on_ray(cluster, [*command[:3], str(tmp_path / "out"), *command[3:]])
        assert done.returncode == 2
        assert "4.parquet, rows 0 to 1: Input 1 has no text" in done.stderr
        both = on_both(cluster, tmp_path, [*command, "--empty-texts", "skip"], capsys, 82)
        assert server.paid.total() == 24  # of the 81 texts
    assert both["id"].tolist() == [*frame["id"], 80, 81]
    assert both["predicted_label"].isna().tolist() == [False] * 81 + [True]


@pytest.mark.slow
def test_the_same_answers_as_in_one_process_at_one_rate_for_all_workers(
    cluster: str, tmp_path: Path, saved_model: Callable[..., Path], capsys: Any
) -> None:
    frame = write_input(tmp_path / "in", 60)
    with LLMServer(labels=CLASSES) as server:
        model = saved_model(llm_providers=[llm(server, requests_per_minute=600)])
        command = ["predict", str(model), str(tmp_path / "in"), "--partition-rows", "15", "--llm-policy", "always"]
        both = on_both(cluster, tmp_path, [*command, "--top-k", "3"], capsys, 60)
        times = sorted(server.times)
        assert len(times) == server.paid.total() == 60
        assert times[-1] - times[0] > 3.6  # ten a second, both workers together; 3 s if each had its own ten
    assert both["id"].tolist() == frame["id"].tolist()


@pytest.mark.slow
def test_one_limit_for_all_workers_and_relative_paths(
    cluster: str, tmp_path: Path, saved_model: Callable[..., Path]
) -> None:
    write_input(tmp_path / "in", 200)
    with LLMServer(labels=CLASSES, thinks=lambda text: 50) as server:
        model = saved_model(llm_providers=[llm(server)])
        command = ["predict", os.path.relpath(model, tmp_path), "in", "out", "--partition-rows", "20"]
        command += ["--store", "s.sqlite", "--max-cost-usd", "0.03"]
        done = on_ray(cluster, command, tmp_path)
        assert done.returncode == 0, done.stderr
        spent, one = server.billed(1.0, 4.0)
        assert 0.02 < spent <= 0.03 + 2 * one
        journal = (tmp_path / "out" / "_labelfusion" / "journal.jsonl").read_text().splitlines()
        noted = [json.loads(line)["spent"] for line in journal if "spent" in json.loads(line)][-1]
        assert noted == pytest.approx(spent, abs=2 * one)
        assert "an answer is missing for" in done.stdout
        next((tmp_path / "out").glob("1-*.parquet")).unlink()
        assert on_ray(cluster, command, tmp_path).returncode == 0  # the limit holds over all runs
        assert server.billed(1.0, 4.0)[0] <= 0.03 + 4 * one


ANY_SOURCE = """
import sys
import ray
from labelfusion.pipelines.partitions.partition import PredictWork
from labelfusion.pipelines.partitions.ray_data import classify_dataset
address, model, store, source, out = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
dataset = ray.data.read_csv(source)
work = PredictWork(model, scoring={"store": store}, device="cpu")
classify_dataset(dataset, work, workers=1, table_rows=20).write_json(out)
"""


@pytest.mark.slow
def test_any_source_and_sink(cluster: str, tmp_path: Path, saved_model: Callable[..., Path]) -> None:
    texts = [f"a movie w{i}" for i in range(50)]
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts)))
    with LLMServer(labels=CLASSES) as server:
        model = saved_model(llm_providers=[llm(server)])
        places = [str(model), str(tmp_path / "s.sqlite"), str(tmp_path / "in.csv"), str(tmp_path / "out")]
        done = run(
            [sys.executable, "-c", ANY_SOURCE, cluster, *places],
            env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert server.paid.total() == 50
    rows = [json.loads(line) for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == list(range(50))
    assert {row["predicted_label"] for row in rows} <= set(CLASSES)


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_says_so(cluster: str, tmp_path: Path, saved_model: Callable[..., Path]) -> None:
    write_input(tmp_path / "in", 4)
    command = ["predict", str(saved_model()), str(tmp_path / "in"), str(tmp_path / "out"), "--llm-policy", "never"]
    done = on_ray(cluster, command, RAY_AUTH_MODE="disabled")
    assert done.returncode == 2
    assert "for want of its token" in done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert TOKEN["RAY_AUTH_TOKEN"] not in done.stderr


def test_a_share_takes_two_passes() -> None:
    with pytest.raises(ValueError, match="takes two passes"):
        classify_dataset(None, PredictWork("x", routing={"llm_policy": 0.2}))


@pytest.mark.slow
def test_a_dead_worker_and_a_dead_driver_cost_no_row(tmp_path: Path, saved_model: Callable[..., Path]) -> None:
    frame = write_input(tmp_path / "in", 240)
    with LLMServer(labels=CLASSES, latency=0.3) as server:
        model = saved_model(llm_providers=[llm(server)])
        command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "predict", str(model), str(tmp_path / "in")]
        command += [str(tmp_path / "out"), "--partition-rows", "30", "--store", str(tmp_path / "s.sqlite")]
        command += ["--engine", "ray", "--workers", "2"]
        env = {**ENVIRONMENT, "HF_HOME": str(tmp_path / "hf")}
        wire = 0

        def workers() -> list[int]:
            found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()
            mine = {process.pid}
            rows = [(int(a), int(b), c) for a, b, c in (line.split(None, 2) for line in found[1:])]
            for _ in range(4):
                mine |= {pid for pid, parent, _ in rows if parent in mine}
            return [pid for pid, _, text in rows if pid in mine and "ray::" in text and "JobActor" in text]

        def wait_for(requests: int) -> None:
            end = time.monotonic() + 120
            while server.requests < requests:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)

        process = Popen(command, env=env, stderr=subprocess.DEVNULL, preexec_fn=listen)
        wait_for(40)
        wire += server.in_flight + server.just_delivered(0.2)
        os.kill(workers()[0], signal.SIGKILL)
        wait_for(server.requests + 60)
        wire += server.in_flight + server.just_delivered(0.2)
        process.kill()  # the driver
        process.wait()
        time.sleep(3.0)  # its workers end
        wire += server.in_flight
        done = run(command, env=env, capture_output=True, text=True, timeout=250, preexec_fn=listen)
        assert done.returncode == 0, done.stderr
        assert "240 rows in, 240 rows out" in done.stdout
        assert len(server.paid) == 240
        assert server.paid.total() - 240 <= wire
    assert read_output(tmp_path / "out")["id"].tolist() == frame["id"].tolist()
