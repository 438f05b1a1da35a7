"""What a scorer gets and says: the whole interface, and the minimal one of a user's own scorer."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fake_scorer import NAMES, FakeScorer
from labelfusion.configuration import LLMProvider, ProviderKind
from labelfusion.pipelines import run as classify
from labelfusion.scoring import Scorer, build_scorer, score_texts
from labelfusion.scoring.budget import Budget
from labelfusion.scoring.score_batch import Capabilities, ScoreBatch, missing
from labelfusion.scoring.session.run_context import Run
from labelfusion.scoring.session.score_table import ScoreTable
from labelfusion.scoring.session.scorer import CustomScorer, complete
from transformers import PreTrainedTokenizerBase as Tokenizer

from labelfusion import LabelFusionForSequenceClassification as Model


class Whole:
    """Remembers the runs that it was given."""

    name, labels, multi_label, kind = "whole", list(NAMES), False, ProviderKind.CALLABLE
    capabilities = Capabilities(progress=True, budget=True, dispatch=True)

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.texts: list[str] = []

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        assert run is not None
        self.runs.append(run)
        self.texts += texts
        if run.dispatch is not None:
            run.dispatch.send()
        if run.progress is not None:
            run.progress.add(done=len(texts))
        return ScoreBatch(np.tile(np.array([0.2, 0.7, 0.1], dtype=np.float32), (len(texts), 1)), "json")


def test_a_scorer_of_the_users_own_needs_four_things() -> None:
    own = FakeScorer()
    assert not isinstance(own, Scorer)
    whole = complete(own)
    assert isinstance(whole, CustomScorer)
    assert isinstance(whole, Scorer)
    assert (whole.kind, whole.capabilities) == (ProviderKind.CALLABLE, Capabilities())
    own_local: Any = FakeScorer()
    own_local.provider = LLMProvider("local/somewhere")
    assert complete(own_local).kind == ProviderKind.LOCAL
    scores, (batch,) = score_texts([own], ["a", "b", "a"])
    assert own.asked == ["a", "b"]
    assert scores.shape == (3, 1, 3)
    assert batch.usage.requests == 2


@pytest.mark.parametrize("declared", ["recorded", "callable/f", "embedded/smollm2-135m-instruct"])
def test_our_scorers_are_whole(declared: str) -> None:
    scorer = build_scorer(declared, ["a", "b"], False)
    assert isinstance(scorer, Scorer)
    assert complete(scorer) is scorer
    assert scorer.kind == LLMProvider(declared).kind


def test_the_run_carries_budget_progress_and_nothing_else_by_default() -> None:
    scorer, budget, seen = Whole(), Budget(1.0), []
    score_texts([scorer], ["a", "b", "a"], progress=lambda now: seen.append(now.done), max_cost_usd=budget)
    (run,) = scorer.runs
    assert scorer.texts == ["a", "b"]
    assert run.budget is budget
    assert (run.deadline, run.dispatch, run.is_hedge, run.halted) == (math.inf, None, False, False)
    assert seen == [2]  # counted by the scorer alone


def test_the_run_carries_the_deadline_of_each_text(make_model: Any, tiny_tokenizer: Tokenizer) -> None:
    model: Model = make_model(llm_providers=["openai/judge"])
    scorer, before = Whole(), time.monotonic()
    result = classify(model, tiny_tokenizer, ["good film", "bad film"], scorers=[scorer], deadline_s=100.0)
    assert result.answered.all()
    assert [len(scorer.texts), len(scorer.runs)] == [2, 2]
    for run in scorer.runs:
        assert before + 99 < run.deadline < time.monotonic() + 100
        assert run.dispatch is not None
        assert run.dispatch.on_wire
        assert not run.is_hedge


def test_a_table_puts_parts_beside_what_is_known() -> None:
    table = ScoreTable.empty(3, 2, 2)
    part = ScoreTable.empty(2, 2, 2)
    part.scores[:, 1] = [[0.1, 0.9], [0.8, 0.2]]
    part.called[:], part.cost_usd[:], part.took_s = True, 0.5, np.array([1.0, 2.0])
    table.add(part, [2, 0])
    table.add(part, [2, 0], share=0.5)
    assert np.allclose(table.scores[[2, 0], 1], [[0.1, 0.9], [0.8, 0.2]])
    assert np.isnan(table.scores[:, 0]).all()
    assert np.isnan(table.scores[1]).all()
    assert table.called.tolist() == [True, False, True]
    assert table.cost_usd.tolist() == [0.75, 0.0, 0.75]
    assert table.took_s.tolist() == [2.0, 0.0, 1.0]
    assert missing(2, 2).shape == (2, 2)
