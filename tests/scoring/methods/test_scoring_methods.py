"""Each method of asking, against a real HTTP server whose right answers are known."""

from typing import Any

import numpy as np
import pytest
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.methods.request_method import UnansweredError, UnsupportedError
from labelfusion.scoring.providers.pricing import Price, read_usage
from labelfusion.scoring.score_batch import ScoreBatch
from llm_server import CONTENT_FAULTS, LABELS, LLMServer, truth
from numpy.typing import NDArray

TEXTS = [f"text number {i}" for i in range(12)]
OFFERS = {
    "decision": {"decisions"},
    "logprob": {"logprobs", "temperature"},
    "json": {"json_schema", "temperature"},
    "vote": {"n", "temperature"},
}


def ask(server: LLMServer, texts: list[str] = TEXTS, **fields: Any) -> tuple[NDArray[np.float32], ScoreBatch]:
    provider = {"model": "openai/stand-in", "api_base": server.url, "timeout_s": 60, **fields}
    scores, batches = score_texts([build_scorer(provider, server.labels, server.multi_label, store=":memory:")], texts)
    return scores[:, 0], batches[0]


def expected(method: str, texts: list[str], labels: list[str], multi_label: bool) -> NDArray[np.float32]:
    scores = np.array([truth(text, labels, multi_label) for text in texts], dtype=np.float32)
    if method == "vote":  # the stand-in always votes for what it thinks
        return (scores > 0.5 if multi_label else np.eye(len(labels))[scores.argmax(1)]).astype(np.float32)
    return scores


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("method", list(OFFERS))
def test_scores_are_those_of_the_model(method: str, multi_label: bool) -> None:
    with LLMServer(multi_label=multi_label, offers=OFFERS[method], keep=True) as server:
        scores, batch = ask(server, [*TEXTS, TEXTS[3]], method=method)
        np.testing.assert_allclose(scores, expected(method, [*TEXTS, TEXTS[3]], LABELS, multi_label), atol=1e-6)
        assert batch.method == method
        assert batch.errors == {}
        assert server.requests == len(TEXTS)  # one request a text, also for several classes; the repeated text once
        assert (batch.usage.requests, batch.usage.prompt_tokens) == (len(TEXTS), server.tokens[0])
        assert batch.usage.completion_tokens == server.tokens[1]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("method", list(OFFERS))
@pytest.mark.parametrize("fault", CONTENT_FAULTS)
def test_an_answer_that_says_nothing_is_missing_and_counted(method: str, multi_label: bool, fault: str) -> None:
    if (method, fault) in (("decision", "empty"), ("decision", "prose")) or (
        method == "decision" and multi_label and fault == "unknown_class"
    ):
        fault = "out_of_range"
    with LLMServer(multi_label=multi_label, offers=OFFERS[method], faults={fault: 0.5}) as server:
        scores, batch = ask(server, [f"{fault} {i}" for i in range(12)], method=method)
        gone = np.isnan(scores).any(axis=1)
        assert 0 < gone.sum() < 12  # the faults hit some of the texts
        assert np.isnan(scores[gone]).all()
        assert sorted(batch.errors) == np.flatnonzero(gone).tolist()
        right = expected(method, [f"{fault} {i}" for i in range(12)], LABELS, multi_label)
        np.testing.assert_allclose(scores[~gone], right[~gone], atol=1e-6)
        wanted = "refused" if fault == "refusal" else "unusable answer"
        assert all(reason.startswith(wanted) for reason in batch.errors.values())
        assert server.requests == 12  # an answer that was paid is not asked for again


def test_auto_takes_the_best_that_is_offered_and_remembers(tmp_path: Any) -> None:
    wanted = {"decision": {"decisions", "logprobs"}, "logprob": {"logprobs"}, "json": {"json_object"}, "vote": {"n"}}
    for method, offers in wanted.items():
        store = tmp_path / f"{method}.sqlite"
        answer = (lambda system, user: "B") if method == "vote" else None
        with LLMServer(offers=offers, answer=answer) as server:
            provider = {"model": f"model-for-{method}", "api_base": server.url}
            scorer = build_scorer(provider, LABELS, False, store=store)
            _, batches = score_texts([scorer], TEXTS)
            assert batches[0].method == method
            assert batches[0].errors == {}
            again = build_scorer(provider, LABELS, False, store=store)
            _, batches = score_texts([again], [*TEXTS, "one more"])
            assert batches[0].method == method
            assert batches[0].cached == len(TEXTS)
            probes = 3 * (method == "vote")  # its first texts were asked by `json` before, in vain
        assert sum(server.paid.values()) == len(TEXTS) + 1 + probes  # closed: no reply is being counted


