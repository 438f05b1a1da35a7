"""Decision APIs in both formats: servers with `/v1/systemone` alone, and the types of OpenAI, Transformers, litellm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LLMProvider, Task
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.api import method_choice
from labelfusion.scoring.methods.decision import DecisionMethod
from labelfusion.scoring.methods.request_method import UnansweredError
from labelfusion.scoring.providers.endpoints import DECISIONS, SYSTEMONE, resolve
from labelfusion.scoring.providers.request_error import RequestError, checked_reply
from labelfusion.scoring.score_batch import ScoreBatch
from llm_server import LABELS, LLMServer, truth
from numpy.typing import NDArray
from pydantic import TypeAdapter

TEXTS = [f"text number {i}" for i in range(6)]
EXAMPLES = [{"text": "A late goal", "label": "Sports"}]


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_choice, "_remembered", {})
    monkeypatch.setattr("labelfusion.scoring.api.client.FIRST_DELAY_S", 0.001)


def ask(
    server: LLMServer, texts: list[str] = TEXTS, store: Any = ":memory:", labels: list[str] | None = None, **fields: Any
) -> tuple[NDArray[np.float32], ScoreBatch]:
    provider = {"model": "m", "api_base": server.url, "timeout_s": 60, "max_concurrency": 1, **fields}
    scorer = build_scorer(provider, labels or server.labels, server.multi_label, store=store)
    scores, batches = score_texts([scorer], texts)
    return scores[:, 0], batches[0]


def method(multi_label: bool = False, labels: list[str] = LABELS, **fields: Any) -> DecisionMethod:
    provider = LLMProvider.from_any({"model": "m", "api_base": "http://localhost:1/v1", **fields})
    described = {"World": "Politics <b>abroad</b>"}
    return DecisionMethod(provider, resolve(provider), Task(labels, multi_label, described), provider.examples)


KINDS = pytest.mark.parametrize(
    ("multi_label", "fields"),
    [(False, {}), (True, {}), (False, {"examples": EXAMPLES, "guidelines": "Be strict."}), (True, {"guidelines": "x"})],
)


# --- Servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("asked", ["decision", "auto"])
@pytest.mark.parametrize("guidelines", [None, "Be strict."])
def test_a_server_with_systemone_alone_is_asked_there(asked: str, multi_label: bool, guidelines: str | None) -> None:
    offers = {"systemone", "json_schema", "temperature"}
    with LLMServer(multi_label=multi_label, offers=offers, keep=True) as server:
        scores, batch = ask(server, method=asked, guidelines=guidelines)
        assert (batch.method, batch.errors) == ("decision", {})
        np.testing.assert_allclose(scores, [truth(t, LABELS, multi_label) for t in TEXTS], atol=1e-6)
        assert server.requests == len(TEXTS) + 1  # the path that is not there is tried once
        assert ["state" in body for body in server.bodies] == [False] + [True] * len(TEXTS)
        assert (batch.usage.requests, batch.usage.prompt_tokens) == (len(TEXTS), server.tokens[0])


def test_the_key_is_that_of_decisions(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    with LLMServer(offers={"decisions"}, port=0) as server:
        _, batch = ask(server, TEXTS[:4], store=store, method="decision")
        assert batch.cached == 0
        server.offers = {"systemone"}
        for cached in (4, 6):
            scores, batch = ask(server, store=store, method="decision")
            assert (batch.cached, batch.errors) == (cached, {})
            np.testing.assert_allclose(scores, [truth(t, LABELS) for t in TEXTS], atol=1e-6)
        assert server.stats()["paid_twice"] == 0


@pytest.mark.parametrize("status", [404, 405, 501])
def test_auto_goes_on_where_neither_is_offered(status: int) -> None:
    asked: list[str] = []

    def special(path: str, body: dict[str, Any], text: str) -> Any:
        asked.append(path)
        fault = {"error": {"code": status, "message": "This model is not a decision model", "type": "not_supported"}}
        return None if path.endswith("/completions") else (status, fault)

    with LLMServer(offers={"decisions", "json_schema", "temperature"}, special=special) as server:
        scores, batch = ask(server)
        assert (batch.method, batch.errors) == ("json", {})
        np.testing.assert_allclose(scores, [truth(t, LABELS) for t in TEXTS], atol=1e-6)
        assert asked[:3] == ["/v1/decisions", "/v1/systemone", "/v1/decisions"]  # two texts, `systemone` once
        assert set(asked[3:]) == {"/v1/chat/completions"}
        with pytest.raises(ScoringError, match=rf"offers no decisions \(HTTP {status} not_supported\).*method='auto'"):
            ask(server, method="decision")


def test_a_server_that_gets_decisions_is_asked_there() -> None:
    with LLMServer(offers=set(), keep=True) as server:
        scorer = build_scorer({"model": "m", "api_base": server.url, "method": "decision"}, LABELS, False, cache=False)
        with pytest.raises(ScoringError, match="offers no decisions"):
            score_texts([scorer], TEXTS[:1])
        server.offers = {"decisions"}
        server.bodies.clear()
        for _ in range(2):
            _, (batch,) = score_texts([scorer], TEXTS[:1])
            assert batch.errors == {}
        assert ["input" in body for body in server.bodies] == [True, True]


def test_a_key_that_is_refused_is_no_path_that_is_not_there() -> None:
    with LLMServer(status=401) as server, pytest.raises(ScoringError, match="a key is required"):
        ask(server, method="decision")
    with LLMServer(status=401) as server, pytest.raises(ScoringError):
        ask(server, TEXTS[:1], method="decision")
    assert server.requests == 1


@pytest.mark.parametrize(("count", "served"), [(64, True), (65, False)])
def test_systemone_takes_64_questions(count: int, served: bool) -> None:
    labels = [f"class {i}" for i in range(count)]
    with LLMServer(labels=labels, multi_label=True, offers={"systemone"}, keep=True) as server:
        if served:
            scores, batch = ask(server, TEXTS[:2], method="decision")
            assert batch.errors == {}
            np.testing.assert_allclose(scores, [truth(t, labels, True) for t in TEXTS[:2]], atol=1e-6)
        else:
            with pytest.raises(ScoringError, match="offers no decisions"):
                ask(server, TEXTS[:2], method="decision")
            assert all("input" in body for body in server.bodies)


@pytest.mark.parametrize("fault", ["refusal", "unknown_class", "out_of_range"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_unusable_answers_are_missing(fault: str, multi_label: bool) -> None:
    if fault == "unknown_class" and multi_label:
        pytest.skip("predicates have no classes")
    with LLMServer(multi_label=multi_label, offers={"systemone"}, faults={fault: 1.0}) as server:
        scores, batch = ask(server, TEXTS[:3], method="decision")
        assert np.isnan(scores).all()
        assert len(batch.errors) == 3


def test_replies_of_another_shape_are_none() -> None:
    good = {"answers": {"0": {"type": "noul", "noul": 0.5}}}
    assert checked_reply(good, SYSTEMONE) == good
    others: list[Any] = [{"answers": {}}, {"answers": []}, {"answers": [{}]}, {}, []]
    for reply in others:
        with pytest.raises(RequestError):
            checked_reply(reply, SYSTEMONE)
    with pytest.raises(RequestError):
        checked_reply(good, DECISIONS)


# --- Requests, by the types of others ---------------------------------------------------------------------------------


@KINDS
def test_requests_fit_the_types_of_openai(multi_label: bool, fields: dict[str, Any]) -> None:
    params = pytest.importorskip("openai.types.decision_create_params")
    body = method(multi_label, **fields).body(["A <text>"])
    taken = TypeAdapter(params.DecisionCreateParams).validate_python(body)
    assert list(taken["questions"])
    assert set(body) == {"model", "input", "questions"}


@KINDS
def test_requests_fit_the_types_of_litellm(multi_label: bool, fields: dict[str, Any]) -> None:
    pytest.importorskip("litellm.systemone")
    from litellm.llms.base_llm.decisions.transformation import ir_to_systemone_request
    from litellm.llms.openai.decisions.transformation import openai_request_to_ir
    from litellm.types.decisions import DecisionsRequest, OpenAIDecisionRequest

    asking = method(multi_label, **fields)
    body = asking.body(["A text"])
    asked = asking.systemone(body)
    DecisionsRequest.model_validate(asked)
    theirs = ir_to_systemone_request("m", openai_request_to_ir(OpenAIDecisionRequest.model_validate(body)))
    assert asked == theirs


@KINDS
def test_requests_fit_the_types_of_transformers(multi_label: bool, fields: dict[str, Any]) -> None:
    decision = pytest.importorskip("transformers.decision")
    serving = pytest.importorskip("transformers.cli.serving.systemone")
    asking = method(multi_label, **fields)
    asked = asking.systemone(asking.body(["A text"]))
    serving.SystemOneRequest.model_validate(asked, strict=True)
    questions = decision.parse_questions(asked["questions"], decision.DecisionConfig())
    if multi_label:
        assert [(q.name, q.type) for q in questions] == [(name, "noul") for name in LABELS]
    else:
        assert [(q.type, q.options) for q in questions] == [("choice", LABELS)]
        assert questions[0].descriptions == ["Politics <b>abroad</b>", None, None, None]


# --- Replies, made by the types of others -----------------------------------------------------------------------------

SHARES = [0.1, 0.2, 0.3, 0.6]  # they do not sum to 1
USAGE = {
    "input_tokens": 9, "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
    "output_tokens": 0, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9,
}  # fmt: skip


def scores_of(reply: Any, multi_label: bool) -> NDArray[np.float32]:
    (scores,) = method(multi_label).read(reply, 1)
    assert not isinstance(scores, UnansweredError)
    return scores


def wanted(multi_label: bool) -> NDArray[np.float32]:
    shares = np.array(SHARES)
    return (shares if multi_label else shares / shares.sum()).astype(np.float32)


@pytest.mark.parametrize("multi_label", [False, True])
def test_replies_of_openai(multi_label: bool) -> None:
    decision: Any = pytest.importorskip("openai.types.decision").Decision
    if multi_label:
        answers = [{"type": "predicate", "name": c, "probability": p} for c, p in zip(LABELS, SHARES, strict=True)]
    else:
        given = [{"value": c, "probability": p} for c, p in zip(LABELS, SHARES, strict=True)]
        answers = [
            {"type": "choice", "choice": "Sci/Tech", "confidence": 0.4, "name": None, "probabilities": given[::-1]}
        ]
    reply: Any = TypeAdapter(decision).validate_python({"answers": answers, "model": "m", "usage": USAGE})
    np.testing.assert_allclose(scores_of(reply.model_dump(), multi_label), wanted(multi_label), atol=1e-6)
    refused = [*answers[1:], {"type": "refusal", "name": LABELS[0]}]
    reply = TypeAdapter(decision).validate_python({"answers": refused, "model": "m", "usage": USAGE})
    with pytest.raises(UnansweredError, match="refused"):
        method(multi_label).read(reply.model_dump(), 1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_replies_of_transformers(multi_label: bool) -> None:
    decision = pytest.importorskip("transformers.decision")
    asking = method(multi_label)
    questions = decision.parse_questions(
        asking.systemone(asking.body(["A text"]))["questions"], decision.DecisionConfig()
    )
    given = [[p, 1 - p] for p in SHARES] if multi_label else [SHARES]
    answers = {q.name: q.answer(p) for q, p in zip(questions, given, strict=True)}
    np.testing.assert_allclose(scores_of({"answers": answers}, multi_label), wanted(multi_label), atol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_replies_of_litellm(multi_label: bool) -> None:
    types = pytest.importorskip("litellm.types.decisions")
    if multi_label:
        answers: dict[str, Any] = {c: {"type": "noul", "noul": p} for c, p in zip(LABELS, SHARES, strict=True)}
    else:
        shares = dict(zip(LABELS, SHARES, strict=True))
        answers = {"0": {"type": "choice", "choice": "Sci/Tech", "probabilities": shares}}
    reply = types.DecisionsResponse.model_validate({"model": "m", "answers": answers})
    np.testing.assert_allclose(scores_of(reply.model_dump(), multi_label), wanted(multi_label), atol=1e-6)


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"0": None},
        {"0": {"type": "choice", "choice": "World", "probabilities": {"World": 0.9, "Sports": 0.1}}},
        {"0": {"type": "choice", "choice": "World", "probabilities": {c: "1" for c in LABELS}}},
        {"0": {"type": "choice", "choice": "World", "probabilities": {**dict.fromkeys(LABELS, 0.2), "Weather": 0.2}}},
        {"0": {"type": "choice", "choice": "World"}},
        {"0": {"type": "noul", "noul": 0.5}},
        {"1": {"type": "choice", "probabilities": dict.fromkeys(LABELS, 0.25)}, "0": None},
        {c: {"type": "choice", "probabilities": dict.fromkeys(LABELS, 0.25)} for c in ("0", "1")},
    ],
)
def test_other_answers_are_none(answers: Any) -> None:
    with pytest.raises(UnansweredError):
        method().read({"answers": answers}, 1)
    with pytest.raises(UnansweredError):
        method(True).read({"answers": {**answers, **{c: {"type": "noul", "noul": 2.0} for c in LABELS}}}, 1)
