"""What questions buy: the curve of accuracy against cost and latency, measured and written."""

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from labelfusion.evaluation.tradeoff_curve import Expense, tradeoff_curve
from labelfusion.hub_scripts.cli import main
from llm_server import LLMServer

from labelfusion import AutoFusionClassifier, LLMProvider

CLASSES = {"sport": "team game goal player match", "money": "bank stock price trade market"}


def rows(n: int, seed: int, scores: bool = True) -> pd.DataFrame:
    """Texts whose words mostly tell their class, and an LLM that is right about nine in ten."""
    rng, names = np.random.default_rng(seed), list(CLASSES)
    found = []
    for i in range(n):
        k = int(rng.integers(2))
        words = [rng.choice(CLASSES[names[k if rng.random() < 0.7 else 1 - k]].split()) for _ in range(4)]
        said = k if rng.random() < 0.9 else 1 - k
        row: dict[str, Any] = {"text": f"{' '.join(words)} w{i % 10} w{i // 10 % 10}", "label": names[k]}
        found.append({**row, "llm_scores": [np.eye(2)[said].tolist()]} if scores else row)
    return pd.DataFrame(found)


def curve(n: int = 1000, **kwargs: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    doubt = rng.random(n)
    encoder, fused = rng.random(n) > 0.5 * doubt, rng.random(n) > 0.05
    expense = Expense(**{"cost_usd": np.full(n, 0.002), **kwargs})
    return tradeoff_curve(doubt, encoder, fused, expense, num_resamples=200)


def test_the_curve_goes_from_the_encoder_alone_to_always() -> None:
    found = curve(encoder_s=np.array([0.01]), llm_s=np.array([0.5, 1.0]))
    assert [p["share"] for p in found["curve"]] == pytest.approx(np.linspace(0, 1, 21))
    assert found["points"]["encoder only"] == found["curve"][0]
    assert found["points"]["always"]["usd_per_1000"] == pytest.approx(2.0)
    assert found["curve"][6]["usd_per_1000"] == pytest.approx(0.6)
    assert all(p["low"] <= p["accuracy"] <= p["high"] for p in found["curve"])
    assert found["random"][10]["accuracy"] == pytest.approx(
        (found["curve"][0]["accuracy"] + found["curve"][-1]["accuracy"]) / 2
    )
    assert found["curve"][6]["accuracy"] > found["random"][6]["accuracy"] + 0.02
    assert found["area"] > 0.02


def test_latency_is_that_of_a_mixture_and_of_both_together_at_the_end() -> None:
    found = curve(encoder_s=np.array([0.01]), llm_s=np.array([1.0]))
    assert found["curve"][0]["p95_s"] == pytest.approx(0.01)
    assert (found["curve"][6]["p50_s"], found["curve"][6]["p95_s"]) == pytest.approx((0.01, 1.01))
    assert found["curve"][-1]["p50_s"] == pytest.approx(1.0)  # encoder and LLM start together
    unknown = curve(encoder_s=np.array([0.01]), llm_s=None, cost_usd=None)
    assert unknown["curve"][0]["p50_s"] == pytest.approx(0.01)
    assert unknown["curve"][6]["p50_s"] is None
    assert unknown["curve"][6]["usd_per_1000"] is None
    assert unknown["points"]["encoder only"]["usd_per_1000"] == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    """A trained model, and data to measure it on."""
    path = tmp_path_factory.mktemp("tradeoff")
    rows(150, 0).to_json(path / "train.jsonl", orient="records", lines=True)
    rows(80, 1).to_json(path / "test.jsonl", orient="records", lines=True)
    options = ["--encoder", tiny_encoder_dir, "--encoder-training", "probe"]
    assert main(["train", str(path / "train.jsonl"), "--output-dir", str(path / "model"), *options]) == 0
    return path


def test_the_command_writes_the_curve_and_the_card_shows_it(folder: Path, capsys: Any) -> None:
    arguments = ["evaluate", str(folder / "model"), str(folder / "test.jsonl"), "--tradeoff", "--llm-policy", "0.3"]
    assert main([*arguments, "--max-risk", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "| policy 0.3 | 30.0% |" in out.replace("\\", "")
    assert "Guaranteed: wrong answers to 20.0% of the texts at most" in out
    evaluation = folder / "model" / "evaluation"
    with (evaluation / "tradeoff.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert sum(row["point"] == "curve" for row in table) == 21
    assert {"encoder only", "always", "policy 0.3", "random"} <= {row["point"] for row in table}
    assert (evaluation / "tradeoff.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((evaluation / "report.json").read_text())
    assert report["risk"]["wrong_answers"] <= 0.35
    clf = AutoFusionClassifier.from_pretrained(folder / "model")
    test = rows(80, 1)
    for name, policy in (("encoder only", "never"), ("always", "always"), ("policy 0.3", 0.3)):
        measured = clf.evaluate(test, llm_policy=policy)["fusion"]["accuracy"]
        (row,) = (row for row in table if row["point"] == name)
        assert float(row["accuracy"]) == pytest.approx(measured)
    card = (folder / "model" / "README.md").read_text()
    assert "evaluation/tradeoff.png" in card
    assert "policy 0.3" in card


def test_in_python_with_an_llm_that_takes_its_time(folder: Path) -> None:
    asked: list[str] = []

    def llm(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        time.sleep(0.05)
        return np.tile([0.3, 0.7], (len(texts), 1))

    clf = AutoFusionClassifier.from_pretrained(folder / "model", llm=llm)
    test = rows(40, 2, scores=False).drop_duplicates("text")
    found = clf.tradeoff(test, llm_policy="auto", latency_rows=5)
    assert sorted(asked) == sorted(test["text"])  # each once: those that were timed as well
    assert found["latency_rows"] == 5
    assert found["points"]["always"]["p50_s"] >= 0.05
    assert found["points"]["encoder only"]["p50_s"] > 0
    assert clf.model_.config.providers[0].method != "recorded" or clf.model_.config.providers[0].model == "recorded"
    assert "policy auto" in found["points"]


def test_a_model_without_llms_has_no_trade_off(tiny_encoder_dir: str) -> None:
    clf = AutoFusionClassifier(encoder=tiny_encoder_dir, llm=None, encoder_training="probe").fit(rows(60, 0, False))
    with pytest.raises(ValueError, match="made without LLMs"):
        clf.tradeoff(rows(20, 1, False))
    risk = clf.evaluate(rows(200, 3, False), max_risk=0.2)["risk"]  # but promises can be made for the encoder alone
    assert risk["wrong_answers"] <= 0.3
    assert risk["answered"] < 1
    held_back = clf.predict(rows(50, 4, False), max_risk=0.1)
    assert None in held_back
    assert set(held_back) <= {None, "sport", "money"}
    sets = clf.predict_sets(rows(50, 4, False), max_risk=0.1)
    assert all(set(s) <= {"sport", "money"} and s for s in sets)


def test_predict_holds_answers_back(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["predict", str(folder / "model"), str(folder / "test.jsonl"), str(out)]
    assert main([*arguments, "--max-risk", "0.05", "--llm-policy", "never", "--with-sources"]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["abstained"] for row in found} == {True, False}
    assert all((row["predicted_label"] is None) == row["abstained"] for row in found)
    assert all(row["label_set"] for row in found)
    parquet = tmp_path / "out.parquet"
    arguments[-1] = str(parquet)
    assert main([*arguments, "--max-risk", "0.05", "--llm-policy", "never"]) == 0
    assert [row["abstained"] for row in found] == pd.read_parquet(parquet)["abstained"].tolist()
    assert main([*arguments, "--max-risk", "0.0001", "--overwrite"]) == 2
    assert "cannot be guaranteed" in capsys.readouterr().err
    assert main([*arguments, "--target-accuracy", "0.999", "--overwrite"]) == 2
    assert "was not reached" in capsys.readouterr().err


def test_what_was_spent_is_what_was_billed(tiny_encoder_dir: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The curve counts what every answer would cost, the sum what was paid now: with a limit, and from the store."""
    monkeypatch.setattr("labelfusion.scoring.store.score_store.default_path", lambda: tmp_path / "scores.sqlite")
    names = sorted(CLASSES)
    with LLMServer(labels=names) as server:
        llm = LLMProvider("m", api_base=server.url, method="json", price=(100.0, 100.0))
        options: dict[str, Any] = {"encoder": tiny_encoder_dir, "encoder_training": "probe", "fusion": "pool"}
        clf = AutoFusionClassifier(llm="recorded", **options).fit(rows(100, 0)).set_params(llm=llm)
        test = rows(60, 1, scores=False)

        def billed() -> float:
            return sum(server.tokens) * 1e-4

        found = clf.tradeoff(test, max_cost_usd=0.5, latency_rows=5)
        assert found["cost_usd"] == pytest.approx(billed(), rel=1e-6)
        assert 0 < found["answered"] < 1
        before = billed()
        found = clf.tradeoff(test, latency_rows=5)
        assert found["cost_usd"] == pytest.approx(billed() - before, rel=1e-6)
        before = billed()
        found = clf.tradeoff(test, latency_rows=5)  # all from the store, but for the sample
        assert found["cost_usd"] == pytest.approx(billed() - before, rel=1e-6)
        a_text = (billed() - before) / 5
        assert found["points"]["always"]["usd_per_1000"] == pytest.approx(1000 * a_text, rel=0.2)
