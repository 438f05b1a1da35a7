"""Scored once, pushed, loaded by somebody else: nobody pays twice, and no score changes its class."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hub_server import HubServer, point_client_at
from huggingface_hub import DatasetCard
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.publish.data_repository import hub_features
from llm_server import LLMServer, truth
from plain import run_python

LABELS = ["World", "Sports", "Business"]  # not sorted
WORDS = {"World": "war", "Sports": "team", "Business": "bank"}
TEXTS = [f"the {WORDS[LABELS[i % 3]]} is w{i % 10} w{i // 10}" for i in range(36)]

# What somebody else does, who has neither a key nor the files.
PROGRAM = """
import json, sys
from datasets import load_dataset
from labelfusion import AutoFusionClassifier
from labelfusion.hub_scripts.cli import main

found = {}
for name in REPOS:
    data = load_dataset(name, split="train")
    found[name] = [str(data.features["label"]), data[:]]
name = REPOS[0]
clf = AutoFusionClassifier(ENCODER, llm="recorded", encoder_training="probe", device="cpu")
for key, data in (("data set", load_dataset(name, split="train")), ("id", name)):
    clf.fit(data)
    said = clf.predict_sources([TEXT], llm_scores=[SCORES])
    found[key] = [clf.classes_.tolist(), clf.report_["scored_rows"], said.probabilities.tolist()]
found["train"] = main(["train", name, "--encoder", ENCODER, "--encoder-training", "probe", "--output-dir", "model"])
found["config"] = json.load(open("model/config.json"))
found["card"] = open("model/README.md").read()
print("RESULTS", json.dumps(found))
"""


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`scored(name)`: what `labelfusion score` writes of `TEXTS` under that name."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    data = Dataset.from_dict({"text": TEXTS, "label": [i % 3 for i in range(36)]}, features=features)
    data.to_parquet(str(tmp_path / "in.parquet"))
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def score(name: str) -> Path:
        with LLMServer(labels=LABELS) as server:
            base = ["--llm", "m", "--api-base", server.url, "--method", "json"]
            assert main(["score", str(tmp_path / "in.parquet"), str(tmp_path / name), *base, "--no-cache"]) == 0
        return tmp_path / name

    return score


def test_nobody_pays_twice(
    scored: Callable[..., Path], tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["folder", "file.csv", "file.jsonl"]
    repos = [f"me/{name.replace('.', '-')}" for name in names]
    with HubServer() as hub:
        for name in [n for n in os.environ if n.startswith(("HF_HUB", "HF_TOKEN", "HUGGING"))]:
            monkeypatch.delenv(name)
        point_client_at(hub.url, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        for name, repo in zip(names, repos, strict=True):
            assert main(["push", str(scored(name)), repo]) == 0
            files = hub.repos[f"dataset:{repo}"]["files"]
            (data,) = set(files) - {"README.md"}
            assert data.endswith(".parquet")
            assert DatasetCard(files["README.md"].decode()).data.to_dict()["configs"][0]["data_files"] == data
        (tmp_path / "home").mkdir()
        known = {"REPOS": repos, "ENCODER": tiny_encoder_dir, "TEXT": TEXTS[0], "SCORES": [[0.01, 0.01, 0.98]]}
        program = "".join(f"{k} = {v!r}\n" for k, v in known.items()) + PROGRAM
        done = run_python(program, tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token, HF_HUB_DISABLE_XET="1")
    assert "RESULTS" in done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout.partition("RESULTS")[2])
    for repo in repos:
        feature, columns = found[repo]
        assert feature == f"ClassLabel(names={LABELS})", repo
        assert columns["label"] == [i % 3 for i in range(36)]
        for text, scores in zip(columns["text"], columns["llm_scores"], strict=True):
            assert scores[0] == pytest.approx(truth(text, LABELS), abs=1e-5)
    for key in ("data set", "id"):
        classes, rows, _ = found[key]
        assert classes == LABELS
        assert rows == 36
    assert found["data set"] == found["id"]
    assert found["train"] == 0
    assert list(found["config"]["id2label"].values()) == LABELS
    assert found["config"]["fusion_report"]["scored_rows"] == 36
    assert "36 rows of me/folder" in found["card"]
    assert "- me/folder" in found["card"].partition("# ")[0]  # the data set in the card's metadata


def parquet(path: Path, columns: dict[str, list[Any]], names: list[str]) -> Features:
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {b"labelfusion": json.dumps({"labels": names}).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return hub_features(path)


def test_classes_are_declared_where_the_labels_are_their_names(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    several = parquet(path, {"text": ["a", "b"], "labels": [["x"], []]}, ["y", "x"])["labels"]
    assert several.feature.names == ["y", "x"]
    assert parquet(path, {"label": ["x", None]}, ["y", "x"])["label"].names == ["y", "x"]
    assert parquet(path, {"label": [1, 0]}, ["y", "x"])["label"].names == ["y", "x"]
    for columns in ({"label": ["x", "z"]}, {"label": [1, 2]}, {"labels": [[0, 1]]}, {"label": [None]}):
        (feature,) = parquet(path, columns, ["y", "x"]).values()
        assert "ClassLabel" not in str(feature)
    assert "ClassLabel" not in str(parquet(path, {"label": [1, 0]}, ["1", "0"]))  # names or indices?
