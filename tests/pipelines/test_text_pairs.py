"""Pairs of texts: from the data to the encoder, the LLMs and the answers; never silently a single text."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from labelfusion.configuration.text_pair import TextPair
from labelfusion.hub_scripts.cli import main
from labelfusion.modeling_labelfusion.encoding import encode_texts, tokenize
from labelfusion.pipelines.partitions.partition import PredictWork
from tokenizers import Tokenizer, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, pipeline

from labelfusion import AutoFusionClassifier

SAME, OTHER = "same", "other"


@pytest.fixture(scope="module")
def pair_encoder(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast, tiny_encoder_config: BertConfig
) -> str:
    """A BERT whose tokenizer gives the second text other token types."""
    folder = tmp_path_factory.mktemp("pairs")
    torch.manual_seed(0)
    BertModel(tiny_encoder_config).save_pretrained(folder)
    backend = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    ends = [(name, tiny_tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokens = {name: getattr(tiny_tokenizer, name) for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=inputs, model_max_length=64, **tokens
    ).save_pretrained(folder)
    return str(folder)


def _table(n: int = 40, seed: int = 0) -> pd.DataFrame:
    """The label says whether the second text is about the subject of the first: neither text alone tells."""
    rng = np.random.default_rng(seed)
    words = ["movie", "team", "chip", "war"]
    first = rng.choice(words, n)
    same = np.arange(n) % 2 == 0
    second = [w if s else rng.choice([x for x in words if x != w]) for w, s in zip(first, same, strict=True)]
    return pd.DataFrame({
        "text": [f"the {w} is good w{i % 10}" for i, w in enumerate(first)],
        "text_pair": [f"a {w} was great w{i % 7}" for i, w in enumerate(second)],
        "label": np.where(same, SAME, OTHER),
    })  # fmt: skip


@pytest.fixture(scope="module")
def fitted(pair_encoder: str) -> AutoFusionClassifier:
    return AutoFusionClassifier(pair_encoder, None, encoder_training="probe").fit(_table())


def _dicts(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{"text": text, "text_pair": pair} for text, pair in zip(table.text, table.text_pair, strict=True)]


def test_a_pair_is_a_string_of_its_own() -> None:
    pair = TextPair("a", 'b", "text_pair": "c')
    assert json.loads(pair) == {"text": "a", "text_pair": 'b", "text_pair": "c'}
    assert pair == TextPair("a", 'b", "text_pair": "c')
    assert pair != str.__str__(pair)
    assert str.__str__(pair) != pair
    assert len({pair, TextPair(pair.text, pair.text_pair), str.__str__(pair)}) == 2
    again = pickle.loads(pickle.dumps(pair))
    assert (again, again.text, again.text_pair) == (pair, pair.text, pair.text_pair)


@pytest.mark.parametrize("limit", [64, 11])
def test_tokens_are_those_of_transformers(pair_encoder: str, limit: int) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(pair_encoder)
    first, second = ["the movie is very good and great", "a chip"], ["a team", "the long game is a good match w1 w2"]
    expected = tokenizer(first, second, padding=True, truncation="longest_first", max_length=limit, return_tensors="pt")
    found = tokenize(tokenizer, [TextPair(a, b) for a, b in zip(first, second, strict=True)], limit)
    assert set(found) == set(expected) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert expected["token_type_ids"].any()
    mixed = tokenize(tokenizer, [TextPair(first[0], second[0]), first[1]], limit)
    single = tokenizer(first[1])["input_ids"]
    assert mixed["input_ids"][1, : len(single)].tolist() == single
    assert torch.equal(mixed["input_ids"][0], tokenizer(first[0], second[0], truncation=True, max_length=limit,
                                                        return_tensors="pt")["input_ids"][0])  # fmt: skip


def test_both_texts_reach_the_encoder(fitted: AutoFusionClassifier) -> None:
    pairs = [TextPair("the movie", "a team"), TextPair("a team", "the movie"), TextPair("the movie", "a chip")]
    joined = encode_texts(fitted.model_, fitted.tokenizer_, pairs)
    assert all(not torch.allclose(joined[i], joined[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    inputs = fitted.tokenizer_("the movie", "a team", return_tensors="pt")
    with torch.inference_mode():
        expected = fitted.model_.encode(**inputs)[0]
    torch.testing.assert_close(joined[:1], expected, rtol=1e-4, atol=1e-5)


def test_fit_and_predict_in_every_form(fitted: AutoFusionClassifier, pair_encoder: str, tmp_path: Path) -> None:
    assert fitted.model_.config.text_pairs
    test = _table(12, seed=1)
    expected = fitted.predict_proba(test.drop(columns="label"))
    np.testing.assert_allclose(fitted.predict_proba(_dicts(test)), expected, atol=1e-6)
    other = fitted.predict_proba(test.assign(text_pair=test.text_pair.to_numpy()[::-1]))
    assert np.abs(other - expected).max() > 1e-4
    test.to_csv(tmp_path / "test.csv", index=False)
    test.to_parquet(tmp_path / "test.parquet")
    right = float(np.mean(fitted.classes_[expected.argmax(axis=1)] == test.label))
    for name in ("test.csv", "test.parquet"):
        assert fitted.evaluate(str(tmp_path / name))["fusion"]["accuracy"] == pytest.approx(right)
    options: dict[str, Any] = {"llm": None, "encoder_training": "probe"}
    again = AutoFusionClassifier(pair_encoder, **options).fit(_dicts(_table()), _table().label.tolist())
    np.testing.assert_allclose(again.predict_proba(_dicts(test)), expected, atol=1e-5)
    named = _table().rename(columns={"text_pair": "second"})
    again = AutoFusionClassifier(pair_encoder, text_pair_column="second", **options).fit(named)
    renamed = test.rename(columns={"text_pair": "second"})
    np.testing.assert_allclose(again.predict_proba(renamed), expected, atol=1e-5)
    with pytest.raises(ValueError, match="`text_pair_column`"):
        again.predict(test)


def test_the_pipeline_takes_what_that_of_transformers_takes(fitted: AutoFusionClassifier, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "model")
    loaded = AutoFusionClassifier.from_pretrained(tmp_path / "model")
    test = _table(6, seed=2)
    expected = fitted.predict_proba(test).max(axis=1)
    np.testing.assert_allclose(loaded.predict_proba(test).max(axis=1), expected, atol=1e-6)
    make: Any = pipeline
    pipe = make("labelfusion-classification", model=str(tmp_path / "model"))
    pairs = _dicts(test)
    for answers in (pipe(pairs), list(pipe(iter(pairs))), [pipe(pair) for pair in pairs]):
        np.testing.assert_allclose([answer["score"] for answer in answers], expected, atol=1e-5)
    stepwise = pipe.postprocess(pipe.forward(pipe.preprocess(pairs[0])))
    assert stepwise["score"] == pytest.approx(expected[0], abs=1e-5)
    with pytest.raises(ValueError, match="fitted on pairs"):
        pipe("a single text")
    with pytest.raises(ValueError, match=r"'text_pair': \.\.\."):
        pipe([["a text", "another"]])
    assert pipe([{"text": "a text", "text_pair": " "}], empty_texts="skip")[0]["label"] is None


def test_a_single_text_or_half_a_pair_is_an_error(fitted: AutoFusionClassifier, pair_encoder: str) -> None:
    with pytest.raises(ValueError, match="fitted on pairs"):
        fitted.predict(["the movie"])
    table = _table()
    table.loc[3, "text_pair"] = None
    with pytest.raises(ValueError, match="no text"):
        fitted.predict(table)
    table["text_pair"] = 5
    with pytest.raises(ValueError, match="`text_pair` is int"):
        AutoFusionClassifier(pair_encoder, None).fit(table)


def test_an_llm_reads_both_texts_and_is_not_paid_for_a_single_one(pair_encoder: str) -> None:
    seen: list[str] = []

    def llm(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return np.tile([0.4, 0.6], (len(texts), 1))

    clf = AutoFusionClassifier(pair_encoder, llm, encoder_training="probe", cache=False).fit(_table())
    assert {json.loads(text)["text_pair"] for text in seen} == set(_table().text_pair)
    seen.clear()
    with pytest.raises(ValueError, match="fitted on pairs"):
        clf.predict(["the movie"])
    assert not seen


@pytest.mark.parametrize("training", ["contrastive", "full"])
@pytest.mark.slow
def test_the_encoder_is_trained_on_pairs(pair_encoder: str, training: str) -> None:
    clf = AutoFusionClassifier(pair_encoder, None, encoder_training=training, num_train_epochs=1).fit(_table())
    assert clf.predict(_table(4)).shape == (4,)


def test_the_commands(fitted: AutoFusionClassifier, pair_encoder: str, tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    _table().rename(columns={"text_pair": "second"}).to_csv(train, index=False)
    _table(8, seed=1).rename(columns={"text_pair": "second"}).to_csv(test, index=False)
    column, model = ["--text-pair-column", "second"], str(tmp_path / "model")
    arguments = ["--encoder", pair_encoder, "--encoder-training", "probe", "--output-dir", model]
    assert main(["train", str(train), *arguments, *column]) == 0
    assert main(["evaluate", model, str(test)]) == 0
    assert main(["predict", model, str(test), str(tmp_path / "out.jsonl")]) == 0
    out = pd.read_json(tmp_path / "out.jsonl", lines=True)
    clf = AutoFusionClassifier.from_pretrained(model)
    assert out.predicted_label.tolist() == clf.predict(pd.read_csv(test)).tolist()
    table = pa.Table.from_pandas(_table(8, seed=1).rename(columns={"text_pair": "second"}).drop(columns="label"))
    answers, _ = PredictWork(model, text_pair_column="second").open().classify(table)
    assert answers.column("predicted_label").to_pylist() == out.predicted_label.tolist()
    assert main(["predict", model, str(test), str(tmp_path / "x.jsonl"), "--text-pair-column", "third"]) == 2


def test_what_cannot_take_pairs_says_so(fitted: AutoFusionClassifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="single texts"):
        fitted.suggest(_table(), 3)
    fitted.save_pretrained(tmp_path / "model")
    from labelfusion.hub_scripts.formats.onnx_export import export_onnx

    with pytest.raises(ValueError, match="pairs"):
        export_onnx(tmp_path / "model", tmp_path / "onnx")
    export = [{"id": 1, "data": {"text": "a", "text_pair": "b"}, "annotations": [], "predictions": []}]
    with pytest.raises(ValueError, match="`text_pair`"):
        fitted.predict(export)