def test_auto_remembers_for_the_next_process(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelfusion.scoring.api import method_choice

    with LLMServer(offers={"json_schema", "temperature"}, keep=True) as server:
        provider = {"model": "forgetful", "api_base": server.url}
        score_texts([build_scorer(provider, LABELS, False, store=tmp_path / "s.sqlite")], TEXTS)
        monkeypatch.setattr(method_choice, "_remembered", {})
        server.bodies.clear()
        score_texts([build_scorer(provider, LABELS, False, store=tmp_path / "s.sqlite")], ["new text"])
        sent = ["max_tokens", "messages", "model", "response_format", "temperature"]
        assert [sorted(body) for body in server.bodies] == [sent]


def test_a_model_that_offers_nothing_is_an_error() -> None:
    with LLMServer(status=404) as server, pytest.raises(ScoringError, match="no model 'nothing'"):
        score_texts([build_scorer({"model": "nothing", "api_base": server.url}, LABELS, False, cache=False)], TEXTS)


def test_a_server_that_has_another_model_says_so_whatever_its_status() -> None:
    def reply(path: str, body: dict[str, Any], text: str) -> tuple[int, Any]:
        return (404, {"detail": "Not Found"}) if "chat" not in path else (400, {"detail": "Server is pinned to 'b'."})

    with LLMServer(special=reply) as server, pytest.raises(ScoringError, match="no model 'a'"):
        score_texts([build_scorer({"model": "a", "api_base": server.url}, LABELS, False, cache=False)], TEXTS)
    assert server.requests <= 5


@pytest.mark.parametrize("offers", [{"json_object"}, {"temperature"}, set()])
def test_json_gives_up_what_the_server_does_not_know(offers: set[str]) -> None:
    with LLMServer(offers=offers) as server:
        scores, _ = ask(server, method="json")
        np.testing.assert_allclose(scores, expected("json", TEXTS, LABELS, False), atol=1e-6)


def test_what_was_given_up_does_not_change_the_key(tmp_path: Any) -> None:
    with LLMServer(offers={"json_object"}) as server:
        provider = {"model": "m", "api_base": server.url, "method": "json"}
        for _ in range(2):
            scorer = build_scorer(provider, LABELS, False, store=tmp_path / "s.sqlite")
            score_texts([scorer], TEXTS[:6])
            _, batches = score_texts([scorer], TEXTS)
        assert batches[0].cached == len(TEXTS)
        assert server.stats()["paid_twice"] == 0


def test_servers_that_ignore_n_are_asked_again_for_votes() -> None:
    with LLMServer(offers={"temperature"}) as server:
        scores, _ = ask(server, TEXTS[:3], method="vote", votes=3)
        assert server.requests == 9
        np.testing.assert_allclose(scores, expected("vote", TEXTS[:3], LABELS, False))


def test_votes_that_are_asked_one_by_one_have_seeds_of_their_own() -> None:
    with LLMServer(offers={"temperature", "seed"}, keep=True) as server:
        ask(server, TEXTS[:1], method="vote", votes=3, params={"seed": 7})
        assert [body["seed"] for body in server.bodies] == [7, 8, 9]


def test_votes_become_shares() -> None:
    votes = iter("AABBA" * 10)
    with LLMServer(offers={"n", "temperature"}, answer=lambda system, user: next(votes)) as server:
        scores, _ = ask(server, ["one text"], method="vote", votes=5)
        np.testing.assert_allclose(scores, [[0.6, 0.4, 0.0, 0.0]], atol=1e-6)


def test_unseen_letters_share_what_is_left() -> None:
    from labelfusion.configuration import LLMProvider, Task
    from labelfusion.scoring.methods.logprob import LogprobMethod
    from labelfusion.scoring.providers.endpoints import resolve

    provider = LLMProvider("m", api_base="http://localhost:1")
    method = LogprobMethod(provider, resolve(provider), Task(LABELS))
    top = [
        {"token": "B", "logprob": np.log(0.7)},
        {"token": " B", "logprob": np.log(0.1)},
        {"token": "A", "logprob": np.log(0.1)},
    ]
    reply = {"choices": [{"logprobs": {"content": [{"token": "B", "logprob": -0.3, "top_logprobs": top}]}}]}
    (scores,) = method.read(reply, 1)
    assert isinstance(scores, np.ndarray)
    # 0.1 of the mass was not returned: C and D get half of it each, before all is made to sum to 1.
    np.testing.assert_allclose(scores, np.array([0.1, 0.8, 0.05, 0.05]), atol=1e-6)


def test_several_texts_in_one_request() -> None:
    with LLMServer(keep=True) as server:
        scores, batch = ask(server, TEXTS, method="json", texts_per_request=5)
        np.testing.assert_allclose(scores, expected("json", TEXTS, LABELS, False), atol=1e-6)
        assert server.requests == 3
        assert batch.usage.requests == 3


def test_one_bad_text_of_a_request_costs_only_itself() -> None:
    import json

    def answer(system: str, user: str) -> str:
        good = {label: 25 for label in LABELS}
        return json.dumps({"1": good, "2": {**good, "Weather": 3}, "4": good})

    with LLMServer(answer=answer) as server:
        scores, batch = ask(server, TEXTS[:4], method="json", texts_per_request=4)
        assert np.isnan(scores).any(axis=1).tolist() == [False, True, True, False]
        assert set(batch.errors) == {1, 2}


def test_many_classes() -> None:
    labels = [f"intent {i}" for i in range(77)]
    for method in ("decision", "json", "vote"):
        with LLMServer(labels=labels, offers=OFFERS[method]) as server:
            scores, batch = ask(server, TEXTS[:4], method=method)
            assert batch.errors == {}
            np.testing.assert_allclose(scores, expected(method, TEXTS[:4], labels, False), atol=1e-6)
    with LLMServer(labels=labels) as server, pytest.raises(ValueError, match="20 classes at most"):
        ask(server, method="logprob")


def test_a_method_that_cannot_take_several_texts_says_so() -> None:
    with pytest.raises(ValueError, match="one text a request"):
        build_scorer({"model": "m", "api_base": "http://x", "method": "vote", "texts_per_request": 2}, LABELS, False)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_missing_and_costs_nothing(text: str) -> None:
    with LLMServer() as server:
        scores, batch = ask(server, [text, "a text"], method="json")
        assert np.isnan(scores[0]).all()
        assert not np.isnan(scores[1]).any()
        assert batch.errors == {0: "empty text"}
        assert server.requests == 1


def test_odd_texts_go_through() -> None:
    texts = [
        "x" * 100_000,
        "naïve 🙂 \u200d اردو",
        "lone \ud800 surrogate",
        'quotes " and \\ and {braces} {text}',
        "\0null",
    ]
    with LLMServer(offers=OFFERS["decision"]) as server:
        _, batch = ask(server, texts, method="decision")
        assert batch.errors == {}
    with LLMServer() as server:
        scores, batch = ask(server, texts, method="json")
        assert batch.errors == {}
        np.testing.assert_allclose(scores[3], truth(texts[3], LABELS), atol=1e-6)


@pytest.mark.parametrize("reply", ['{"World": 1' + "0" * 400 + ', "Sports": 1}', '{"World": ' + "[" * 100_000, "{}"])
def test_a_degenerate_reply_costs_only_its_own_text(reply: str) -> None:
    with LLMServer(labels=LABELS[:2], answer=lambda system, user: reply if "poison" in user else good) as server:
        good = '{"World": 70, "Sports": 30}'
        scores, batch = ask(server, ["a", "poison", "b"], method="json")
    assert np.isnan(scores).any(axis=1).tolist() == [False, True, False]
    assert "unusable answer" in batch.errors[1]


def read(method: str, labels: list[str], reply: dict[str, Any], multi_label: bool = False) -> Any:
    scorer: Any = build_scorer({"model": "openai/m", "method": method}, labels, multi_label, cache=False)
    return scorer.questions.method(method, "text").read(reply, 1)[0]


def test_the_words_of_a_refusal_are_no_letters() -> None:
    top = [{"token": "I", "logprob": -0.001}, {"token": "A", "logprob": -9.0}, {"token": "B", "logprob": -12.0}]
    logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    filtered = {"message": {"content": "I"}, "finish_reason": "content_filter"}
    for said in ({"message": {"refusal": "I cannot"}}, filtered):
        with pytest.raises(UnansweredError) as caught:
            read("logprob", ["a", "b"], {"choices": [{**said, "logprobs": logprobs}]})
        assert caught.value.refused
    odd = [{"token": "A", "logprob": float("nan")}, {"token": "B", "logprob": -0.1}]
    with pytest.raises(UnansweredError, match="not a number"):
        read("logprob", ["a", "b"], {"choices": [{"logprobs": {"content": [{**odd[0], "top_logprobs": odd}]}}]})


def letters(*tokens: tuple[str, float | None], labels: int = 4, multi_label: bool = False) -> Any:
    top = [{"token": token, "logprob": logprob} for token, logprob in tokens]
    reply = {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}]}
    return read("logprob", LABELS[:labels], reply, multi_label)


