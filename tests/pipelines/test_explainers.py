"""SHAP and LIME read the model: what `benchmarks/explain_words.py` draws. Skipped where they are not installed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import NAMES, frame
from transformers import pipeline

from labelfusion import AutoFusionClassifier

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from explain_words import by_lime, by_shap, draw

TEXT = "the movie plot was good"


@pytest.fixture(scope="module")
def clf(tiny_encoder_dir: str) -> AutoFusionClassifier:
    return AutoFusionClassifier(encoder=tiny_encoder_dir, llm="recorded", encoder_training="probe").fit(frame(120))


def test_shap(clf: AutoFusionClassifier) -> None:
    pytest.importorskip("shap")
    task: Any = "labelfusion-classification"
    pipe = pipeline(task, model=clf.model_, tokenizer=clf.tokenizer_, top_k=None, llm_policy="never")
    found = dict(by_shap(pipe, TEXT, "film"))
    assert {"movie", "plot"} <= set(found)
    assert min(found["movie"], found["plot"]) > 0
    assert sum(found.values()) <= 1


def test_lime(clf: AutoFusionClassifier, tmp_path: Path) -> None:
    pytest.importorskip("lime")
    found = by_lime(clf, TEXT, "film")
    assert {word for word, _ in found[:2]} == {"movie", "plot"}
    assert found[0][1] > 0
    assert clf.classes_.tolist() == NAMES
    assert np.isfinite([weight for _, weight in found]).all()
    draw({"LIME": found, "again": found}, "film", tmp_path / "words.png")
    assert (tmp_path / "words.png").stat().st_size > 5000
