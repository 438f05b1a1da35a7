"""A long run against an API that fails in every way that APIs fail."""

from pathlib import Path

import numpy as np
import pytest
from labelfusion.scoring import build_scorer, score_texts
from labelfusion.scoring.store.score_store import ScoreStore
from llm_server import CONTENT_FAULTS, LABELS, TRANSPORT_FAULTS, LLMServer, truth

KINDS = [*TRANSPORT_FAULTS, *CONTENT_FAULTS]


@pytest.mark.parametrize(
    ("method", "count"), [("json", 1000), pytest.param("logprob", 800, marks=pytest.mark.slow), ("decision", 300)]
)
def test_every_text_is_answered_or_reported_missing_and_none_is_wrong_or_paid_twice(
    method: str, count: int, tmp_path: Path
) -> None:
    texts = [f"text number {i}" for i in range(count)]
    # Only a few hang, so that the client can be patient: it must not give up an answer because the machine is busy.
    faults = {kind: 0.2 / (len(KINDS) - 1) for kind in KINDS} | {"hang": 8 / count}
    offers = {"json_schema", "temperature", "logprobs", "decisions"}
    with LLMServer(faults=faults, latency=0.02, offers=offers) as server:
        provider = {"model": "m", "api_base": server.url, "method": method, "timeout_s": 20.0, "price": (1, 1)}
        scorer = build_scorer(provider, LABELS, False, store=tmp_path / "s.sqlite")
        scores, (batch,) = score_texts([scorer], texts)
    stats = server.stats()  # closed: no reply is being counted
    assert all(server.injected[kind] > 0 for kind in KINDS)
    assert 0.15 < sum(server.injected.values()) / stats["requests"] < 0.25

    answered = batch.mask
    right = np.array([truth(text, LABELS) for text in texts])
    np.testing.assert_allclose(scores[answered, 0], right[answered], atol=1e-5)  # none wrong
    assert np.isnan(scores[~answered]).all()
    assert sorted(batch.errors) == np.flatnonzero(~answered).tolist()  # the others are reported, with a reason
    assert stats["paid_twice"] == 0
    assert set(server.paid) == {text for text, given in zip(texts, answered, strict=True) if given}
    # Only an answer without content is final; what failed on the way was asked again until it came.
    content = sum(server.injected[kind] for kind in CONTENT_FAULTS)
    assert len(batch.errors) == content
    assert {reason.split(":")[0] for reason in batch.errors.values()} <= {"refused", "unusable answer"}
    assert batch.usage.requests == answered.sum() + content
    assert sum(row["answers"] for row in ScoreStore(tmp_path / "s.sqlite").info()) == answered.sum()
