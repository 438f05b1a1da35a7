"""Whatever a server replies, a text has its own scores or none: never a traceback, never another text's scores."""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from labelfusion.configuration import LLMProvider, Task
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.guidelines import write_guidelines
from labelfusion.scoring.methods.json_answer import JSONMethod
from labelfusion.scoring.methods.registry import METHODS
from labelfusion.scoring.methods.request_method import Method, UnansweredError, UnsupportedError, content, first_choice
from labelfusion.scoring.providers.endpoints import CHAT, DECISIONS, resolve
from labelfusion.scoring.providers.pricing import Price, read_usage
from labelfusion.scoring.providers.request_error import RequestError, checked_reply, from_api_error, retry_after

LABELS = ["a", "b"]
TEXTS = [f"text {i}" for i in range(10)]
often = settings(deadline=None, max_examples=80, derandomize=True)


def method(name: str, multi_label: bool = False, **fields: Any) -> Method:
    provider = LLMProvider.from_any({"model": "openai/m", "method": name, "votes": 3, **fields})
    return METHODS[name](provider, resolve(provider), Task(LABELS, multi_label))


def chat(text: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, **fields}]}


# --- Several texts in one reply ---------------------------------------------------------------------------------------


def read_many(text: str, count: int = 10) -> list[Any]:
    return method("json", texts_per_request=10).read(chat(text), count)


def opinion(number: int) -> dict[str, int]:
    return {"a": number, "b": 100 - number}


def test_classes_that_could_be_numbers_of_texts_are_refused() -> None:
    stars = ["1", "2", "3"]

    def scorer(texts_per_request: int) -> Any:
        fields = {"model": "openai/m", "method": "json", "texts_per_request": texts_per_request}
        return build_scorer(fields, stars, False, cache=False)

    with pytest.raises(ValueError, match="longer class names such as '1 star'"):
        scorer(3)
    scorer(2)
    scorer(1)


@pytest.mark.parametrize(
    "keys",
    [
        [str(i) for i in range(10)],
        [str(i) for i in range(2, 12)],
        [f"{i:02}" for i in range(1, 11)],
        [f"Text {i}" for i in range(1, 11)],
        [f" {i}" for i in range(1, 11)],
        [*map(str, range(1, 11)), "11"],
        [*map(str, range(1, 11)), "note"],
        ["0", "1", "2"],
        ["١", "2"],
    ],
)
def test_a_reply_with_other_numbers_than_asked_gives_no_text_scores(keys: list[str]) -> None:
    with pytest.raises(UnansweredError, match="numbered otherwise"):
        read_many(json.dumps({key: opinion(i) for i, key in enumerate(keys)}))


@pytest.mark.parametrize(
    "text",
    [
        '{"1": {"a": 1, "b": 99}, "2": {"a": 5, "b": 95}, "1": {"a": 90, "b": 10}}',
        '[{"a": 1, "b": 99}, {"a": 2, "b": 98}]',
        '[{"1": {"a": 1, "b": 99}}, {"2": {"a": 2, "b": 98}}]',
        "[1, 2]",
        "{" + '"1": {' * 5000 + "}" * 5001,
        '{"1": {"a": ' + "9" * 5000 + ', "b": 1}}',
    ],
)
def test_a_reply_with_a_number_twice_or_of_another_shape_gives_no_text_scores(text: str) -> None:
    with pytest.raises(UnansweredError):
        read_many(text)


def test_a_text_that_the_reply_leaves_out_or_names_a_class_twice_for_is_missing_alone() -> None:
    read = read_many('{"1": {"a": 90, "b": 10}, "3": {"a": 1, "a": 99, "b": 1}, "4": [90, 10], "5": null}', 5)
    np.testing.assert_allclose(read[0], [0.9, 0.1])
    assert [isinstance(answer, UnansweredError) for answer in read] == [False, True, True, True, True]


def test_a_class_twice_in_the_answer_to_one_text_is_no_answer() -> None:
    with pytest.raises(UnansweredError):
        method("json").read(chat('{"a": 1, "b": 2, "a": 99}'), 1)


@often
@given(
    st.lists(st.sampled_from(["0", "1", "2", "3", "4", "01", " 1", "x"]), unique=True).flatmap(
        lambda keys: st.permutations(keys)
    )
)
def test_a_score_is_always_that_of_the_number_that_it_stands_under(keys: list[str]) -> None:
    said = {key: opinion(10 * i) for i, key in enumerate(keys)}
    try:
        answers = read_many(json.dumps(said), 3)
    except UnansweredError:
        assert set(keys) - {"1", "2", "3"}
        return
    for number, answer in enumerate(answers, 1):
        assert isinstance(answer, UnansweredError) == (str(number) not in said)
        if not isinstance(answer, UnansweredError):
            assert answer[0] == pytest.approx(said[str(number)]["a"] / 100)


