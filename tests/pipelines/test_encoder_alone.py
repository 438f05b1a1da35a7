"""Transformers' own pipeline answers with the encoder alone: it says so, once, and nothing else does."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from labelfusion.pipelines import encoder_only_warning
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers import pipeline as make_pipeline

pipeline: Any = make_pipeline  # its overloads do not know the tasks of others


@pytest.fixture(autouse=True)
def forgotten() -> None:
    encoder_only_warning._warn.cache_clear()


def test_text_classification_warns_once_a_model(
    saved_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folders = [saved_model(num_providers=1), saved_model(num_providers=2)]
    with caplog.at_level(logging.WARNING):
        for folder in (*folders, *folders):
            pipeline("text-classification", model=str(folder), device="cpu")("A text.")
        model, tokenizer = (
            kind.from_pretrained(folders[0]) for kind in (AutoModelForSequenceClassification, AutoTokenizer)
        )
        encoder_only_warning._warn.cache_clear()
        pipeline("sentiment-analysis", model=model, tokenizer=tokenizer, device="cpu")
    said = [record.getMessage() for record in caplog.records if "encoder alone" in record.getMessage()]
    assert len(said) == 3
    for folder, message in zip([*folders, folders[0]], said, strict=True):
        assert str(folder) in message
        assert 'pipeline("labelfusion-classification")' in message


def test_nothing_else_warns(saved_model: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder, alone = str(saved_model(num_providers=1)), str(saved_model(num_providers=0))
    with caplog.at_level(logging.WARNING):
        pipeline("labelfusion-classification", model=folder, device="cpu")("A text.", llm_policy="never")
        pipeline("text-classification", model=alone, device="cpu")("A text.")
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        inputs = AutoTokenizer.from_pretrained(folder)(["A text."], return_tensors="pt")
        with torch.inference_mode():
            model(**inputs)
        model.train()(**inputs)
    assert "encoder alone" not in caplog.text
    assert "not supported" not in caplog.text


def test_other_models_are_checked_as_before() -> None:
    seen = []
    check = encoder_only_warning.warning_check(lambda pipe, models: seen.append(models))
    check(SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(model_type="bert"))), ["a"])
    assert seen == [["a"]]
