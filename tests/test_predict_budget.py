"""`labelfusion predict --max-cost-usd`: one budget, however often the run is stopped."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.journal import Journal
from llm_server import LLMServer
from test_auto import NAMES, frame

from labelfusion import AutoFusionClassifier, LLMProvider


def test_the_budget_holds_over_interruptions(
    tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("labelfusion.scoring.store.default_path", lambda: tmp_path / "scores.sqlite")
    with LLMServer(labels=NAMES) as server:
        llm = LLMProvider("m", api_base=server.url, method="json", price=(100.0, 100.0), max_concurrency=4)
        options: dict[str, Any] = {"encoder": tiny_encoder_dir, "encoder_training": "probe", "fusion": "pool"}
        clf = AutoFusionClassifier(llm=llm, max_scored_rows=20, **options)
        clf.fit(frame(60).drop(columns="llm_scores")).save_pretrained(tmp_path / "model")
        texts = [f"a movie w{i % 10} w{i // 10 % 10} w{i // 100}" for i in range(600)]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        before, a_text = sum(server.tokens), clf.report_["cost_usd"] / 20
        limit = 200 * a_text

        def billed() -> float:
            return (sum(server.tokens) - before) * 1e-4

        out = tmp_path / "out.jsonl"
        command = ["predict", *(str(tmp_path / name) for name in ("model", "in.jsonl", "out.jsonl"))]
        command += ["--max-cost-usd", str(limit)]
        put = Journal.put

        def stopped(self: Journal, record: dict[str, Any]) -> None:
            put(self, record)
            time.sleep(1.0)  # the next rows are paid meanwhile
            raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "put", stopped)
        for _ in range(3):
            assert main(command) == 130
        assert 0.5 * limit < billed() < limit + 8 * a_text
        monkeypatch.setattr(Journal, "put", put)
        assert main(command) == 0
        assert billed() < limit + 8 * a_text
        assert len(out.read_text().splitlines()) == 600
        assert not (tmp_path / "out.jsonl.journal").exists()