@pytest.mark.parametrize(
    "tokens",
    [
        [("Well", np.log(0.9)), ("A", -16.1), ("B", -17.0)],  # crumbs: 1e-7 of the probability
        [("Well", -9999.0), ("A", -9999.0)],
        [("The", np.log(0.3)), ("A", np.log(0.25)), ("B", np.log(0.2)), ("C", np.log(0.2))],  # prose is likelier
        [("A", np.log(0.2)), ("The", np.log(0.19)), ("It", np.log(0.18)), ("Well", np.log(0.17))],  # too little mass
    ],
)
def test_crumbs_of_probability_are_no_answer(tokens: Any) -> None:
    with pytest.raises(UnansweredError, match="no option letter"):
        letters(*tokens)


def test_weak_models_may_be_read_with_less_mass() -> None:
    top = [{"token": "The", "logprob": np.log(0.3)}, {"token": "A", "logprob": np.log(0.1)}]
    reply = {"choices": [{"logprobs": {"content": [{"token": "The", "top_logprobs": top}]}}]}
    provider = {"model": "openai/m", "method": "logprob", "min_option_mass": 0.2}
    questions: Any = build_scorer(provider, LABELS[:2], False, cache=False)
    (scores,) = questions.questions.method("logprob").read(reply, 1)
    assert scores.argmax() == 0
    usual: Any = build_scorer({"model": "openai/m", "method": "logprob"}, LABELS[:2], False, cache=False)
    assert usual.questions.key("logprob", "t") != questions.questions.key("logprob", "t")
    with pytest.raises(ValueError, match="min_option_mass"):
        build_scorer({**provider, "min_option_mass": 0}, LABELS, False, cache=False)


