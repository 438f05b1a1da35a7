"""Pairs of texts on every other route: queried LLMs, batch files, endpoints, the Trainer, explanations, the card."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from batch_server import BatchServer
from datasets import Dataset
from labelfusion.hub_scripts.cards.model_card import update_card
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.formats.handler import EndpointHandler
from labelfusion.hub_scripts.formats.self_contained import export_model
from labelfusion.scoring.batches import batch_api
from llm_server import LABELS, LLMServer
from test_text_pairs import _dicts, _table, fitted, pair_encoder  # noqa: F401
from transformers import PreTrainedTokenizerFast, TrainingArguments

from labelfusion import (
    AutoFusionClassifier,
    LabelFusionForSequenceClassification,
    LabelFusionTrainer,
    LLMProvider,
)

NAMES = ["other", "same"]


def _provider(server: LLMServer, **options: Any) -> LLMProvider:
    return LLMProvider("m", api_base=server.url, method="json", price=(1.0, 1.0), **options)


def _asked(server: LLMServer) -> str:
    return json.dumps([body["messages"] for body in server.bodies], ensure_ascii=False)


def test_the_command_score_sends_both_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    _table(6).to_csv(tmp_path / "in.csv", index=False)
    with LLMServer(labels=NAMES, keep=True) as server:
        arguments = ["--llm", "openai/m", "--api-base", server.url, "--method", "json", "--labels", ",".join(NAMES)]
        out = str(tmp_path / "out.parquet")
        assert main(["score", str(tmp_path / "in.csv"), out, *arguments, "--no-cache"]) == 0
        asked = _asked(server)
    scored = pd.read_parquet(out)
    assert scored.llm_scores.notna().all()
    assert all(pair in asked for pair in scored.text_pair)


def test_a_batch_holds_both_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api.time, "sleep", lambda seconds: None)
    _table(6).drop(columns="label").to_csv(tmp_path / "in.csv", index=False)
    with BatchServer() as server:
        given = {"model": "m", "api_base": server.url, "method": "json", "price": [1.0, 4.0]}
        asking = ["--llm", json.dumps(given), "--labels", ",".join(LABELS), "--store", str(tmp_path / "s.sqlite")]
        places = [str(tmp_path / "in.csv"), str(tmp_path / "out.jsonl")]
        assert main(["score", *places, *asking, "--batch", "--poll-s", "0.05"]) == 0
        asked = {json.loads(text)["text_pair"] for text in server.paid}
    assert asked == set(_table(6).text_pair)


def test_nearest_examples_are_pairs(pair_encoder: str) -> None:  # noqa: F811
    with LLMServer(labels=NAMES, keep=True) as server:
        provider = _provider(server, prompt="nearest", num_examples=2)
        clf = AutoFusionClassifier(pair_encoder, provider, encoder_training="probe", cache=False).fit(_table(24))
        server.bodies.clear()
        clf.predict(_table(2, seed=5))
        assert _asked(server).count("text_pair") >= 2 * 3  # the pair and its two examples


def test_few_shot_examples_are_pairs_after_loading(pair_encoder: str, tmp_path: Path) -> None:  # noqa: F811
    with LLMServer(labels=NAMES, keep=True) as server:
        provider = _provider(server, prompt="few-shot", num_examples=2)
        clf = AutoFusionClassifier(pair_encoder, provider, encoder_training="probe", cache=False).fit(_table(24))
        clf.save_pretrained(tmp_path / "m")
        again = AutoFusionClassifier.from_pretrained(tmp_path / "m", llm=provider, cache=False)
        server.bodies.clear()
        again.predict(_table(2, seed=5))
        assert _asked(server).count("text_pair") >= 2 * 3


def test_an_endpoint_takes_pairs(fitted: AutoFusionClassifier, tmp_path: Path) -> None:  # noqa: F811
    fitted.save_pretrained(tmp_path / "m")
    folder = export_model(tmp_path / "m", tmp_path / "exported")
    answer = EndpointHandler(str(folder))
    test = _table(4, seed=1)
    found = answer({"inputs": _dicts(test)})
    np.testing.assert_allclose([x["score"] for x in found], fitted.predict_proba(test).max(axis=1), atol=1e-5)
    assert answer({"inputs": _dicts(test)[0]})[0]["label"] == found[0]["label"]
    with pytest.raises(ValueError, match="fitted on pairs"):
        answer({"inputs": "a single text"})


def test_the_trainer_takes_tokenized_pairs(fitted: AutoFusionClassifier, tmp_path: Path) -> None:  # noqa: F811
    fitted.save_pretrained(tmp_path / "m")
    model = LabelFusionForSequenceClassification.from_pretrained(tmp_path / "m")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "m")
    table = _table(16)
    rows = Dataset.from_pandas(table.assign(label=[model.config.label2id[name] for name in table.label]))
    rows = rows.map(lambda row: tokenizer(row["text"], row["text_pair"], truncation=True))
    args = TrainingArguments(str(tmp_path / "run"), num_train_epochs=1, report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = LabelFusionTrainer(
        model=model, args=args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer
    )
    batch = trainer.data_collator([rows[i] for i in range(4)])
    expected = tokenizer(rows["text"][:4], rows["text_pair"][:4], padding=True, truncation=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["token_type_ids"], expected["token_type_ids"])
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_words_of_both_texts_are_explained(
    fitted: AutoFusionClassifier,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = _dicts(_table(1))[0]
    one = fitted.explain(pair)
    assert one.words == [*pair["text"].split(), *pair["text_pair"].split()]
    without = dict(pair, text_pair=" ".join(pair["text_pair"].split()[:-1]))
    scores = fitted.predict_sources([pair, without]).logits
    np.testing.assert_allclose(one.word_effects[-1], scores[0] - scores[1], atol=1e-4)
    assert fitted.explain([pair], words=False)[0].words == []
    fitted.save_pretrained(tmp_path / "m")
    command = ["explain", str(tmp_path / "m"), pair["text"], "--json", "--text-pair"]
    assert main([*command, pair["text_pair"]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert pair["text_pair"].split()[0] in json.dumps(found["words"])
    assert main([*command, "a", "b"]) == 2
    assert "`--text-pair` has 2 texts for 1" in capsys.readouterr().err


@pytest.mark.parametrize("recorded", [False, True])
def test_the_card_shows_pairs_and_its_code_runs(
    fitted: AutoFusionClassifier,  # noqa: F811
    pair_encoder: str,  # noqa: F811
    tmp_path: Path,
    recorded: bool,
) -> None:
    if recorded:
        table = _table().assign(llm_scores=pd.Series([[[0.4, 0.6]]] * 40))
        fitted = AutoFusionClassifier(pair_encoder, "recorded", encoder_training="probe").fit(table)
    fitted.save_pretrained(tmp_path / "m")
    card = update_card(tmp_path / "m").read_text()
    assert '"text_pair": ' in card
    assert ("**texts[0]" in card) == recorded
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, flags=re.S)).replace('"m"', repr(str(tmp_path / "m")))
    exec(compile(code, "card", "exec"), {})
