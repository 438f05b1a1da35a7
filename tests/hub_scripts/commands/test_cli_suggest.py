"""`labelfusion suggest`: the files that it writes."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from labelfusion.hub_scripts.cli import main
from made_data import NAMES, frame

from labelfusion import AutoFusionClassifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    folder = tmp_path_factory.mktemp("suggest")
    AutoFusionClassifier(tiny_encoder_dir, "recorded", encoder_training="probe").fit(frame(40)).save_pretrained(
        folder / "model"
    )
    pool = frame(30, seed=4).drop(columns=["label", "llm_scores"])
    pool.assign(id=[f"r{i}" for i in range(30)]).to_csv(folder / "pool.csv", index=False)
    frame(10, seed=4).to_parquet(folder / "labelled.parquet")
    return folder


def _run(folder: Path, *arguments: str) -> int:
    return main(["suggest", str(folder / "model"), str(folder / "pool.csv"), *arguments])


def test_label_studio(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tasks.json"
    assert _run(folder, "--n", "5", "--output", str(out), "--labelled", str(folder / "labelled.parquet")) == 0
    assert "5 texts to label" in capsys.readouterr().out
    tasks = json.loads(out.read_text())
    pool = pd.read_csv(folder / "pool.csv")
    for task in tasks:
        row = task["meta"]["row"]
        assert row >= 10  # the first ten are labelled
        assert (task["data"]["text"], task["meta"]["id"]) == (pool.text[row], f"r{row}")
        assert task["predictions"][0]["result"][0]["value"]["choices"][0] in NAMES
    names = [choice.get("value") for choice in ET.parse(out.with_suffix(".xml")).iter("Choice")]
    assert names == NAMES
    assert _run(folder, "--output", str(out)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert _run(folder, "--output", str(out), "--overwrite", "--format", "argilla", "--n", "3") == 0
    assert [record["id"][0] for record in json.loads(out.read_text())] == ["r"] * 3
    settings = json.loads(out.with_suffix(".settings.json").read_text())
    assert [option["value"] for option in settings["questions"][0]["settings"]["options"]] == NAMES


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_to_fill_in(folder: Path, tmp_path: Path, suffix: str, tiny_encoder_dir: str) -> None:
    out = tmp_path / f"tasks.{suffix}"
    assert _run(folder, "--n", "12", "--output", str(out)) == 0
    table = pd.read_csv(out) if suffix == "csv" else pd.read_json(out, lines=True)
    assert list(table.columns) == ["id", "row", "text", "label", "suggested", "confidence", "score", "reasons"]
    table["label"] = table["suggested"]
    table.loc[0, "label"] = NAMES[0]
    table.loc[1, "label"] = NAMES[1]
    table.to_csv(tmp_path / "done.csv", index=False)
    clf = AutoFusionClassifier(tiny_encoder_dir, None, encoder_training="probe").fit(tmp_path / "done.csv")
    assert set(clf.classes_) <= set(NAMES)


def test_without_a_model(folder: Path, tmp_path: Path, tiny_encoder_dir: str) -> None:
    pool, out = str(folder / "pool.csv"), tmp_path / "first.json"
    start = ["suggest", pool, "--encoder", tiny_encoder_dir]
    assert main([*start, "--labels", "film,sport,tech", "--n", "6", "--output", str(out)]) == 0
    tasks = json.loads(out.read_text())
    assert len(tasks) == 6
    assert not any(task["predictions"] for task in tasks)
    assert main([*start, "--n", "6", "--output", str(tmp_path / "first.tsv")]) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "tasks.txt"], "ends in .json or .csv or .tsv or .jsonl"),
        (["--output", "tasks.csv", "--format", "argilla"], "ends in .json"),
        (["--output", "tasks.csv", "--labels", "a,b"], "`--labels` is for a choice without a model"),
        (["--output", "tasks.csv", "--n", "0"], "`--n` must be a positive integer"),
    ],
)
def test_mistakes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert _run(folder, arguments[0], str(tmp_path / arguments[1]), *arguments[2:]) == 2
    assert told in capsys.readouterr().err


def test_an_annotation_tool_needs_class_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_encoder_dir: str
) -> None:
    out = str(tmp_path / "first.json")
    assert main(["suggest", str(folder / "pool.csv"), "--encoder", tiny_encoder_dir, "--output", out]) == 2
    assert "`--labels` are missing" in capsys.readouterr().err
