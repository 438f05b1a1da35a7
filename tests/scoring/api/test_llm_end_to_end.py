"""The real local LLM behind an OpenAI-compatible HTTP server, asked like any other API."""

import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from labelfusion.hub_scripts.cli import main
from labelfusion.scoring import build_scorer, score_texts
from labelfusion.scoring.local.embedded import resolve_model
from llm_server import LLMServer
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

CLASSES = ["Sports", "Cooking"]
TEXTS = [
    "The striker scored twice and the home team won the match three to one.",
    "Whisk the eggs, fold in the flour and bake the cake for thirty minutes.",
    "She broke the national record in the 400 metres hurdles.",
    "Simmer the onions in butter until they are soft, then add the stock.",
    "The goalkeeper was sent off in the first half of the cup final.",
    "Season the fish with salt, lemon and a little olive oil.",
]


class RealLLMServer(LLMServer):
    """Answers chat completions with the model itself: greedy or sampled text, and its log-probabilities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        folder = resolve_model("embedded/smollm2-135m-instruct")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.alone = threading.Lock()

    def prompt(self, messages: list[dict[str, str]]) -> torch.Tensor:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]

    def _chat(self, body: dict[str, Any], texts: list[str], fault: str | None) -> dict[str, Any]:
        with self.alone, torch.inference_mode():
            ids = self.prompt(body["messages"])
            limit = body.get("max_tokens", 8)
            logprobs = None
            if body.get("logprobs"):
                shares = self.model(ids).logits[0, -1].log_softmax(-1)
                best = shares.topk(body["top_logprobs"])
                top = [
                    {"token": self.tokenizer.decode([i]), "logprob": float(v)}
                    for v, i in zip(best.values, best.indices, strict=True)
                ]
                logprobs = {"content": [{**top[0], "top_logprobs": top}]}
            torch.manual_seed(0)
            sample = body.get("temperature", 1) > 0
            new = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=sample,
                num_return_sequences=body.get("n", 1), pad_token_id=self.tokenizer.eos_token_id,
            )[:, ids.shape[1] :]  # fmt: skip
        choices = [
            {"index": i, "finish_reason": "stop", "logprobs": logprobs,
             "message": {"role": "assistant", "content": self.tokenizer.decode(row, skip_special_tokens=True)}}
            for i, row in enumerate(new)
        ]  # fmt: skip
        return {"object": "chat.completion", "choices": choices}


@pytest.fixture(scope="module")
def server() -> Any:
    try:
        resolve_model("embedded/smollm2-135m-instruct")
    except ImportError as error:
        pytest.skip(str(error))
    with RealLLMServer(labels=CLASSES, offers={"logprobs", "temperature", "n"}, keep=True) as running:
        yield running


def test_scores_over_http_are_those_of_the_model(server: RealLLMServer, tmp_path: Path) -> None:
    provider = {"model": "smollm2", "api_base": server.url, "timeout_s": 120, "min_option_mass": 0.01}
    scorer = build_scorer(provider, CLASSES, False, store=tmp_path / "s.sqlite")
    scores, (batch,) = score_texts([scorer], TEXTS)
    assert batch.method == "logprob"  # no decisions there, so `auto` came to the next best
    assert batch.errors == {}
    asked = {body["messages"][-1]["content"]: body for body in server.bodies if body.get("logprobs")}
    for text, row in zip(TEXTS, scores[:, 0], strict=True):
        ids = server.prompt(asked[f"<text>\n{text}\n</text>"]["messages"])
        with torch.inference_mode():
            shares = server.model(ids).logits[0, -1].softmax(-1)
        found = [0.0, 0.0]
        for i in shares.topk(20).indices.tolist():
            token = server.tokenizer.decode([i]).strip()
            if token in ("A", "B"):
                found["AB".index(token)] += float(shares[i])
        if min(found) > 0:  # both letters were among the twenty likeliest tokens
            np.testing.assert_allclose(row, np.array(found) / sum(found), rtol=1e-3)
        assert math.isclose(row.sum(), 1, rel_tol=1e-5)
    again, (batch,) = score_texts([scorer], TEXTS)
    np.testing.assert_array_equal(again, scores)
    assert batch.cached == len(TEXTS)


def test_answers_of_a_small_model_are_read_or_missing_but_never_made_up(server: RealLLMServer) -> None:
    for method in ("vote", "json"):
        provider = {"model": "smollm2", "api_base": server.url, "method": method, "votes": 3, "timeout_s": 120}
        _, (batch,) = score_texts([build_scorer(provider, CLASSES, False, cache=False)], TEXTS[:3])
        assert set(batch.errors) == set(np.flatnonzero(~batch.mask))
        assert all(reason.startswith("unusable answer") for reason in batch.errors.values())
        given = batch.scores[batch.mask]
        np.testing.assert_allclose(given.sum(axis=1), 1, rtol=1e-5)


def test_the_command_scores_a_file_with_it(server: RealLLMServer, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": ["Sports", "Cooking"] * 3})
    frame.to_csv(tmp_path / "in.csv", index=False)
    provider = json.dumps({"model": "smollm2", "min_option_mass": 0.01})
    command = ["score", str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"), "--llm", provider]
    command += ["--api-base", server.url, "--store", str(tmp_path / "s.sqlite")]
    assert main(command) == 0
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert [len(scores[0]) for scores in out["llm_scores"]] == [2] * 6