# --- Replies of every shape ------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["A", "Y", "N", "a", "b", "predicate", "choice", 10**400, -(10**400), "\ud800", "0.5", 0.5, -1.0])
)
words = "choices message content logprobs top_logprobs token logprob answers probabilities value probability type name"
things = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*words.split(), "a", "b", "1"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def like(shape: Any) -> st.SearchStrategy[Any]:
    """`shape`, with anything in any place of it."""
    whole: st.SearchStrategy[Any]
    if isinstance(shape, dict):
        whole = st.fixed_dictionaries({}, optional={key: like(value) for key, value in shape.items()})
    elif isinstance(shape, list):
        whole = st.lists(like(shape[0]), max_size=3)
    else:
        whole = st.just(shape)
    return whole | whole | whole | things


TOKEN = {"token": "A", "logprob": -0.1}
position = {**TOKEN, "top_logprobs": [TOKEN]}
choice = {
    "message": {"content": '{"a": 90, "b": 10}', "refusal": None, "provider_specific_fields": {"refusal": None}},
    "finish_reason": "stop",
    "logprobs": {"content": [position]},
}
probabilities = [{"value": "a", "probability": 0.9}]
REPLY = {
    "choices": [choice],
    "answers": [{"type": "choice", "name": "a", "probability": 0.9, "probabilities": probabilities}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
    "error": {"code": "x"},
}


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("name", list(METHODS))
@often
@given(reply=like(REPLY))
@example(reply={"choices": [{"message": None}]})
@example(reply={"choices": [{"message": {"content": "Y N"}, "logprobs": {"content": ["Y", "N"]}}]})
@example(reply={"choices": [{"message": {}, "logprobs": {"content": [{"token": "Y", "logprob": -math.inf}] * 2}}]})
@example(reply={"choices": [{"message": {"content": "A"}, "logprobs": "A"}]})
@example(reply={"answers": [{"type": "choice", "probabilities": [{"value": ["a"], "probability": "1"}]}]})
def test_a_reply_is_scores_or_a_reason(name: str, multi_label: bool, reply: Any) -> None:
    asked = method(name, multi_label)
    try:
        answers = asked.read(checked_reply(reply, asked.path), 1)
        asked.more([reply])
    except (UnansweredError, UnsupportedError, RequestError) as error:
        reason = str(error)
    else:
        reason = ""
    assert len(reason) < 120
    if reason:
        return
    for answer in answers:
        assert answer.shape == (2,)  # type: ignore[union-attr]
        assert np.isfinite(answer).all()  # type: ignore[arg-type]
        assert 0 <= np.min(answer) <= np.max(answer) <= 1  # type: ignore[arg-type]


@often
@given(like(REPLY))
def test_guidelines_are_text_or_a_reason(reply: Any) -> None:
    with suppress(UnansweredError, RequestError):
        assert content(first_choice(checked_reply(reply))).strip()


@often
@given(st.text() | st.recursive(scalars, lambda i: st.lists(i) | st.dictionaries(st.text(max_size=3), i)).map(str))
def test_what_a_model_writes_is_scores_or_a_reason(text: str) -> None:
    for asked in (method("json"), method("json", texts_per_request=2), method("vote", True, votes=1)):
        try:
            answers = asked.read(chat(text), 1)
        except UnansweredError:
            continue
        assert all(isinstance(answer, UnansweredError) or answer.shape == (2,) for answer in answers)


@pytest.mark.parametrize("logprob", ["-0.1", True, math.nan, 0.5, math.inf, 10**400, [], {}])
def test_what_is_no_log_probability_is_no_answer(logprob: Any) -> None:
    given = {"content": [{"top_logprobs": [{"token": "A", "logprob": logprob}, {"token": "B", "logprob": -3.0}]}]}
    with pytest.raises(UnansweredError):
        method("logprob").read(chat("A", logprobs=given), 1)


@pytest.mark.parametrize("probability", ["0.5", True, math.nan, math.inf, 10**400, None, [0.5], -0.2, 1.2])
def test_what_is_no_probability_is_no_answer(probability: Any) -> None:
    given = [{"value": "a", "probability": probability}, {"value": "b", "probability": 0.5}]
    with pytest.raises(UnansweredError):
        method("decision").read({"answers": [{"type": "choice", "probabilities": given}]}, 1)


def test_a_decision_that_names_a_class_twice_is_no_answer() -> None:
    given = [{"value": name, "probability": p} for name, p in (("a", 0.5), ("b", 0.2), ("a", 0.3))]
    with pytest.raises(UnansweredError):
        method("decision").read({"answers": [{"type": "choice", "probabilities": given}]}, 1)


def test_votes_that_cannot_be_read_do_not_spoil_the_others() -> None:
    choices = [*chat("A")["choices"] * 2, {"message": 5}]
    np.testing.assert_allclose(method("vote").read({"choices": choices}, 1)[0], [1, 0])  # type: ignore[arg-type]


@pytest.mark.parametrize("reply", [{"choices": 5}, {"choices": "abc"}, {"choices": [None]}, {"choices": {}}, [], 5, ""])
def test_choices_of_another_type_are_malformed(reply: Any) -> None:
    with pytest.raises(RequestError, match="malformed"):
        checked_reply(reply)


def test_decisions_are_no_reply_to_a_chat() -> None:
    with pytest.raises(RequestError, match="malformed"):
        checked_reply({"answers": []}, CHAT)
    assert checked_reply({"answers": [{}]}, DECISIONS) == {"answers": [{}]}


# --- Usage, errors, headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [math.nan, math.inf, -5, "7", True, 10**400, [7], {"n": 7}, None, 1e12])
def test_a_count_that_is_none_is_estimated(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
    read = read_usage({"choices": [], "usage": usage}, Price(1.0, 1.0, 0.0), (30, 4))
    assert (read.prompt_tokens, read.completion_tokens, read.cost_usd) == (30, 4, 34)


def test_no_more_is_cached_than_was_sent() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 10**6}}
    assert read_usage({"usage": usage}, Price(1.0, 1.0, 0.5), (1, 1)).cost_usd == 5


