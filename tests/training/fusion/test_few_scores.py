"""Fits with a handful of scored rows: too few to fuse on, and to measure or promise anything on."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from labelfusion import AutoFusionClassifier

WORDS = {"film": "movie plot actor", "sport": "team game goal", "tech": "chip code phone"}


@pytest.fixture
def make(tiny_encoder_dir: str) -> Any:
    def build(**options: Any) -> AutoFusionClassifier:
        defaults: dict[str, Any] = {"llm": "recorded", "encoder_training": "probe", "fusion": "pool"}
        return AutoFusionClassifier(tiny_encoder_dir, labels=list(WORDS), **(defaults | options))

    return build


def frame(n: int, scored: int, multi_label: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    first = np.arange(n) % 3
    truth = np.eye(3)[first]
    if multi_label:
        truth[rng.random(n) < 0.3, 0] = 1
    texts: list[str] = []
    for row in truth:
        words = [rng.choice(WORDS[name].split()) for name, yes in zip(WORDS, row, strict=True) if yes]
        texts.append(" ".join([*words, *rng.choice(["the", "a", "is", "w1", "w2"], 4), str(len(texts))]))
    labels = [[name for name, yes in zip(WORDS, row, strict=True) if yes] for row in truth]
    scores = [[row.tolist()] if i < scored else None for i, row in enumerate(truth * 0.8 + 0.1)]
    named = {"labels": labels} if multi_label else {"label": [row[0] for row in labels]}
    return pd.DataFrame({"text": texts, **named, "llm_scores": pd.Series(scores, dtype=object)})


def test_thresholds_and_report_come_from_all_rows(make: Any) -> None:
    few = make(multi_label=True).fit(frame(120, 3, multi_label=True))
    none = make(multi_label=True, llm=None).fit(frame(120, 0, multi_label=True).drop(columns="llm_scores"))
    assert few.report_["fusion"]["chosen"].startswith("default pool")
    assert few.model_.config.thresholds == none.model_.config.thresholds
    assert few.report_["out_of_sample"] == none.report_["out_of_sample"]


def test_a_fusion_that_was_not_fitted_promises_nothing(make: Any) -> None:
    data = frame(120, 3)
    clf = make().fit(data)
    for policy in ("always", "auto", 0.5):
        with pytest.raises(ValueError, match="`max_risk` is known for `llm_policy`='never' alone"):
            clf.predict(data, max_risk=0.3, llm_policy=policy)
    assert len(clf.predict(data, max_risk=0.3, llm_policy="never")) == 120
    alone = make(llm=None).fit(data.drop(columns="llm_scores"))
    assert len(alone.predict(data["text"].tolist(), max_risk=0.3)) == 120


@pytest.mark.parametrize("apart", [False, True])
def test_scored_rows_of_one_text_are_not_fused(make: Any, apart: bool) -> None:
    """They share a fold, so that nothing is left to fit on."""
    data = frame(60, 12)
    data.loc[: 10 if apart else 11, "text"] = "the movie"
    report = make().fit(data).report_
    assert ("default pool" in report["fusion"]["chosen"]) == (not apart)


def test_one_distinct_text_is_refused_before_anything_is_asked(make: Any) -> None:
    with pytest.raises(ValueError, match="All 12 training rows have the same text; two different ones are needed"):
        make(llm=lambda texts: pytest.fail("asked")).fit(frame(12, 0).assign(text="the movie"))
