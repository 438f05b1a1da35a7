"""`speed`: easy texts are answered without the encoder, and no LLM is asked about them."""

from pathlib import Path
from typing import Any

import made_data
import numpy as np
import pandas as pd
import pytest
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.pipelines.pipeline_labelfusion import LabelFusionPipeline
from labelfusion.pipelines.shared_encoder import EncoderQueue, SharedEncoder

from labelfusion import AutoFusionClassifier

NOISE = ["the a is", "w1 w2 w3"]  # no word that tells a class


def llm(texts: list[str]) -> list[list[float]]:
    return [[0.1, 0.8, 0.1] for _ in texts]


@pytest.fixture(scope="module")
def clf(tiny_encoder_dir: str) -> AutoFusionClassifier:
    clf = AutoFusionClassifier(tiny_encoder_dir, llm, encoder_training="probe", labels=made_data.NAMES)
    return clf.fit(made_data.frame(240))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the encoder reads."""
    texts: list[str] = []
    original = TextEncoder.__call__

    def call(self: TextEncoder, asked: Any, quick: bool = False) -> Any:
        texts.extend([] if quick else asked)
        return original(self, asked, quick)

    monkeypatch.setattr(TextEncoder, "__call__", call)
    return texts


def fresh(n: int = 60) -> list[str]:
    return made_data.texts_and_labels(n, seed=5)[0]


def test_easy_texts_need_no_encoder(clf: AutoFusionClassifier, encoded: list[str]) -> None:
    texts, labels = made_data.texts_and_labels(90, seed=5)
    full = clf.predict_proba(texts, llm_policy="never")
    assert len(encoded) == 90
    encoded.clear()
    fast = clf.predict_proba([*texts, *NOISE], llm_policy="never", speed="fast")
    assert len(encoded) < 45
    assert set(NOISE) <= set(encoded)
    assert (fast[:90].argmax(axis=1) == labels).mean() >= (full.argmax(axis=1) == labels).mean() - 0.02
    hard = [texts.index(text) for text in encoded if text in texts]
    np.testing.assert_allclose(fast[hard], full[hard], atol=1e-5)
    np.testing.assert_allclose(fast.sum(axis=1), 1.0, atol=1e-5)
    assert clf.report_["quick_share"]["balanced"] <= clf.report_["quick_share"]["fast"]


@pytest.mark.parametrize("policy", ["auto", 0.4, "never"])
def test_no_llm_is_asked_about_a_quick_answer(clf: AutoFusionClassifier, encoded: list[str], policy: Any) -> None:
    found = clf.predict_sources([*fresh(), *NOISE], llm_policy=policy, speed="fast")
    read = np.array([text in set(encoded) for text in [*fresh(), *NOISE]])
    assert not read.all()
    assert not found.llm_called[~read].any()
    np.testing.assert_array_equal(np.isnan(found.novelty), ~read)  # unknown, rather than 0
    assert not np.isnan(found.probabilities).any()
    if policy == 0.4:
        assert found.llm_called[read].all()


def test_always_asks_about_every_text(clf: AutoFusionClassifier, encoded: list[str]) -> None:
    found = clf.predict_sources(fresh(), llm_policy="always", speed="fast")
    assert found.llm_called.all()
    assert len(encoded) == 60
    np.testing.assert_allclose(found.logits, clf.predict_sources(fresh(), llm_policy="always").logits, atol=1e-5)


def test_scores_that_were_paid_for_are_used(clf: AutoFusionClassifier) -> None:
    scores = np.tile(np.array([[0.05, 0.9, 0.05]], dtype=np.float32), (60, 1, 1))
    options = {"llm_policy": "never", "llm_scores": scores}
    np.testing.assert_allclose(
        clf.predict_proba(fresh(), speed="fast", **options), clf.predict_proba(fresh(), **options), atol=1e-5
    )


def test_a_loaded_model_a_pipeline_and_a_server_answer_alike(clf: AutoFusionClassifier, tmp_path: Path) -> None:
    wanted = clf.predict_proba(fresh(), llm_policy="never", speed="fast")
    clf.save_pretrained(tmp_path)
    loaded = AutoFusionClassifier.from_pretrained(tmp_path, llm=llm)
    np.testing.assert_allclose(loaded.predict_proba(fresh(), llm_policy="never", speed="fast"), wanted, atol=1e-6)
    pipe = LabelFusionPipeline(model=loaded.model_, tokenizer=loaded.tokenizer_, llm=llm, llm_policy="never")
    found = [answer["score"] for answer in pipe(fresh(), speed="fast")]
    np.testing.assert_allclose(found, wanted.max(axis=1), atol=1e-6)
    np.testing.assert_allclose([a["score"] for a in pipe(iter(fresh()), speed="fast")], found, atol=1e-6)
    shared = SharedEncoder(clf.model_, clf.tokenizer_, queue=EncoderQueue())
    np.testing.assert_array_equal(shared(fresh(), quick=True), TextEncoder(clf.model_, clf.tokenizer_)(fresh(), True))


def test_multi_label(tiny_encoder_dir: str, encoded: list[str]) -> None:
    texts, labels = made_data.texts_and_labels(240)
    sets = [[made_data.NAMES[i]] for i in labels]
    clf = AutoFusionClassifier(tiny_encoder_dir, None, made_data.NAMES, True, encoder_training="probe")
    clf.fit(pd.DataFrame({"text": texts, "labels": sets}))
    encoded.clear()
    assert clf.report_["quick_share"]["fast"] > 0
    right = [list(p) == [made_data.NAMES[i % 3]] for i, p in enumerate(clf.predict(fresh(), speed="fast"))]
    assert np.mean(right) > 0.9
    assert len(encoded) < 60


def test_few_rows_have_no_quick_head(tiny_encoder_dir: str) -> None:
    clf = AutoFusionClassifier(tiny_encoder_dir, None, encoder_training="probe").fit(made_data.frame(60))
    with pytest.raises(ValueError, match="fewer than 100 labelled rows"):
        clf.predict(fresh(), speed="fast")
