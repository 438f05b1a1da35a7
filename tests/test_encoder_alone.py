"""Transformers' own pipeline answers with the encoder alone: it says so, once, and nothing else does."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from labelfusion.modeling_labelfusion import pretrained
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


@pytest.fixture(autouse=True)
def forgotten() -> None:
    pretrained._warn_of_encoder_alone.cache_clear()


def test_text_classification_warns_once_a_model(
    saved_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folders = [saved_model(num_providers=1), saved_model(num_providers=2)]
    with caplog.at_level(logging.WARNING):
        for folder in (*folders, *folders):
            pipeline("text-classification", model=str(folder), device="cpu")("A text.")
    said = [record.getMessage() for record in caplog.records if "encoder alone" in record.getMessage()]
    assert len(said) == 2
    for folder, message in zip(folders, said, strict=True):
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
