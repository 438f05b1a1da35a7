"""`auto` gives a method up for what the server does not offer, never for the fault of one text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelfusion.scoring import ScoringError, build_scorer, score_texts
from labelfusion.scoring.api import method_choice
from labelfusion.scoring.score_batch import ScoreBatch
from llm_server import LABELS, LLMServer, truth

TEXTS = [f"text number {i}" for i in range(7)]
ALL = {"decisions", "logprobs", "json_schema", "json_object", "n", "temperature"}
TOO_LONG = (400, {"error": {"code": "context_length_exceeded", "message": "too long", "param": "messages"}})
FILTERED = (400, {"error": {"code": "content_filter", "message": "filtered"}})
REFUSED = (400, {"error": {"code": 400, "message": "bad request"}})


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_choice, "_remembered", {})


def ask(server: LLMServer, texts: list[str], store: Any = ":memory:", **fields: Any) -> tuple[Any, ScoreBatch]:
    provider = {"model": "m", "api_base": server.url, "timeout_s": 60, **fields}
    scores, batches = score_texts([build_scorer(provider, LABELS, False, store=store)], texts)
    return scores[:, 0], batches[0]


@pytest.mark.parametrize(
    ("given", "reason"), [(TOO_LONG, "text too long"), (FILTERED, "refused"), (REFUSED, "HTTP 400")]
)
@pytest.mark.parametrize("best", ["decision", "logprob", "json"])
def test_a_text_with_a_fault_costs_only_itself(best: str, given: Any, reason: str) -> None:
    offers = {"decision": ALL, "logprob": ALL - {"decisions"}, "json": ALL - {"decisions", "logprobs"}}[best]

    def special(path: str, body: dict[str, Any], text: str) -> Any:
        return given if text == TEXTS[0] else None

    with LLMServer(offers=offers, special=special) as server:
        scores, batch = ask(server, TEXTS)
        assert batch.method == best
        assert np.isnan(scores[0]).all()
        assert set(batch.errors) == {0}
        assert batch.errors[0].startswith(reason)
        np.testing.assert_allclose(scores[1:], [truth(text, LABELS) for text in TEXTS[1:]], atol=1e-6)
        assert server.requests <= len(TEXTS) + 2 * ("decisions" not in offers) + 2 * ("logprobs" not in offers) + 8
        assert server.stats()["paid_twice"] == 0


def test_prose_about_one_text_changes_no_method() -> None:
    def answer(system: str, user: str) -> str:
        text = user.split("\n")[1]
        return "Well." if text == TEXTS[0] else json.dumps(server._confidences(truth(text, LABELS), None))

    with LLMServer(offers={"json_schema", "n"}, answer=answer) as server:
        scores, batch = ask(server, TEXTS)
        assert batch.method == "json"
        assert batch.errors == {0: "unusable answer: the answer is not JSON"}
        assert not np.isnan(scores[1:]).any()


def test_filtered_texts_never_stop_a_run() -> None:
    special = lambda path, body, text: FILTERED if "number" in text else None  # noqa: E731
    texts = [*(f"bad number {i}" for i in range(40)), "good one"]
    with LLMServer(special=special) as server:
        scores, batch = ask(server, texts, method="json")
        assert len(batch.errors) == 40
        assert not np.isnan(scores[-1]).any()
        _, batch = ask(server, texts)
        assert batch.method == "json"
        assert len(batch.errors) == 40


def test_a_filtered_text_costs_only_itself_among_several_of_a_request() -> None:
    special = lambda path, body, text: FILTERED if TEXTS[2] in text else None  # noqa: E731
    with LLMServer(special=special) as server:
        scores, batch = ask(server, TEXTS, method="json", texts_per_request=7)
        assert set(batch.errors) == {2}
        assert np.isnan(scores).any(axis=1).tolist() == [i == 2 for i in range(7)]


def test_one_text_alone_is_answered_and_proves_nothing(tmp_path: Path) -> None:
    with LLMServer(offers={"json_schema", "temperature"}) as server:
        for i in range(2):
            scores, batch = ask(server, [TEXTS[i]], store=tmp_path / "s.sqlite")
            assert batch.method == "json"
            assert not np.isnan(scores).any()
        server.offers.add("decisions")  # the server is renewed before two texts have told the same
        _, batch = ask(server, TEXTS, store=tmp_path / "s.sqlite")
        assert batch.method == "decision"


def test_a_method_that_is_gone_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLMServer(offers={"decisions", "json_schema", "temperature"}) as server:
        _, batch = ask(server, TEXTS, store=tmp_path / "s.sqlite")
        assert batch.method == "decision"
        server.offers.discard("decisions")
        monkeypatch.setattr(method_choice, "_remembered", {})
        scores, batch = ask(server, [*TEXTS, "new", "newer"], store=tmp_path / "s.sqlite")
        assert batch.method == "json"
        assert not np.isnan(scores).any()


def test_a_refused_key_is_said_at_once() -> None:
    said = [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}]
    with (
        LLMServer(offers=ALL, special=lambda *_: (400, said)) as server,
        pytest.raises(ScoringError, match=r"a key is required .*none was sent.*troubleshooting"),
    ):
        ask(server, TEXTS)
    assert server.requests == 1


def test_parameters_are_given_up_that_only_the_message_names() -> None:
    def special(path: str, body: dict[str, Any], text: str) -> Any:
        if body.get("n", 1) > 4:
            return 400, {"error": {"code": 400, "type": "invalid_request_error", "message": "Field 'n': 1 <= n <= 4"}}
        if body.get("top_logprobs", 0) > 5:
            return 400, {"error": {"code": "400", "message": "top_logprobs must be <= 5"}}
        return None

    with LLMServer(offers=ALL, special=special) as server:
        for method in ("vote", "logprob"):
            scores, batch = ask(server, TEXTS[:3], method=method)
            assert batch.errors == {}
            assert not np.isnan(scores).any()


def test_what_was_found_is_shown_reset_and_forgotten_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelfusion.hub_scripts.cli import main
    from labelfusion.scoring.store import score_store as store_file

    path = tmp_path / "s.sqlite"
    with LLMServer(offers={"json_schema", "temperature"}) as server:
        ask(server, TEXTS, store=path)
        assert main(["cache", "info", "--store", str(path)]) == 0
        assert f"`auto` queries m at {server.url} by 'json'" in capsys.readouterr().out
        monkeypatch.setattr(method_choice, "_remembered", {})
        monkeypatch.setattr(store_file, "METHOD_S", -1.0)  # a week later
        server.offers.add("decisions")
        _, batch = ask(server, ["new", "newer"], store=path)
        assert batch.method == "decision"
    assert main(["cache", "reset", "--store", str(path)]) == 0
    assert "1 methods forgotten" in capsys.readouterr().out
    assert store_file.ScoreStore(path).methods() == []
