"""The unit of work on large data: a table in, the same rows out."""

import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.tokenizer_files import load_tokenizer
from labelfusion.pipelines import run
from labelfusion.pipelines.partitions.partition import Encoded, PredictWork, share_of, values_of
from labelfusion.pipelines.partitions.score_partition import ScoreWork
from labelfusion.routing.policy import most
from llm_server import LABELS, LLMServer, truth

TEXTS = [f"{'a movie' if i % 3 else 'the team'} w{i % 10} w{i // 10}" for i in range(60)]


def served(server: LLMServer, tmp_path: Path, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "api_base": server.url, "method": "json", "max_concurrency": 8, **fields}


def work_on(folder: Path, tmp_path: Path, **options: Any) -> PredictWork:
    return PredictWork(str(folder), scoring={"store": str(tmp_path / "scores.sqlite")}, device="cpu", **options)


@pytest.mark.parametrize("policy", ["always", "never", "auto", 0.3])
def test_a_table_gets_the_answers_of_a_list(saved_model: Callable[..., Path], tmp_path: Path, policy: Any) -> None:
    with LLMServer(labels=[f"class{i}" for i in range(3)]) as server:
        folder = saved_model(llm_providers=[served(server, tmp_path)])
        work = work_on(folder, tmp_path, routing={"llm_policy": policy}, with_sources=True, top_k=2)
        worker = pickle.loads(pickle.dumps(work)).open()  # plain data: engines send it
        table = pa.table({"id": list(range(60)), "text": TEXTS})
        out, counts = worker.classify(table)
        model = LabelFusionForSequenceClassification.from_pretrained(folder)
        expected = run(model, load_tokenizer(folder), TEXTS, llm_policy=policy, scorers=worker.scorers)
    assert out.column_names == [
        "id", "text", "predicted_label", "score", "top_k", "llm_called", "cost_usd", "llm_missing", "sources",
    ]  # fmt: skip
    assert out["id"].to_pylist() == list(range(60))
    best = expected.probabilities.argmax(axis=1)
    assert out["predicted_label"].to_pylist() == [f"class{k}" for k in best]
    np.testing.assert_allclose(out["score"].to_pylist(), expected.probabilities.max(axis=1), atol=2e-6)
    assert counts.rows == 60
    assert counts.asked == {"always": 60, "never": 0, 0.3: 18}.get(policy, counts.asked)


