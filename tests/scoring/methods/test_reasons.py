"""Why scores are missing: messages for people, kinds for code."""

import copy
import json
import pickle
from typing import Any

import pytest
from labelfusion.configuration import LLMProvider
from labelfusion.scoring import build_scorer, score_texts
from labelfusion.scoring.budget import Budget
from labelfusion.scoring.reasons import FINAL, Missing, MissingKind, add_reason
from llm_server import LLMServer

LABELS = ["x", "y"]


def test_a_reason_is_its_message_and_keeps_its_kind() -> None:
    reason = Missing(MissingKind.REFUSED, "refused")
    assert (reason, str(reason), f"{reason}", json.dumps(reason)) == ("refused", "refused", "refused", '"refused"')
    for twin in (pickle.loads(pickle.dumps(reason)), copy.deepcopy(reason), Missing.of(reason)):
        assert (twin, twin.kind) == (reason, MissingKind.REFUSED)
    named = reason.named("judge")
    assert (named, named.kind) == ("judge: refused", MissingKind.REFUSED)
    plain = Missing.of("refused")  # by its words alone, it may be anything
    assert (plain.kind, plain.is_final) == (MissingKind.OTHER, False)


def test_reasons_of_several_llms_are_joined_each_once() -> None:
    reasons: dict[int, Missing] = {}
    for said in (
        Missing(MissingKind.REFUSED, "a: refused"),
        Missing(MissingKind.REFUSED, "a: refused"),
        Missing(MissingKind.DEADLINE, "deadline"),
        Missing(MissingKind.TOO_LONG, "b: text too long"),
    ):
        add_reason(reasons, 7, said)
    assert reasons == {7: "a: refused; deadline; b: text too long"}
    assert reasons[7].kind == MissingKind.DEADLINE  # not final: it may be queried again
    add_reason(reasons, 8, "words alone")
    assert reasons[8].kind == MissingKind.OTHER


def _replying(status: int, code: str = "some_code") -> dict[str, Any]:
    return {"special": lambda path, body, text: (status, {"error": {"code": code, "message": code}})}


@pytest.mark.parametrize(
    ("options", "text", "kind", "message"),
    [
        ({"faults": {"refusal": 1.0}}, "a", MissingKind.REFUSED, "refused"),
        ({"faults": {"unknown_class": 1.0}}, "a", MissingKind.UNREADABLE, "unusable answer: "),
        ({}, " ", MissingKind.NO_TEXT, "empty text"),
        (_replying(400, "content_filter"), "a", MissingKind.REFUSED, "refused by a content filter (HTTP 400"),
        (_replying(400, "context_length_exceeded"), "a", MissingKind.TOO_LONG, "text too long for the model (HTTP 400"),
        (_replying(400), "a", MissingKind.REJECTED, "HTTP 400 some_code"),
        (_replying(422), "a", MissingKind.REJECTED, "HTTP 422 some_code"),
        (_replying(418), "a", MissingKind.FAILED, "HTTP 418 some_code"),
    ],
)
def test_every_reason_of_an_api_has_its_kind(
    options: dict[str, Any], text: str, kind: MissingKind, message: str
) -> None:
    with LLMServer(**options) as server:
        provider = LLMProvider("m", api_base=server.url, method="json", price=(0, 0))
        _, (batch,) = score_texts([build_scorer(provider, server.labels, False, cache=False)], [text])
    reason = Missing.of(batch.errors[0])
    assert (reason.kind, reason[: len(message)]) == (kind, message)
    assert reason.is_final == (kind in FINAL) == (kind != MissingKind.FAILED)


def test_a_spent_budget_is_known_by_its_kind() -> None:
    with LLMServer() as server:
        provider = LLMProvider("m", api_base=server.url, method="json", price=(1, 1))
        scorer = build_scorer(provider, LABELS, False, cache=False)
        _, (batch,) = score_texts([scorer], ["a", "b"], max_cost_usd=Budget(1.0, spent=1.0))
        assert server.requests == 0
    assert [Missing.of(batch.errors[i]).kind for i in range(2)] == [MissingKind.BUDGET] * 2
    assert batch.errors[0] == "budget of $1 reached"


def test_what_no_function_and_no_record_says() -> None:
    for model in ("recorded", "callable/f"):
        _, (batch,) = score_texts([build_scorer(model, LABELS, False)], ["a"])
        assert Missing.of(batch.errors[0]).kind == MissingKind.NO_SCORES
