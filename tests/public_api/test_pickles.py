"""Fitted classifiers in pickles of every kind: plain data inside, no module, no secret, equal answers."""

import copy
import io
import pickle
import pickletools
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
import torch
from made_data import frame
from transformers import BertConfig, BertModel, pipeline

from labelfusion import AutoFusionClassifier
from labelfusion import LabelFusionForSequenceClassification as Model


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> AutoFusionClassifier:
    """A classifier that reads inner layers of its encoder, and has predicted."""
    folder = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer), num_hidden_layers=4, **sizes)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    clf = AutoFusionClassifier(encoder=str(folder), llm="recorded", encoder_training="probe").fit(frame(120))
    clf.predict(frame(6))
    assert clf.model_.config.pooling_layers
    return clf


WAYS = {
    "pickle": lambda clf, file: pickle.dump(clf, file),
    "protocol 2": lambda clf, file: pickle.dump(clf, file, protocol=2),
    "joblib": lambda clf, file: joblib.dump(clf, file),
    "cloudpickle": lambda clf, file: cloudpickle.dump(clf, file),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_classifier_that_has_predicted(fitted: AutoFusionClassifier, way: str) -> None:
    file = io.BytesIO()
    WAYS[way](fitted, file)
    file.seek(0)
    again = joblib.load(file) if way == "joblib" else pickle.load(file)
    table = frame(30, seed=4)
    np.testing.assert_array_equal(again.predict_proba(table), fitted.predict_proba(table))
    np.testing.assert_array_equal(again.predict(table), fitted.predict(table))
    assert again.suspected_labels() == fitted.suspected_labels()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).predict(table), fitted.predict(table))
    assert again.fit(frame(30)).classes_.tolist() == fitted.classes_.tolist()


def test_a_pickle_names_no_class_of_others(fitted: AutoFusionClassifier) -> None:
    codes = pickletools.genops(pickle.dumps(fitted, protocol=2))
    named = [str(argument) for code, argument, _ in codes if code.name == "GLOBAL"]
    assert "labelfusion.classifier AutoFusionClassifier" in named
    packages = {name.split()[0].split(".")[0] for name in named}
    assert packages <= {"labelfusion", "numpy", "copy_reg", "__builtin__", "_codecs"}


def test_no_secret_travels(fitted: AutoFusionClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-" + "abcdefghijklmnop" * 2
    monkeypatch.setenv("OPENAI_API_KEY", key)
    clf = copy.deepcopy(fitted).set_params(llm="openai/gpt-5-nano")
    clf._scorers()
    assert key.encode() not in pickle.dumps(clf)


def test_skops(fitted: AutoFusionClassifier) -> None:
    io_of = pytest.importorskip("skops.io")
    data = io_of.dumps(fitted)
    trusted = io_of.get_untrusted_types(data=data)
    assert trusted == ["labelfusion.classifier.AutoFusionClassifier"]
    table = frame(20, seed=4)
    np.testing.assert_array_equal(io_of.loads(data, trusted=trusted).predict_proba(table), fitted.predict_proba(table))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_alone(fitted: AutoFusionClassifier, dtype: torch.dtype) -> None:
    model = copy.deepcopy(fitted.model_).to(dtype=dtype)
    assert model.encoder.get_input_embeddings().weight is not fitted.model_.encoder.get_input_embeddings().weight
    model.encoder.requires_grad_(False)
    inputs = fitted.tokenizer_(["a movie plot"], return_tensors="pt")
    state = torch.random.get_rng_state()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.dtype == dtype
    assert not again.training
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == frozen
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
        assert again(**inputs, output_hidden_states=True).hidden_states is not None
    shallow = copy.copy(model)
    assert shallow.encoder is model.encoder


def test_trust_in_a_model_of_ones_own_travels_and_no_more(fitted: AutoFusionClassifier, tmp_path: Any) -> None:
    fitted.save_pretrained(tmp_path / "mine")
    own = Model.from_pretrained(tmp_path / "mine")
    assert own.config.source is None
    data = pickle.dumps(own)
    (tmp_path / "mine").rename(tmp_path / "elsewhere")
    assert [p.source for p in pickle.loads(data).config.providers] == [None]
    cached = tmp_path / "models--me--evil" / "snapshots" / "1"
    cached.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").rename(cached)
    foreign = pickle.dumps(Model.from_pretrained(cached))
    cached.rename(tmp_path / "mine")
    again = pickle.loads(foreign)
    assert again.config.source
    assert all(p.source for p in again.config.providers)


def test_modules_that_were_changed_are_pickled_as_they_are(fitted: AutoFusionClassifier) -> None:
    model = copy.deepcopy(fitted.model_)
    for module in model.modules():
        module._forward_hooks.clear()
    model.classifier.encoder_head = torch.nn.Sequential(model.encoder_head)  # type: ignore[assignment]
    assert model.plain_state() is None
    assert isinstance(pickle.loads(pickle.dumps(model)).encoder_head, torch.nn.Sequential)


def test_a_pipeline(fitted: AutoFusionClassifier, tmp_path: Any) -> None:
    fitted.save_pretrained(tmp_path)
    task: Any = "labelfusion-classification"
    pipe = pipeline(task, model=str(tmp_path), device="cpu")
    texts = ["a movie plot", "goal"]
    answers = pipe(texts)
    assert pickle.loads(pickle.dumps(pipe))(texts) == answers


def test_in_other_processes(fitted: AutoFusionClassifier) -> None:
    texts = frame(8, seed=2)["text"].tolist()
    halves = joblib.Parallel(n_jobs=2)(joblib.delayed(fitted.predict_proba)(part) for part in (texts[:4], texts[4:]))
    np.testing.assert_allclose(np.concatenate(halves), fitted.predict_proba(texts), atol=1e-6)