def test_blank_rows_and_empty_tables_keep_the_schema(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    worker = work_on(saved_model(), tmp_path, routing={"llm_policy": "never"}, empty_texts="skip").open()
    out, _ = worker.classify(pa.table({"text": pa.array(["a movie", None, " "], pa.string())}))
    assert [label is None for label in out["predicted_label"].to_pylist()] == [False, True, True]
    empty, counts = worker.classify(pa.table({"text": pa.array([], pa.string())}))
    assert empty.schema.equals(out.schema)
    assert counts.rows == 0
    with pytest.raises(ValueError, match=r"no column 'text'.*\['body'\]"):
        worker.classify(pa.table({"body": ["x"]}))
    with pytest.raises(ValueError, match=r"columns \['score'\] already"):
        worker.classify(pa.table({"text": ["x"], "score": [1]}))


def test_scores_that_come_with_the_rows_are_used(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    worker = work_on(saved_model(), tmp_path).open()
    scores = [[[0.1, 0.1, 0.8]], [None], None, "[[0.8, 0.1, 0.1]]"]
    for rows in (scores[:3], scores[3:]):
        table = pa.table({"text": TEXTS[: len(rows)], "llm_scores": rows})
        out, _ = worker.classify(table)
        plain, _ = worker.classify(table.drop(["llm_scores"]))
        changed = [a != b for a, b in zip(out["score"].to_pylist(), plain["score"].to_pylist(), strict=True)]
        assert changed == [row is not None and row != [None] for row in rows]


@pytest.mark.parametrize("sizes", [[60], [7, 0, 13, 40], [1] * 60])
def test_a_share_is_exact_over_all_partitions(
    saved_model: Callable[..., Path], tmp_path: Path, sizes: list[int]
) -> None:
    texts = TEXTS[:30] * 2  # many equal values
    with LLMServer(labels=[f"class{i}" for i in range(3)]) as server:
        work = work_on(saved_model(llm_providers=[served(server, tmp_path)]), tmp_path, routing={"llm_policy": 0.35})
        worker = PredictWork(**{**work.__dict__, "with_sources": True}).open()
        whole, _ = worker.classify(pa.table({"text": texts}))
        starts = np.cumsum([0, *sizes])
        tables = [pa.table({"text": pa.array(texts[a:b], pa.string())}) for a, b in pairwise(starts)]
        encoded = []
        for number, table in enumerate(tables):
            path = tmp_path / f"{number}.safetensors"
            path.write_bytes(worker.encode(table).to_bytes())
            encoded.append(Encoded.from_file(str(path)))
            np.testing.assert_array_equal(values_of(str(path)), encoded[-1].values)
        asked = server.requests
        shares = share_of([known.values for known in encoded], 0.35)
        parts = [worker.classify(t, None, e, s)[0] for t, e, s in zip(tables, encoded, shares, strict=True)]
        assert server.requests == asked  # all answers are in the store
    together = pa.concat_tables(parts)
    assert sum(together["llm_called"].to_pylist()) == 21
    assert together["llm_called"].to_pylist() == whole["llm_called"].to_pylist()
    assert together["predicted_label"].to_pylist() == whole["predicted_label"].to_pylist()
    np.testing.assert_allclose(together["score"].to_pylist(), whole["score"].to_pylist(), atol=2e-6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_choice_is_that_of_one_list(share: float) -> None:
    values = np.random.default_rng(0).integers(0, 5, 200) / 4.0
    parts = np.split(values, [3, 3, 90, 150])
    chosen = [one.mask(part) for one, part in zip(share_of(parts, share), parts, strict=True)]
    np.testing.assert_array_equal(np.concatenate(chosen), most(values, round(share * 200)))
    assert share_of([], share) == []


def test_scores_are_added(tmp_path: Path) -> None:
    with LLMServer(faults={"refusal": 0.3}) as server:
        providers = [{"model": "m", "api_base": server.url, "method": "json"}]
        scoring = {"store": str(tmp_path / "scores.sqlite")}
        work = ScoreWork(providers, LABELS, empty_texts="skip", scoring=scoring, metadata={"labelfusion": "{}"})
        worker = pickle.loads(pickle.dumps(work)).open()
        out, counts = worker.classify(pa.table({"text": [*TEXTS[:20], None]}))
    assert out.schema.metadata == {b"labelfusion": b"{}"}
    rows = out["llm_scores"].to_pylist()
    refused = sum(row == [None] for row in rows[:20])
    assert 0 < refused == counts.missing
    assert counts.still_open == 0
    assert rows[20] == [None]
    for text, row in zip(TEXTS, rows[:20], strict=False):
        if row != [None]:
            np.testing.assert_allclose(row[0], truth(text, LABELS), atol=1e-4)


def test_an_outage_leaves_rows_open(tmp_path: Path) -> None:
    with LLMServer(status=503) as server:
        providers = [{"model": "m", "api_base": server.url, "method": "json"}]
        scoring = {"store": str(tmp_path / "scores.sqlite"), "failure_limit": 2}
        worker = ScoreWork(providers, LABELS, scoring=scoring).open()
        out, counts = worker.classify(pa.table({"text": TEXTS[:3]}))
    assert counts.still_open == 3
    assert out["llm_scores"].to_pylist() == [[None]] * 3


def test_the_encoder_is_read_in_eval_mode(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    worker = work_on(saved_model(), tmp_path, routing={"llm_policy": 0.5}).open()
    one, two = (worker.encode(pa.table({"text": TEXTS})).embeddings for _ in range(2))
    assert torch.equal(one, two)