@often
@given(like(REPLY).filter(lambda reply: isinstance(reply, dict)), st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)))
def test_usage_is_finite_and_never_negative(reply: dict[str, Any], estimate: tuple[float, float]) -> None:
    usage = read_usage(reply, Price(1e-6, 4e-6, 1e-7), estimate)
    assert all(0 <= n < math.inf for n in (usage.prompt_tokens, usage.completion_tokens, usage.cost_usd))


@often
@given(
    status=things | st.integers(100, 599),
    fields=st.fixed_dictionaries({name: things for name in ("body", "code", "type", "param")}),
    headers=things | st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), things),
)
@example(status=429, fields={"body": {"code": [1]}, "code": {"a": 1}, "type": None, "param": ["x"]}, headers=[])
@example(status=400, fields={"body": "x", "code": 10**5000, "type": None, "param": None}, headers={})
def test_an_error_of_a_server_is_a_short_reason(status: Any, fields: dict[str, Any], headers: Any) -> None:
    error = from_api_error(SimpleNamespace(status_code=status, response=SimpleNamespace(headers=headers), **fields))
    assert error.reason.isprintable()
    assert len(error.reason) < 80
    assert isinstance(error.param, str | None)
    assert error.retry_after is None or error.retry_after >= 0


def test_an_error_code_that_is_a_sentence_is_left_out() -> None:
    error = SimpleNamespace(status_code=400, code="your text 'my secret diary' is bad", body=None)
    assert from_api_error(error).reason == "HTTP 400"
    error.code = "context_length_exceeded"
    assert from_api_error(error).reason == "HTTP 400 context_length_exceeded"


