"""The order of the classes goes with the scores, whatever the file and however `train` lists the classes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labelfusion.hub_scripts.cli import main
from labelfusion.training.data import prepare
from labelfusion.training.score_checks import warn_if_misordered
from llm_server import LLMServer, truth

LABELS = ["World", "Sports", "Business"]  # not sorted
TEXTS = ["one text", "another text", "a third one"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_scores_are_read_in_the_order_in_which_they_were_asked(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    source, scored = tmp_path / "in.csv", tmp_path / f"out.{suffix}"
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(source, index=False)
    with LLMServer(labels=LABELS) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        options = ["--llm", "openai/gpt-5-nano", "--labels", ",".join(LABELS), "--no-cache"]
        assert main(["score", str(source), str(scored), *options]) == 0
    for classes in (None, LABELS, sorted(LABELS)):
        data = prepare(scored, classes=classes)
        assert data.llm_scores is not None
        for i, text in enumerate(TEXTS):
            by_name = dict(zip(data.classes, data.llm_scores[i, 0].tolist(), strict=True))
            expected = dict(zip(LABELS, truth(text, LABELS), strict=True))
            assert by_name == pytest.approx(expected, abs=0.02)
        assert data.names() == LABELS


def test_declared_order_of_other_classes_changes_nothing() -> None:
    table = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"], "llm_scores": [[[0.9, 0.1]], [[0.2, 0.8]]]})
    scores = prepare(table, classes=["x", "y"]).llm_scores
    assert scores is not None
    np.testing.assert_allclose(scores[:, 0], [[0.9, 0.1], [0.2, 0.8]], atol=1e-6)


def test_scores_in_another_order_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    said = np.where(rng.random(60) < 0.9, labels, (labels + 1) % 3)
    scores = np.eye(3)[said][:, None]
    warn_if_misordered(scores, labels, LABELS, ["right"])
    warn_if_misordered(np.full((60, 1, 3), np.nan), labels, LABELS, ["silent"])
    warn_if_misordered(np.eye(3)[rng.integers(0, 3, 60)][:, None], labels, LABELS, ["useless"])
    warn_if_misordered(scores[:20, :, [1, 2, 0]], labels[:20], LABELS, ["too few"])
    assert not caplog.records
    warn_if_misordered(scores[:, :, [1, 2, 0]], labels, LABELS, ["shifted"])
    assert "as Sports, Business, World for 8" in caplog.text
    assert "Give `labels` in the order of the scores" in caplog.text
