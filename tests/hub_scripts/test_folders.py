"""Runs over folders: every row once, each question paid once, the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from children import listen
from forked import Popen, run
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.folders.pieces import Piece, find_pieces, read_piece
from llm_server import LABELS, LLMServer

CLASSES = [f"class{i}" for i in range(3)]


def write_input(folder: Path, rows: int = 240) -> pd.DataFrame:
    """Files of every kind, in a subfolder too; `_x` and `.x` are not read."""
    frame = pd.DataFrame({"text": [f"a movie w{i % 10} number {i}" for i in range(rows)], "id": range(rows)})
    (folder / "b").mkdir(parents=True)
    (folder / "_old").mkdir()
    a, b, c = rows // 3, rows // 2, rows * 3 // 4
    frame[:a].to_parquet(folder / "a.parquet", row_group_size=17)
    frame[a:b].to_csv(folder / "b" / "part.csv", index=False)
    frame[b:c].to_json(folder / "c.jsonl", orient="records", lines=True)
    frame[c:].to_csv(folder / "d.tsv", sep="\t", index=False)
    frame[:3].to_parquet(folder / "_old" / "x.parquet")
    (folder / ".hidden.csv").write_text("text\nx\n")
    (folder / "README.md").write_text("notes")
    return frame


def read_output(folder: Path) -> pd.DataFrame:
    paths = sorted(path for path in folder.rglob("*.parquet") if "_labelfusion" not in path.parts)
    frame = pd.concat([pq.read_table(path).to_pandas() for path in paths], ignore_index=True)
    frame["id"] = frame["id"].astype(int)
    return frame


def llm(server: LLMServer, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "api_base": server.url, "method": "json", "max_concurrency": 8, "price": [1.0, 4.0], **fields}


def test_pieces_are_the_rows_of_the_files(tmp_path: Path) -> None:
    frame = write_input(tmp_path / "in")
    pieces = find_pieces(tmp_path / "in", tmp_path / "out", 35)
    tables = [read_piece(piece) for piece in pieces]
    assert all(len(table) == piece.rows <= 35 for table, piece in zip(tables, pieces, strict=True))
    assert [text for table in tables for text in table["text"].to_pylist()] == frame["text"].tolist()
    assert len({piece.target for piece in pieces}) == len(pieces) == 3 + 2 + 2 + 2
    with pytest.raises(ValueError, match="fewer rows"):
        read_piece(Piece(pieces[0].source, 70, 35, "x"))
    (tmp_path / "in" / "c.csv").write_text("text,id\nx,1\n")
    with pytest.raises(ValueError, match="differ in their endings"):
        find_pieces(tmp_path / "in", tmp_path / "out", 35)


@pytest.mark.parametrize("policy", ["always", "0.25"])
def test_predict_on_a_folder(
    tmp_path: Path, saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any, policy: str
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    frame = write_input(tmp_path / "in")
    with LLMServer(labels=CLASSES) as server:
        model = saved_model(llm_providers=[llm(server)])
        command = ["predict", str(model), str(tmp_path / "in"), str(tmp_path / "out"), "--partition-rows", "50"]
        command += ["--llm-policy", policy, "--with-sources", "--store", str(tmp_path / "scores.sqlite")]
        assert main(command) == 0
        told = capsys.readouterr().out
        assert "240 rows in, 240 rows out" in told
        out = read_output(tmp_path / "out")
        assert sorted(out["id"]) == frame["id"].tolist()
        asked = 240 if policy == "always" else 60
        assert server.paid.total() == asked == out["llm_called"].sum()
        assert not (tmp_path / "out" / "_labelfusion" / "encoded").exists()
        # The same texts in one file: the same answers.
        frame.to_parquet(tmp_path / "whole.parquet")
        if policy == "always":
            single = [*command[:2], str(tmp_path / "whole.parquet"), str(tmp_path / "whole-out.parquet"), *command[4:]]
            assert main(single) == 0
            whole = pd.read_parquet(tmp_path / "whole-out.parquet")
            both = whole.merge(out, on="id", suffixes=("", "_folder"))
            assert (both["predicted_label"] == both["predicted_label_folder"]).all()
            assert (both["score"] - both["score_folder"]).abs().max() < 2e-6
            assert server.paid.total() == asked
        # Once more: everything is there.
        before = server.requests
        assert main(command) == 0
        assert "7 of them from an earlier run" in capsys.readouterr().out
        assert server.requests == before
        # Other settings are refused, and a lost file alone is made again.
        assert main([*command, "--top-k", "2"]) == 2
        assert "other settings (top_k)" in capsys.readouterr().err
        lost = next((tmp_path / "out").glob("a-*.parquet"))
        kept = pq.read_table(lost).drop(["llm_called", "cost_usd"])
        lost.unlink()
        assert main(command) == 0
        assert pq.read_table(lost).drop(["llm_called", "cost_usd"]).num_rows == kept.num_rows
        assert server.paid.total() == asked
        assert main([*command, "--top-k", "2", "--overwrite"]) == 0
        assert "top_k" in read_output(tmp_path / "out")
        assert server.paid.total() == asked


def test_rows_without_an_answer_are_asked_again(tmp_path: Path, capsys: Any) -> None:
    write_input(tmp_path / "in", 24)
    with LLMServer() as server:
        command = ["score", str(tmp_path / "in"), str(tmp_path / "out"), "--llm", json.dumps(llm(server, timeout_s=5))]
        command += ["--labels", ",".join(LABELS), "--store", str(tmp_path / "s.sqlite"), "--partition-rows", "10"]
        hard = {f"a movie w{i % 10} number {i}" for i in (3, 4, 20)}
        server.special = lambda path, body, text: (409, {"error": {"message": "x"}}) if text in hard else None
        assert main(command) == 1
        told = capsys.readouterr()
        assert "3 rows may still get an answer" in told.err
        first = read_output(tmp_path / "out")
        assert sum(cell[0] is None for cell in first["llm_scores"]) == 3
        server.special, paid = None, server.paid.total()
        assert main(command) == 0
        assert server.paid.total() == paid + 3
        assert all(cell[0] is not None for cell in read_output(tmp_path / "out")["llm_scores"])
        assert main(command) == 0


def test_a_limit_in_dollars_holds_over_all_partitions_and_runs(
    tmp_path: Path, saved_model: Callable[..., Path], capsys: Any
) -> None:
    write_input(tmp_path / "in", 120)
    with LLMServer(labels=CLASSES, thinks=lambda text: 50) as server:
        model = saved_model(llm_providers=[llm(server)])
        command = ["predict", str(model), str(tmp_path / "in"), str(tmp_path / "out"), "--partition-rows", "20"]
        command += ["--store", str(tmp_path / "s.sqlite"), "--max-cost-usd", "0.02"]
        assert main(command) == 0
        spent, one = server.billed(1.0, 4.0)
        assert 0.015 < spent <= 0.02 + one
        next((tmp_path / "out").glob("d-*.parquet")).unlink()
        assert main(command) == 0
        assert server.billed(1.0, 4.0)[0] <= 0.02 + one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--partition-rows", "0"], "`--partition-rows` must be positive"),
        (["--workers", "2"], "of `--engine ray`"),
        (["--llm-policy", "never", "--text-column", "body"], "no column 'body'"),
    ],
)
def test_what_cannot_be_right_is_said(
    tmp_path: Path, saved_model: Callable[..., Path], capsys: Any, change: list[str], message: str
) -> None:
    write_input(tmp_path / "in", 12)
    assert main(["predict", str(saved_model()), str(tmp_path / "in"), str(tmp_path / "out"), *change]) == 2
    assert message in capsys.readouterr().err
    assert main(["predict", str(saved_model()), str(tmp_path / "in"), str(tmp_path / "in" / "out")]) == 2
    assert "within IN" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(saved_model()), str(tmp_path / "empty"), str(tmp_path / "out")]) == 2
    assert "holds no data files" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["always", "0.5"])
def test_kills_cost_no_row_and_pay_twice_at_most_what_was_on_the_wire(
    tmp_path: Path, saved_model: Callable[..., Path], policy: str
) -> None:
    frame = write_input(tmp_path / "in", 400)
    with LLMServer(labels=CLASSES, latency=0.05) as server:
        model = saved_model(llm_providers=[llm(server)])
        command = [sys.executable, "-m", "labelfusion.hub_scripts.cli", "predict", str(model)]
        command += [str(tmp_path / "in"), str(tmp_path / "out"), "--partition-rows", "40", "--llm-policy", policy]
        command += ["--store", str(tmp_path / "scores.sqlite")]
        env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
        wire = 0
        for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            seen = server.requests
            process = Popen(command, env=env, stderr=subprocess.DEVNULL, preexec_fn=listen)
            while server.requests < seen + 45:
                assert process.poll() is None
                time.sleep(0.005)
            if kill == signal.SIGKILL:
                wire += server.in_flight + server.just_delivered(0.1)
            process.send_signal(kill)
            assert process.wait(60) in (-kill, 128 + kill)
            wire += server.in_flight if kill == signal.SIGKILL else 0
            while server.in_flight:
                time.sleep(0.01)
        done = run(command, env=env, capture_output=True, text=True, preexec_fn=listen)
        assert done.returncode == 0, done.stderr
    out = read_output(tmp_path / "out")
    assert sorted(out["id"]) == frame["id"].tolist()
    assert len(server.paid) == (400 if policy == "always" else 200)
    assert sum(count - 1 for count in server.paid.values()) <= wire
    assert not [path for path in (tmp_path / "out").rglob("*.tmp")]
