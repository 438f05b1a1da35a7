"""What a model writes around its JSON, on which scale, and how long: read where it is unambiguous, else missing."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.configuration import LLMProvider, Task
from labelfusion.hub_scripts.cli import main
from labelfusion.scoring import build_scorer, score_texts
from labelfusion.scoring.api import method_choice
from labelfusion.scoring.api.questions import Questions
from labelfusion.scoring.methods.json_answer import JSONMethod
from labelfusion.scoring.methods.registry import METHODS
from labelfusion.scoring.methods.reply_text import BrokenJSONError, json_objects, without_thoughts
from labelfusion.scoring.methods.request_method import Method, UnansweredError
from labelfusion.scoring.methods.server_traits import UnknownScaleError
from labelfusion.scoring.providers.endpoints import resolve
from llm_server import LABELS, LLMServer, truth

TEXTS = [f"text number {i}" for i in range(8)]
GOOD = '{"a": 90, "b": 10}'


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_choice, "_remembered", {})


def method(name: str = "json", multi_label: bool = False, **fields: Any) -> Method:
    provider = LLMProvider.from_any({"model": "m", "api_base": "http://127.0.0.1:1/v1", "method": name, **fields})
    return METHODS[name](provider, resolve(provider), Task(["a", "b"], multi_label))


def read(message: Any, name: str = "json", finish: str = "stop", **fields: Any) -> Any:
    message = message if isinstance(message, dict) else {"content": message}
    return method(name, **fields).read({"choices": [{"message": message, "finish_reason": finish}]}, 1)[0]


def ask(server: LLMServer, texts: list[str] = TEXTS, store: Any = ":memory:", **fields: Any) -> Any:
    provider = {"model": "m", "api_base": server.url, "timeout_s": 60, "method": "json", **fields}
    scorer = build_scorer(provider, server.labels, server.multi_label, store=store)
    scores, batches = score_texts([scorer], texts)
    return scores[:, 0], batches[0]


# --- Around the JSON -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        f'<think>Is it {{a}}? {{\'a\': 1}} or {{"a": 5, "b": 95}}?</think>{GOOD}',
        f'so {{"a": 5, "b": 95}} it is not.</think>\n{GOOD}',  # the opening tag stood in the prompt
        f"[THINK]{{[/THINK]{GOOD}",
        f"{GOOD}<think>I could say more",
        f"Let me judge {{the text}}: {GOOD}",
        f"```json\n{GOOD}\n```\nI chose a {{as in 'a'}} because it fits.",
        f"Answer: {GOOD} So, once more: {GOOD}",
        f'{{"confidences": {GOOD}, "note": "sure"}}',
        f"[{GOOD}]",
        {"content": [{"type": "thinking", "thinking": '{"a": 1, "b": 99}'}, {"type": "text", "text": GOOD}]},
        {"content": [{"type": "text", "text": GOOD[:9]}, {"type": "text", "text": GOOD[9:]}]},
        {"content": None, "tool_calls": [{"type": "function", "function": {"name": "scores", "arguments": GOOD}}]},
        {"content": "", "tool_calls": [{"function": {"name": "scores", "arguments": json.loads(GOOD)}}]},
        {"content": None, "function_call": {"name": "scores", "arguments": GOOD}},
    ],
)
def test_an_answer_is_read_among_other_words(message: Any) -> None:
    np.testing.assert_allclose(read(message), [0.9, 0.1])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('{"a": 90, "b": 10} or rather {"a": 10, "b": 90}', "several answers that differ"),
        ('{"draft": {"a": 90, "b": 10}, "final": {"a": 20, "b": 80}}', "several answers that differ"),
        ('{"draft": {"a": 90, "b": 10}, "final": {"a": 2', "not JSON"),
        ('{"a": 90, "b": 10} No, wait: {"a": 10,', "not JSON"),
        ('<think>{"a": 90, "b": 10}', "empty answer"),
        ('<think>{"a": 90, "b": 10}</think>', "empty answer"),
        ({"content": [{"type": "thinking", "thinking": GOOD}]}, "empty answer"),
        ({"content": None, "reasoning_content": GOOD}, "empty answer"),
        ({"content": '{"a": 9, "b": 1}', "tool_calls": [{"function": {"arguments": '{"a": 1, "b": 9}'}}]}, "differ"),
        ({"content": None, "tool_calls": [{"function": {"arguments": '{"class": "a"}'}}]}, "unknown or missing"),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "refused"),
        ("I cannot say.", "not JSON"),
        ("{" * 5000, "not JSON"),
        ("{x" * 5000 + GOOD, "not JSON"),
        ('{"a":' * 5000, "not JSON"),
    ],
)
def test_an_answer_that_may_be_another_is_missing(message: Any, reason: str) -> None:
    with pytest.raises(UnansweredError, match=reason):
        read(message)


def test_votes_and_guidelines_are_read_without_thoughts() -> None:
    np.testing.assert_allclose(read("<think>A or B? A.</think>\n\nB", "vote", votes=1), [0, 1])
    with pytest.raises(UnansweredError, match="cut off by the token limit"):
        read("<think>A or", "vote", "length", votes=1)


@pytest.mark.parametrize("message", ["<think>Well, it may be", '{"a": 90, "b"', "", "Sure! Let me think about"])
def test_what_is_cut_off_is_missing_for_that_reason(message: str) -> None:
    with pytest.raises(UnansweredError, match="cut off by the token limit"):
        read(message, finish="length")
    np.testing.assert_allclose(read(f"{GOOD} This is because", finish="length"), [0.9, 0.1])


def test_thoughts_are_taken_out_in_linear_time() -> None:
    assert without_thoughts("<think>" * 200_000) == ""
    assert without_thoughts("a<think>b</think>c<THINKING>d") == "ac"
    with pytest.raises(BrokenJSONError):
        json_objects('{"a": "' * 200_000)


def test_an_answer_equal_to_the_example_of_the_instructions_is_none() -> None:
    shown: Any = {"templates": ['Classes:\n{classes}\nAnswer like {"a": 80, "b": 20}.\n{answer}']}
    with pytest.raises(UnansweredError, match="the example of the prompt"):
        read('{"a": 80, "b": 20}', **shown)
    np.testing.assert_allclose(read('{"a": 60, "b": 40}', **shown), [0.6, 0.4])


def test_the_built_in_instructions_show_no_answer() -> None:
    for many in (1, 3):
        for message in method(texts_per_request=many).body(["t"] * many)["messages"]:
            assert "{" not in message["content"]


# --- The format ------------------------------------------------------------------------------------------------------


def test_the_schema_asks_for_whole_per_cents() -> None:
    schema = method().body(["t"])["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["a"] == {"type": "integer", "minimum": 0, "maximum": 100}


def refusing(word: str) -> Any:
    def special(path: str, body: dict[str, Any], text: str) -> Any:
        if word in json.dumps(body.get("response_format")):
            said = f"Invalid schema: property keys should match pattern '^[a-z]+$' ({word})"
            return 400, {"error": {"message": said, "type": "invalid_request_error", "code": None}}
        return None

    return special


@pytest.mark.parametrize(("word", "taken"), [("minimum", "json_schema"), ("Sci/Tech", "json_object"), ("type", None)])
def test_a_schema_that_is_refused_is_left_for_what_is_taken(word: str, taken: str | None) -> None:
    with LLMServer(special=refusing(word), keep=True) as server:
        scores, batch = ask(server, max_concurrency=1)
        assert batch.errors == {}
        np.testing.assert_allclose(scores, [truth(text, LABELS) for text in TEXTS], atol=1e-6)
        assert (server.bodies[-1].get("response_format") or {}).get("type") == taken
        assert server.requests <= len(TEXTS) + 3


def test_a_text_with_a_fault_changes_no_format() -> None:
    for code in ("content_filter", "bad_request"):
        special = lambda path, body, text: (400, {"error": {"code": code}}) if text == TEXTS[0] else None  # noqa: B023, E731
        with LLMServer(special=special, keep=True) as server:
            _, batch = ask(server, max_concurrency=1)
            assert set(batch.errors) == {0}
            assert server.bodies[-1]["response_format"]["type"] == "json_schema"


# --- The scale of several labels -------------------------------------------------------------------------------------


def multi() -> Any:
    return method(multi_label=True)


def confidences(asked: Any, a: float, b: float) -> Any:
    return asked.read({"choices": [{"message": {"content": json.dumps({"a": a, "b": b})}}]}, 1)[0]


def test_per_cents_are_per_cents_from_the_first_one_on() -> None:
    asked = multi()
    np.testing.assert_allclose(confidences(asked, 0, 0), [0, 0])
    with pytest.raises(UnknownScaleError):
        confidences(asked, 1, 0)
    np.testing.assert_allclose(confidences(asked, 85, 3), [0.85, 0.03])
    np.testing.assert_allclose(confidences(asked, 1, 0), [0.01, 0])
    with pytest.raises(UnansweredError, match="another scale"):
        confidences(asked, 0.9, 0.1)


def test_shares_are_shares_once_several_answers_show_it() -> None:
    asked = multi()
    for a in (0.9, 0.8, 0.8):
        with pytest.raises(UnknownScaleError):
            confidences(asked, a, 0.1)
    np.testing.assert_allclose(confidences(asked, 0.7, 0.1), [0.7, 0.1])
    np.testing.assert_allclose(confidences(asked, 1, 0), [1, 0])
    with pytest.raises(UnansweredError, match="another scale"):
        confidences(asked, 85, 3)


def test_the_scale_does_not_matter_for_single_labels() -> None:
    for content in ('{"a": 0.8, "b": 0.2}', '{"a": 80, "b": 20}'):
        np.testing.assert_allclose(read(content), [0.8, 0.2])


def sharing(scale: float, first: dict[str, float] | None = None) -> Any:
    """A model that answers on a scale, but about its first text with `first`."""

    def answer(system: str, user: str) -> str:
        text = user.split("\n")[1]
        if text == TEXTS[0] and first is not None:
            return json.dumps(first)
        right = truth(text, LABELS, multi_label=True)
        return json.dumps({c: round(p * scale, 4) for c, p in zip(LABELS, right, strict=True)})

    return answer


def zeros(**given: float) -> dict[str, float]:
    return {**dict.fromkeys(LABELS, 0.0), **given}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_answers_of_the_unknown_scale_are_read_again(concurrency: int) -> None:
    right = np.array([truth(text, LABELS, True) for text in TEXTS])
    for scale, first, expected in ((1, None, right[0]), (100, zeros(World=1), [0.01, 0, 0, 0])):
        with LLMServer(multi_label=True, answer=sharing(scale, first)) as server:
            scores, batch = ask(server, max_concurrency=concurrency)
            assert batch.errors == {}
            np.testing.assert_allclose(scores[0], expected, atol=1e-6)
            np.testing.assert_allclose(scores[1:], right[1:], atol=1e-6)
            assert server.requests == len(TEXTS)


def test_a_scale_is_remembered_and_its_answers_are_stored(tmp_path: Path) -> None:
    with LLMServer(multi_label=True, answer=sharing(1)) as server:
        first, _ = ask(server, store=tmp_path / "s.sqlite")
        again, batch = ask(server, [*TEXTS, "alone"], store=tmp_path / "s.sqlite")
        assert batch.cached == len(TEXTS)
        np.testing.assert_allclose(again[:-1], first)
        np.testing.assert_allclose(again[-1], truth("alone", LABELS, True), atol=1e-6)


def test_the_cache_command_shows_the_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LLMServer(multi_label=True, answer=sharing(1)) as server:
        ask(server, store=tmp_path / "s.sqlite")
    assert main(["cache", "info", "--store", str(tmp_path / "s.sqlite")]) == 0
    assert "The confidences of m are shares of 1" in capsys.readouterr().out


def test_a_scale_that_stays_unknown_leaves_its_texts_missing_and_open(tmp_path: Path) -> None:
    with LLMServer(multi_label=True, answer=lambda system, user: json.dumps(zeros(World=1))) as server:
        scores, batch = ask(server, store=tmp_path / "s.sqlite")
        assert np.isnan(scores).all()
        assert all("per cent" in reason for reason in batch.errors.values())
        server.answer = sharing(100)
        scores, batch = ask(server, store=tmp_path / "s.sqlite")
        assert batch.cached == 0
        assert batch.errors == {}


def test_unknown_scales_do_not_demote_json_at_once() -> None:
    with LLMServer(multi_label=True, answer=sharing(100, zeros(World=1))) as server:
        _, batch = ask(server, method="auto")
        assert batch.method == "json"
        assert batch.errors == {}


# --- The length ------------------------------------------------------------------------------------------------------


def limits(**fields: Any) -> Any:
    name = fields.pop("method", "json")
    provider = LLMProvider.from_any({"api_base": "http://127.0.0.1:1/v1", "model": "m", **fields})
    body = METHODS[name](provider, resolve(provider), Task(LABELS)).body(["t"])
    return body.get("max_tokens"), body.get("max_completion_tokens")


def test_answers_are_bounded_where_nothing_may_think() -> None:
    (limit, none), answer = limits(), json.dumps(dict.fromkeys(LABELS, 100))
    assert none is None
    assert len(answer) / 4 < limit < 8 * len(answer)
    assert limits(method="vote")[0] >= 9
    assert limits(params={"max_tokens": 9}) == (9, None)
    assert limits(params={"reasoning_effort": "none"})[0] == limit
    for thinking in (
        {"params": {"reasoning_effort": "minimal"}},
        {"params": {"chat_template_kwargs": {"enable_thinking": True}}},
        {"params": {"thinking": {"type": "enabled"}}},
        {"model": "openai/gpt-9-unheard-of", "api_base": None},
    ):
        assert limits(**thinking) == (None, None)
    assert limits(params={"chat_template_kwargs": {"enable_thinking": False}})[0] == limit


@pytest.mark.parametrize(
    ("name", "multi_label", "key"), [
        ("json", False, "fbf77adfc63b5042"), ("vote", False, "7f0f4849daa35b79"),
        ("vote", True, "6a522106aeef364a"), ("logprob", False, "e9d26ff08211a4fd"),
    ],
)  # fmt: skip
def test_keys_of_paid_answers_stay_as_they_were(name: str, multi_label: bool, key: str) -> None:
    provider = LLMProvider.from_any({"model": "m", "api_base": "http://127.0.0.1:1/v1"})
    questions = Questions(provider, resolve(provider), Task(["a", "b"], multi_label))
    assert questions.key(name, "a text").hex()[:16] == key
    questions.learnt.limited = False
    assert questions.key(name, "a text").hex()[:16] == key


def bounded(needed: int, unlimited: str = "good") -> Any:
    """A model that writes `needed` tokens before its answer."""

    def special(path: str, body: dict[str, Any], text: str) -> Any:
        limit = body.get("max_tokens")
        if limit is not None and limit < needed:
            return 200, {"choices": [{"message": {"content": "<think>Well"}, "finish_reason": "length"}]}
        if unlimited == "good":
            return None
        return 200, {"choices": [{"message": {"content": "Well. " * 100}, "finish_reason": "stop"}]}

    return special


def test_a_model_that_needs_more_gets_no_limit_from_then_on() -> None:
    with LLMServer(special=bounded(100_000), keep=True) as server:
        scores, batch = ask(server, max_concurrency=1)
        assert batch.errors == {}
        np.testing.assert_allclose(scores, [truth(text, LABELS) for text in TEXTS], atol=1e-6)
        assert server.requests == len(TEXTS) + 1
        assert batch.usage.requests == server.requests
        assert all("max_tokens" not in body for body in server.bodies[1:])


def test_a_model_that_rambles_on_keeps_its_limit() -> None:
    with LLMServer(special=bounded(100_000, "prose"), keep=True) as server:
        _, batch = ask(server, max_concurrency=1)
        assert sum("max_tokens" not in body for body in server.bodies) == 2
        assert list(batch.errors.values())[2:] == ["unusable answer: cut off by the token limit"] * (len(TEXTS) - 2)


def test_a_limit_that_is_refused_is_left_out() -> None:
    said = {"error": {"message": "Unknown field: max_tokens", "code": 400}}
    special = lambda path, body, text: (400, said) if "max_tokens" in body else None  # noqa: E731
    with LLMServer(special=special) as server:
        _, batch = ask(server, max_concurrency=1)
        assert batch.errors == {}
        assert server.requests == len(TEXTS) + 1


def test_auto_tells_which_method_it_tries_and_why_it_leaves_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "labelfusion.scoring"), LLMServer() as server:
        ask(server, method="auto")
        ask(server, method="auto")
    told = [record.getMessage() for record in caplog.records if "method" in record.getMessage()]
    assert told == [
        "m: trying the method 'decision'",
        "m: the method 'decision' is left: HTTP 404 not_found",
        "m: trying the method 'logprob'",
        "m: the method 'logprob' is left: HTTP 400 unsupported_value",
        "m: trying the method 'json'",
        "m: the method 'json' works",
    ]


def test_a_method_of_several_texts_waits_for_the_scale_too() -> None:
    asked = method(multi_label=True, texts_per_request=2)
    assert isinstance(asked, JSONMethod)
    said = {"1": {"a": 1, "b": 0}, "2": {"a": 90, "b": 1}}
    first, second = asked.read({"choices": [{"message": {"content": json.dumps(said)}}]}, 2)
    assert isinstance(first, UnknownScaleError)
    np.testing.assert_allclose(asked.scores_of(first.values), [0.01, 0])
    np.testing.assert_allclose(second, [0.9, 0.01])  # type: ignore[arg-type]
