"""Building scorers, and those that ask no LLM."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LLMProvider
from labelfusion.scoring import Scorer, build_scorer, score_texts
from labelfusion.scoring.score_batch import ScoreBatch, Usage, missing

LABELS = ["a", "b"]


def constant(texts: list[str]) -> Any:
    return np.tile([0.2, 0.6], (len(texts), 1))


def test_a_function_is_a_scorer() -> None:
    asked: list[list[str]] = []

    def function(texts: list[str]) -> Any:
        asked.append(texts)
        return constant(texts)

    scorer = build_scorer("callable/mine", LABELS, False, function=function)
    assert isinstance(scorer, Scorer)
    scores, (batch,) = score_texts([scorer], ["x", "y", "x"])
    np.testing.assert_allclose(scores[:, 0], [[0.25, 0.75]] * 3)
    assert asked == [["x", "y"]]
    assert (batch.method, batch.errors) == ("callable", {})
    multi = build_scorer("callable/mine", LABELS, True, function=constant)
    np.testing.assert_allclose(score_texts([multi], ["x"])[0][0, 0], [0.2, 0.6])


def test_a_row_of_nan_is_missing() -> None:
    scorer = build_scorer("callable", LABELS, False, function=lambda texts: [[0.5, 0.5], [np.nan, 1.0]])
    scores, (batch,) = score_texts([scorer], ["x", "y"])
    assert np.isnan(scores[1]).all()
    assert list(batch.errors) == [1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [([[0.1, 0.2, 0.7]], r"shape \(1, 3\)"), ([[1.5, 0.2]], "softmax"), ([[0.0, 0.0]], "no positive score")],
)
def test_a_wrong_answer_of_a_function_is_an_error(answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_texts([build_scorer("callable/f", LABELS, False, function=lambda texts: answer)], ["x"])


@pytest.mark.parametrize("model", ["callable/gone", "recorded"])
def test_without_an_answer_all_is_missing(model: str) -> None:
    scores, (batch,) = score_texts([build_scorer(model, LABELS, False)], ["x", "y"])
    assert np.isnan(scores).all()
    assert set(batch.errors) == {0, 1}


def test_methods_that_do_not_fit_the_model() -> None:
    with pytest.raises(ValueError, match="needs a local model"):
        build_scorer(LLMProvider("openai/x", method="likelihood"), LABELS, False)
    with pytest.raises(ValueError, match="scores with the methods 'likelihood' and 'decision'"):
        build_scorer(LLMProvider("local/x", method="json"), LABELS, False)


def test_one_that_cannot_work_stops_the_others() -> None:
    cancelled: list[bool] = []

    class Slow:
        name, labels, multi_label = "slow", LABELS, False

        async def score(self, texts: Sequence[str]) -> ScoreBatch:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
            return ScoreBatch(missing(len(texts), 2), "callable")

    broken = build_scorer("callable/broken", LABELS, False, function=lambda texts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score_texts([Slow(), broken], ["x"])
    assert cancelled == [True]


def test_usage_adds_up() -> None:
    assert Usage(1, 2, 3, 0.5) + Usage(1, 1, 1, 0.25) == Usage(2, 3, 4, 0.75)


@pytest.mark.parametrize("error", [SystemExit(2), StopIteration(), KeyboardInterrupt()])
def test_a_function_cannot_end_the_event_loop(error: BaseException) -> None:
    def bad(texts: list[str]) -> Any:
        raise error

    with pytest.raises(RuntimeError, match=f"the function raised {type(error).__name__}"):
        score_texts([build_scorer("callable/bad", ["a", "b"], False, function=bad)], ["text"])
    good = build_scorer("callable/good", ["a", "b"], False, function=lambda texts: [[0.5, 0.5]] * len(texts))
    assert score_texts([good], ["text"])[1][0].mask.all()


async def asynchronous(texts: list[str]) -> Any:
    return constant(texts)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: (0.5 for _ in texts), r"gave a generator .* expected \(1, 2\), texts x classes"),
        (lambda texts: [{"a": 1.0}], "gave a list"),
        (lambda texts: ["a"], "could not convert string"),
        (asynchronous, "is asynchronous"),
    ],
)
def test_a_function_that_gives_something_else_is_told_what_is_expected(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_texts([build_scorer("callable/odd", LABELS, False, function=function)], ["text"])