def test_a_letter_that_was_not_returned_holds_no_more_than_the_last_that_was() -> None:
    scores = letters(("A", np.log(0.6)), ("B", np.log(0.001)))
    np.testing.assert_allclose(scores, np.array([0.6, 0.001, 0.001, 0.001]) / 0.603, atol=1e-6)
    scores = letters(("A", -1e-9), ("B", -9999.0))
    np.testing.assert_allclose(scores, [1, 0, 0, 0], atol=1e-6)


def test_spellings_of_a_letter_are_summed_and_null_is_no_probability() -> None:
    tokens = [(" A", np.log(0.3)), ("A", np.log(0.2)), ("a", np.log(0.1)), ("B", np.log(0.4)), ("C", None)]
    np.testing.assert_allclose(letters(*tokens, labels=2), [0.6, 0.4], atol=1e-6)


def test_the_beginning_of_a_word_is_no_letter() -> None:
    top = [{"token": "B", "logprob": -0.01}, {"token": "A", "logprob": -5.0}]

    def ask_letter(*after: str) -> Any:
        content = [{"token": "B", "top_logprobs": top}, *({"token": token} for token in after)]
        return read("logprob", ["World", "Sports", "Business"], {"choices": [{"logprobs": {"content": content}}]})

    for after in ((), (".",), (" Sports",), ("\n",)):
        assert ask_letter(*after).argmax() == 1
    with pytest.raises(UnansweredError, match="'B' begins a word"):
        ask_letter("usiness")


def test_a_reply_without_alternatives_is_no_offer() -> None:
    with pytest.raises(UnsupportedError, match="no alternatives"):
        letters(("A", None))
    reply = {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": -0.1}]}}]}
    with pytest.raises(UnsupportedError, match="no alternatives"):
        read("logprob", LABELS, reply)


def test_crumbs_are_no_answer_in_multi_label() -> None:
    top = [{"token": "Y", "logprob": -7.0}, {"token": "N", "logprob": -9.0}, {"token": "Well", "logprob": -0.001}]
    reply = {"choices": [{"message": {"content": "Y"}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}]}
    with pytest.raises(UnansweredError, match="no option letter"):
        read("logprob", LABELS[:1], reply, True)


def test_decisions_are_those_of_the_classes_that_they_name() -> None:
    answers = [{"type": "predicate", "name": name, "probability": p} for name, p in (("b", 0.9), ("a", 0.1))]
    np.testing.assert_allclose(read("decision", ["a", "b"], {"answers": answers}, True), [0.1, 0.9], atol=1e-6)
    answers[0]["name"] = "a"
    with pytest.raises(UnansweredError, match="unknown or missing classes"):
        read("decision", ["a", "b"], {"answers": answers}, True)
    answers[0] |= {"name": "b", "probability": 10**400}
    with pytest.raises(UnansweredError, match="without probabilities"):
        read("decision", ["a", "b"], {"answers": answers}, True)


def test_usage_that_is_no_number_is_estimated() -> None:
    usage = read_usage({"usage": {"prompt_tokens": "12", "completion_tokens": None}}, Price(1.0, 1.0, 1.0), (7.0, 3.0))
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cost_usd) == (7, 3, 10.0)
