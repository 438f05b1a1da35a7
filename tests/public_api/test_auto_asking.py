"""Which LLMs a fitted or loaded classifier asks, and what it keeps of them between calls."""

import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llm_server import LLMServer
from made_data import NAMES, frame
from transformers import pipeline

from labelfusion import AutoFusionClassifier, LLMProvider


@pytest.fixture
def options(tiny_encoder_dir: str) -> dict[str, Any]:
    return {"encoder": tiny_encoder_dir, "encoder_training": "probe", "fusion": "pool", "cache": False}


def test_an_llm_of_the_same_name_elsewhere_is_asked_there(options: dict[str, Any], tmp_path: Path) -> None:
    with LLMServer(labels=NAMES) as here, LLMServer(labels=NAMES) as there:
        llm = LLMProvider("m", api_base=here.url, method="json", guidelines="Look twice.")
        clf = AutoFusionClassifier(llm=llm, max_scored_rows=30, **options).fit(frame(60).drop(columns="llm_scores"))
        clf.save_pretrained(tmp_path)
        asked = here.requests
        other = replace(llm, api_base=there.url, guidelines=None)
        loaded = AutoFusionClassifier.from_pretrained(tmp_path, llm=other, cache=False)
        loaded.predict(["a good movie"])
        assert (here.requests, there.requests) == (asked, 1)
        assert loaded._scorers()[0].provider.guidelines == "Look twice."  # learnt, or given, when it was fitted
        for same in (None, "m", llm):
            AutoFusionClassifier.from_pretrained(tmp_path, llm=same, cache=False).predict(["a good movie"])
        assert (here.requests, there.requests) == (asked + 3, 1)


def test_rate_limits_hold_from_call_to_call(options: dict[str, Any]) -> None:
    with LLMServer(labels=NAMES) as server:
        llm = LLMProvider("m", api_base=server.url, method="json", requests_per_minute=240)
        clf = AutoFusionClassifier(llm="recorded", **options).fit(frame(60))
        clf.set_params(llm=llm)
        started = time.monotonic()
        for text in "abcdef":
            clf.predict([text])
        assert time.monotonic() - started > 5 * 0.25 - 0.1
        first = clf._scorers()
        assert clf._scorers() is first
        assert clf.set_params(llm=replace(llm, votes=3))._scorers() is not first


def test_what_changes_is_asked_anew(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with LLMServer(labels=NAMES, keep=True) as server, LLMServer(labels=["a", "b", "c"]) as other:
        llm = LLMProvider("m", api_base=server.url, method="json", api_key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "first")
        clf = AutoFusionClassifier(llm=llm, **options).fit(frame(60))
        clf.predict(["one"])
        monkeypatch.setenv("MY_KEY", "second")
        clf.predict(["two"])
        assert [headers["authorization"] for headers in server.headers] == ["Bearer first", "Bearer second"]
        llm.api_base = other.url
        renamed = frame(60)
        renamed["label"] = renamed["label"].map(dict(zip(NAMES, "abc", strict=True)))
        assert clf.fit(renamed).predict_sources(["three"]).answered.all()
        assert (server.requests, other.requests) == (2, 1)


def test_classifier_and_pipeline_can_be_sent_to_another_process(options: dict[str, Any], tmp_path: Path) -> None:
    with LLMServer(labels=NAMES) as server:
        llm = LLMProvider("m", api_base=server.url, method="json")
        clf = AutoFusionClassifier(llm=llm, max_scored_rows=30, **options).fit(frame(60).drop(columns="llm_scores"))
        texts = ["a good movie", "goal"]
        assert pickle.loads(pickle.dumps(clf)).predict(texts).tolist() == clf.predict(texts).tolist()
        clf.save_pretrained(tmp_path)
        task: Any = "labelfusion-classification"
        pipe = pipeline(task, model=str(tmp_path), device="cpu", llm_options={"cache": False})
        answers = pipe(texts)
        assert pickle.loads(pickle.dumps(pipe))(texts) == answers