@often
@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x"]), st.text() | things))
@example({"retry-after": "nan"})
@example({"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"})
@example({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"})
@example({"retry-after": "1e999"})
def test_a_wait_is_none_or_some_seconds(headers: dict[str, Any]) -> None:
    seconds = retry_after(headers)
    assert seconds is None or seconds >= 0


def test_a_bad_wait_in_milliseconds_leaves_the_one_in_seconds() -> None:
    assert retry_after({"retry-after-ms": "soon", "retry-after": "7"}) == 7


# --- Through the real clients ----------------------------------------------------------------------------------------

OK = b'{"choices": [{"message": {"content": "A"}}], "usage": %s}'
BODIES = {
    "a number of 5,000 digits": OK % (b'{"prompt_tokens": ' + b"9" * 5000 + b"}"),
    "deep nesting": b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no UTF-8": b'{"choices": "\xff\xfe"}',
    "choices that are a number": b'{"choices": 5}',
    "choices that are null": b'{"choices": [null]}',
    "a message that is a list": b'{"choices": [{"message": []}]}',
    "a message that is null": b'{"choices": [{"message": null}]}',
    "content that is a number": b'{"choices": [{"message": {"content": 7}}]}',
    "log-probabilities that are words": b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": ["x"]}}]}',
    "a lone surrogate": b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    "an error with a list as its code": b'{"error": {"code": [1], "message": {}}}',
    "answers that are words": b'{"answers": ["a", "b"]}',
    "NaN": b"NaN",
    "nothing": b"",
    "null": b"null",
    "a string of JSON": b'"{}"',
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Type", self.server.content_type)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(self.server.body)))  # type: ignore[attr-defined]
        for name, value in self.server.extra.items():  # type: ignore[attr-defined]
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("labelfusion.scoring.api.client.FIRST_DELAY_S", 0.0)
    it: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    it.status, it.body, it.extra, it.daemon_threads = 200, b"", {}, True
    it.content_type = "application/json"
    thread = threading.Thread(target=it.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield it
    it.shutdown()
    it.server_close()


def ask(server: Any, name: str, model: str = "m") -> tuple[np.ndarray, dict[int, str]]:
    provider = {"model": model, "api_base": f"http://127.0.0.1:{server.server_port}/v1", "method": name, "votes": 1}
    scores, batches = score_texts([build_scorer(provider, LABELS, False, cache=False)], TEXTS[:1])
    return scores[:, 0], batches[0].errors


@pytest.mark.parametrize("body", list(BODIES.values()), ids=list(BODIES))
def test_an_odd_body_is_a_missing_answer_with_a_reason(server: Any, body: bytes) -> None:
    server.body = body
    for name in ("decision", "logprob"):
        scores, errors = ask(server, name)
        assert np.isnan(scores).all()
        assert list(errors) == [0], name
        assert len(errors[0]) < 120
    provider = {"model": "m", "api_base": f"http://127.0.0.1:{server.server_port}/v1"}
    if body in (BODIES["log-probabilities that are words"], BODIES["a lone surrogate"]):
        assert write_guidelines(provider, LABELS)[0].guidelines in ("x", "?")
    else:
        with pytest.raises(ScoringError, match="wrote no guidelines"):
            write_guidelines(provider, LABELS)


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", "application/octet-stream"])
def test_json_is_read_under_any_content_type(server: Any, content_type: str) -> None:
    """The client gives the text of the body then."""
    server.body, server.content_type = OK % b"{}", content_type
    scores, errors = ask(server, "vote")
    assert errors == {}
    np.testing.assert_allclose(scores, [[1, 0]])


def test_a_page_of_a_proxy_is_a_missing_answer(server: Any) -> None:
    server.body, server.content_type = b"<html>Log in</html>", "text/html"
    scores, errors = ask(server, "vote")
    assert np.isnan(scores).all()
    assert errors[0].startswith("malformed reply")


@pytest.mark.parametrize("usage", [b"NaN", b'{"prompt_tokens": Infinity}', b'{"prompt_tokens": "x"}', b"[[[1]]]"])
def test_odd_usage_leaves_the_answer(server: Any, usage: bytes) -> None:
    server.body = OK % usage
    scores, errors = ask(server, "vote")
    assert errors == {}
    np.testing.assert_allclose(scores, [[1, 0]])


@pytest.mark.parametrize("status", [400, 422, 429, 500])
@pytest.mark.parametrize(
    "body",
    [b'{"error": {"code": {"a": [1]}, "param": ["x"], "type": 5}}', b"[" * 100_000, b"9" * 5000, b'{"error": 5}'],
)
def test_an_odd_error_is_a_reason(server: Any, status: int, body: bytes) -> None:
    server.status, server.body, server.extra = status, body, {"Retry-After": "nan", "retry-after-ms": "-1"}
    _, errors = ask(server, "json")
    assert errors[0].startswith(f"HTTP {status}")


@pytest.mark.slow
@pytest.mark.parametrize("body", list(BODIES.values()), ids=list(BODIES))
def test_an_odd_body_through_litellm_is_a_missing_answer(server: Any, body: bytes) -> None:
    pytest.importorskip("litellm")
    server.body = body
    for name in ("json", "logprob", "vote"):
        scores, errors = ask(server, name, "hosted_vllm/m")
        assert np.isnan(scores).all()
        assert len(errors[0]) < 120


def test_the_schema_names_the_classes_as_the_prompt_does() -> None:
    provider = LLMProvider.from_any({"model": "openai/m", "method": "json"})
    asked = JSONMethod(provider, resolve(provider), Task(["<text>", "b"]))
    assert list(asked.body(["t"])["response_format"]["json_schema"]["schema"]["properties"]) == ["‹text>", "b"]
