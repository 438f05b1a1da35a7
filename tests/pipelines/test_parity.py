"""Options of Transformers' `TextClassificationPipeline` mean the same in ours: scores against scores on one model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import pipeline as make_pipeline
from transformers.pipelines.text_classification import ClassificationFunction

pipeline: Any = make_pipeline
TEXTS = ["a good movie", "bad plot . the team lost", "phone"]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("function", ["sigmoid", "softmax", "none", "NONE", ClassificationFunction.SOFTMAX, None])
def test_function_to_apply(saved_model: Callable[..., Path], function: Any, multi_label: bool) -> None:
    folder = str(saved_model(num_providers=0, multi_label=multi_label))
    theirs, ours = (
        pipeline(t, model=folder, device="cpu") for t in ("text-classification", "labelfusion-classification")
    )
    for options in ({"top_k": None}, {"top_k": 2}):
        expected = theirs(TEXTS, function_to_apply=function, **options)
        found = ours(TEXTS, function_to_apply=function, **options)
        for a, b in zip(expected, found, strict=True):
            assert [x["label"] for x in a] == [x["label"] for x in b]
            np.testing.assert_allclose([x["score"] for x in b], [x["score"] for x in a], rtol=1e-4, atol=1e-5)
    at_construction = pipeline("labelfusion-classification", model=folder, function_to_apply=function, top_k=2)
    assert at_construction(TEXTS) == found


def test_function_to_apply_with_sources(saved_model: Callable[..., Path]) -> None:
    pipe = pipeline("labelfusion-classification", model=str(saved_model()), device="cpu")
    scores = [[[0.7, 0.2, 0.1]], None, [[0.1, 0.1, 0.8]]]
    plain = pipe(TEXTS, llm_scores=scores, return_sources=True)
    logits = pipe(TEXTS, llm_scores=scores, return_sources=True, function_to_apply="none")
    for a, b in zip(plain, logits, strict=True):
        assert a["label"] == b["label"]
        assert a["sources"]["llm0"] == b["sources"]["llm0"]
        values = np.exp(list(b["sources"]["encoder"].values()))
        np.testing.assert_allclose(list(a["sources"]["encoder"].values()), values / values.sum(), rtol=1e-4)
    assert pipe(TEXTS, function_to_apply="default") == pipe(TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"function_to_apply": "tanh"},
            "`function_to_apply` is 'tanh'; expected one of sigmoid, softmax, none, default",
        ),
        ({"return_all_scores": True}, "use `top_k=None`"),
        ({"return_all_scores": False}, "use `top_k=1`"),
    ],
)
def test_other_options_are_named(saved_model: Callable[..., Path], options: dict[str, Any], message: str) -> None:
    folder = str(saved_model())
    pipe = pipeline("labelfusion-classification", model=folder, device="cpu")
    with pytest.raises(ValueError, match=message):
        pipe(TEXTS, **options)
    with pytest.raises(ValueError, match=message):
        pipeline("labelfusion-classification", model=folder, device="cpu", **options)
