"""`labelfusion score` and `labelfusion cache` on files."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from forked import Popen
from labelfusion.configuration import LLMProvider
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.io.journal import one_run
from labelfusion.hub_scripts.io.tables import Table, number_columns
from labelfusion.training.data import prepare
from llm_server import LABELS, LLMServer, truth

ROWS = [
    {"id": f"{i:03}", "text": f'text, "{i % 50}"\nwith a line', "label": LABELS[i % 4], "number": str(i)}
    for i in range(60)
]
SORTED = sorted(LABELS)
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix in SEPARATORS:
        frame.to_csv(path, index=False, sep=SEPARATORS[path.suffix])
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.to_parquet(path, index=False)
    return path


def read(path: Path) -> list[Any]:
    if path.suffix in SEPARATORS:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, sep=SEPARATORS[path.suffix])
        frame["llm_scores"] = frame["llm_scores"].map(json.loads)
        return frame.to_dict("records")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return list(json.loads(path.read_text()))
    return pd.read_parquet(path).to_dict("records")


def score(tmp_path: Path, server: LLMServer, source: Path, out: str, *options: str) -> int:
    base = ["--llm", "m", "--api-base", server.url, "--method", "json", "--store", str(tmp_path / "store.sqlite")]
    return main(["score", str(source), str(tmp_path / out), *base, *options])


def right(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    return np.array([truth(row["text"], SORTED) for row in rows])


FILES = [(f"in.{a}", f"out.{b}") for a, b in itertools.product(["csv", "jsonl", "parquet"], repeat=2)]


@pytest.mark.parametrize(("source", "out"), [*FILES, ("in.tsv", "out.tsv"), ("in.json", "out.json")])
def test_every_kind_of_file(tmp_path: Path, source: str, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, write(tmp_path / source), out, "--chunk-size", "25") == 0
        rows = read(tmp_path / out)
        assert [(r["id"], r["text"], r["label"]) for r in rows] == [(r["id"], r["text"], r["label"]) for r in ROWS]
        scores = np.array([[list(p) for p in row["llm_scores"]] for row in rows])
        np.testing.assert_allclose(scores[:, 0], right(ROWS), atol=1e-5)
        assert server.requests == 50  # equal texts once, in different chunks too
        data = prepare(tmp_path / out)  # what `train` makes of it
        assert data.classes == SORTED
        assert data.llm_scores is not None
        np.testing.assert_allclose(data.llm_scores[:, 0], right(ROWS), atol=1e-5)
        if source == "in.csv" and out == "out.parquet":
            assert pd.read_parquet(tmp_path / out)["number"].dtype == np.int64  # and "001" stays a text
        assert {p.name for p in tmp_path.iterdir()} <= {
            source,
            out,
            out + ".md",
            out + ".classes.json",
            *stores(tmp_path),
        }
    card = (tmp_path / f"{out}.md").read_text()
    assert "| `m` | json | zero-shot |" in card
    assert "60 of 60" in card
    assert str(tmp_path) not in card
    assert "60 answered" in capsys.readouterr().err


def stores(tmp_path: Path) -> set[str]:
    return {p.name for p in tmp_path.glob("store.sqlite*")}


def test_a_folder_can_be_loaded_as_a_data_set(tmp_path: Path) -> None:
    from datasets import load_dataset

    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, write(tmp_path / "in.parquet"), "scored") == 0
    loaded = load_dataset(str(tmp_path / "scored"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["id", "text", "label", "number", "llm_scores"]
    np.testing.assert_allclose(loaded[7]["llm_scores"][0], truth(ROWS[7]["text"], SORTED), atol=1e-5)


def test_class_names_that_a_data_set_declares(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    data = {"text": [f"t {i}" for i in range(8)], "label": [i % 4 for i in range(8)]}
    Dataset.from_dict(data, features=features).to_parquet(str(tmp_path / "in.parquet"))
    with LLMServer() as server:
        assert score(tmp_path, server, tmp_path / "in.parquet", "out.parquet") == 0
    out = Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert out.features["label"].names == LABELS
    np.testing.assert_allclose(out[3]["llm_scores"][0], truth("t 3", LABELS), atol=1e-5)


def test_a_data_set_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)})
    data = {"text": [f"t {i}" for i in range(8)], "label": [i % 4 for i in range(8)]}
    asked: list[Any] = []

    def load_dataset(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return datasets.Dataset.from_dict(data, features=features).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with LLMServer() as server:
        base = ["--llm", "m", "--api-base", server.url, "--store", str(tmp_path / "s.sqlite"), "--split", "test"]
        assert main(["score", "someone/news", str(tmp_path / "out.parquet"), *base]) == 0
    assert asked == [("someone/news", {"split": "test", "streaming": True})]
    out = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert out.features["label"].names == LABELS
    assert out["label"] == data["label"]
    np.testing.assert_allclose(out[5]["llm_scores"][0], truth("t 5", LABELS), atol=1e-5)
    assert "`someone/news`" in (tmp_path / "out.parquet.md").read_text()


def test_options_from_a_file(tmp_path: Path) -> None:
    with LLMServer(labels=SORTED) as server:
        config = {
            "llm": ["m", {"model": "m2", "method": "vote", "votes": 1}],
            "api-base": server.url,
            "method": "json",
            "labels": SORTED,
            "price": [1, 2],
            "no_cache": True,
        }
        (tmp_path / "c.yaml").write_text(json.dumps(config))  # JSON is YAML
        source = write(tmp_path / "in.csv")
        assert main(["score", str(source), str(tmp_path / "out.jsonl"), "--config", str(tmp_path / "c.yaml")]) == 0
    assert [len(row["llm_scores"]) for row in read(tmp_path / "out.jsonl")] == [2] * 60


def test_several_llms_and_missing_answers(tmp_path: Path) -> None:
    with LLMServer(labels=SORTED) as good, LLMServer(labels=SORTED, faults={"refusal": 0.4}) as other:
        second = json.dumps({"model": "m2", "api_base": other.url, "method": "vote", "votes": 1})
        assert score(tmp_path, good, write(tmp_path / "in.csv"), "out.jsonl", "--llm", second) == 0
        rows = read(tmp_path / "out.jsonl")
        assert all(len(row["llm_scores"]) == 2 and row["llm_scores"][0] is not None for row in rows)
        refused = [row["llm_scores"][1] is None for row in rows]
        assert 5 < sum(refused) < 50
        data = prepare(tmp_path / "out.jsonl")
        assert data.llm_scores is not None
        assert [bool(np.isnan(row[1]).any()) for row in data.llm_scores] == refused


def test_multi_label(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f"t {i}", "labels": [LABELS[i % 4], LABELS[(i + 1) % 4]]} for i in range(8)]
    with LLMServer(labels=SORTED, multi_label=True) as server:
        assert score(tmp_path, server, write(tmp_path / "in.jsonl", rows), "out.jsonl", "--multi-label") == 0
    scores = np.array([row["llm_scores"][0] for row in read(tmp_path / "out.jsonl")])
    np.testing.assert_allclose(scores, [truth(r["text"], SORTED, True) for r in rows], atol=1e-5)


def test_given_labels_take_the_order_that_training_will_use(tmp_path: Path) -> None:
    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, write(tmp_path / "in.csv"), "a.jsonl", "--labels", ",".join(LABELS)) == 0
    np.testing.assert_allclose([row["llm_scores"][0] for row in read(tmp_path / "a.jsonl")], right(ROWS), atol=1e-5)
    rows = [{"text": f"t {i}"} for i in range(4)]
    with LLMServer() as server:
        assert score(tmp_path, server, write(tmp_path / "b.jsonl", rows), "c.jsonl", "--labels", ",".join(LABELS)) == 0
    np.testing.assert_allclose(read(tmp_path / "c.jsonl")[1]["llm_scores"][0], truth("t 1", LABELS), atol=1e-5)


def test_a_dry_run_asks_nothing_and_needs_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    source = write(tmp_path / "in.csv")
    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, source, "out.csv", "--dry-run", "--price", "2,10") == 0
        assert server.requests == 0
    output = capsys.readouterr().out
    assert "60 rows, 50 distinct texts, 4 classes. Nothing has been sent." in output
    assert "50 requests" in output
    assert not (tmp_path / "out.csv").exists()
    arguments = ["score", str(source), "x.csv", "--dry-run", "--price", "2,10", "--store", str(tmp_path / "s")]
    assert main([*arguments, "--llm", "openai/gpt-5-nano"]) == 0
    assert "OPENAI_API_KEY is not set" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [None, ""])
def test_data_without_labels_are_noted_before_anything_is_paid(
    labels: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": row["text"]} | ({} if labels is None else {"label": labels}) for row in ROWS]
    source = write(tmp_path / "in.csv", rows)
    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, source, "out.csv", "--labels", ",".join(SORTED), "--dry-run") == 0
        assert not server.requests
        told = capsys.readouterr().err
        assert ("no column `label` or `labels`" if labels is None else "no label in its column 'label'") in told
        assert f"add the labels to {tmp_path / 'out.csv'} before you train" in told
        assert score(tmp_path, server, source, "out.csv", "--labels", ",".join(SORTED)) == 0
        assert "No score is lost" in capsys.readouterr().err
        assert score(tmp_path, server, write(tmp_path / "labelled.csv"), "labelled-out.csv") == 0
        assert "Note:" not in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "out.csv").assign(label=[row["label"] for row in ROWS])  # what the note advises
    table.to_csv(tmp_path / "out.csv", index=False)
    found = prepare(tmp_path / "out.csv")
    assert found.llm_scores is not None
    np.testing.assert_allclose(found.llm_scores[:, 0], right(ROWS), atol=1e-6)


def test_a_budget_stops_and_a_higher_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.csv")
    options = ("--price", "2,10", "--max-concurrency", "2")
    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, source, "out.jsonl", *options, "--max-cost-usd", "0.01") == 1
        first = server.requests
        assert 5 < first < 45
        assert sum(row["llm_scores"][0] is None for row in read(tmp_path / "out.jsonl")) > 5
        assert "the same command queries only these" in capsys.readouterr().err
        assert score(tmp_path, server, source, "out.jsonl", *options, "--max-cost-usd", "1") == 0
        assert server.requests == 50
    assert all(row["llm_scores"][0] for row in read(tmp_path / "out.jsonl"))
    assert "60 of 60" in (tmp_path / "out.jsonl.md").read_text()


def test_one_limit_for_all_runs_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write(tmp_path / "pool.csv")
    rows = [{"text": f"text {i}", "label": LABELS[i % 4]} for i in range(300)]
    source = write(tmp_path / "in.csv", rows)
    with LLMServer(labels=SORTED, latency=0.02, thinks=lambda text: 100) as server:
        server.answer = lambda system, user: (
            "Be brief." if "<text>" not in user else json.dumps(dict(zip(SORTED, (1, 2, 3, 4), strict=True)))
        )
        command = [
            sys.executable, "-m", "labelfusion.hub_scripts.cli", "score", str(source), str(tmp_path / "out.jsonl"),
            "--llm", "m", "--api-base", server.url, "--method", "json", "--max-concurrency", "4", "--price", "2,10",
            "--no-cache", "--guidelines", "auto", "--examples", str(pool), "--max-cost-usd", "0.1",
        ]  # fmt: skip
        process = Popen(command, stderr=subprocess.DEVNULL)  # killed in its only chunk
        while len(server.bills) < 25:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for _ in range(3):
            assert main(command[3:]) == 1
        spent, dearest = server.billed(2, 10)
    assert 0.08 < spent <= 0.1 + dearest
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("In all runs: $")]
    assert len(told) == 3
    assert "of $0.1 spent" in told[-1]


def test_two_runs_at_once_do_not_share_a_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them would spend the whole limit."""
    source = write(tmp_path / "data.csv")
    with LLMServer(labels=SORTED) as server:
        with one_run(tmp_path / "out.csv"):
            assert score(tmp_path, server, source, "out.csv") == 2
            assert "Another run is writing" in capsys.readouterr().err
            assert score(tmp_path, server, source, "out.csv", "--dry-run") == 0
            assert main(["predict", str(tmp_path), str(source), str(tmp_path / "out.csv")]) == 2
            assert "Another run is writing" in capsys.readouterr().err
        assert server.requests == 0
        assert score(tmp_path, server, source, "out.csv") == 0
    assert not list(tmp_path.glob("*.lock"))


def test_an_outage_stops_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelfusion.scoring.api import client

    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.001)
    source = write(tmp_path / "in.csv")
    with LLMServer(labels=SORTED) as server:
        server.status = 503
        assert score(tmp_path, server, source, "out.csv", "--failure-limit", "3", "--no-cache") == 1
        server.status = None
        assert score(tmp_path, server, source, "out.csv", "--no-cache") == 0
        assert all(row["llm_scores"][0] for row in read(tmp_path / "out.csv"))


def test_a_run_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": LABELS[i % 4]} for i in range(400)]
    source = write(tmp_path / "in.csv", rows)
    with LLMServer(labels=SORTED, latency=0.05) as server:
        command = [
            sys.executable, "-m", "labelfusion.hub_scripts.cli", "score", str(source), str(tmp_path / "out.parquet"),
            "--llm", "m", "--api-base", server.url, "--method", "json", "--max-concurrency", "8",
            "--chunk-size", "50", "--no-cache",
        ]  # fmt: skip
        process = Popen(command, stderr=subprocess.DEVNULL)
        while server.requests < 180:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out.parquet").exists()
        before = server.requests
        # Without the score store: the journal alone keeps the finished chunks.
        assert main(command[3:]) == 0
        assert server.requests - before <= 400 - 100
        assert len(server.paid) == 400
    frame = pd.read_parquet(tmp_path / "out.parquet")
    np.testing.assert_allclose(
        [scores[0] for scores in frame["llm_scores"]], [truth(r["text"], SORTED) for r in rows], atol=1e-5
    )
    assert not (tmp_path / "out.parquet.journal").exists()


def test_an_unfinished_run_with_other_settings_is_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.csv")
    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, source, "out.csv", "--price", "2,10", "--max-cost-usd", "0.001") == 1
        capsys.readouterr()
        assert score(tmp_path, server, source, "out.csv", "--votes-are-not-an-option") == 2
        capsys.readouterr()
        assert score(tmp_path, server, source, "out.csv", "--prompt", "few-shot", "--examples", str(source)) == 2
        assert "unfinished run with other settings (examples, llm)" in capsys.readouterr().err


def test_a_run_that_asked_nothing_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    source, out = write(tmp_path / "data.csv"), tmp_path / "out.csv"
    assert main(["score", str(source), str(out), "--llm", "openai/gpt-5-nano", "--store", str(tmp_path / "s")]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err
    with LLMServer(labels=SORTED) as server:
        assert score(tmp_path, server, source, "out.csv") == 0


def test_nearest_examples_and_guidelines(tmp_path: Path, tiny_encoder_dir: str) -> None:
    source = write(tmp_path / "in.csv")
    with LLMServer(labels=SORTED, keep=True) as server:
        options = (
            "--prompt",
            "nearest",
            "--examples",
            str(source),
            "--num-examples",
            "2",
            "--encoder",
            tiny_encoder_dir,
        )
        assert score(tmp_path, server, source, "out.csv", *options) == 0
        users = [body["messages"][-1]["content"] for body in server.bodies]
        assert all(user.count("Answer:") == 2 for user in users)
        for user in users:
            *examples, asked = [block.split("\n</text>")[0] for block in user.split("<text>\n")[1:]]
            assert asked not in examples
    with LLMServer(labels=SORTED, keep=True) as server:
        server.answer = lambda system, user: json.dumps(dict.fromkeys(SORTED, 25)) if system else "Be an editor."
        assert score(tmp_path, server, source, "out2.csv", "--guidelines", "auto") == 0
        assert server.requests == 51
        assert server.bodies[1]["messages"][0]["content"].startswith("Be an editor.")
        assert "Be an editor." in (tmp_path / "out2.csv.md").read_text()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"words": "x"}], [], "no column 'text'"),
        ([{"text": "x", "llm_scores": [[1]]}], [], "has a column 'llm_scores' already"),
        ([{"text": "x", "label": 1}, {"text": "y", "label": 0}], [], "does not name its classes"),
        ([{"text": "x"}], ["--labels", "a"], "two or more different class names"),
        ([{"text": None}, {"text": "b"}], ["--labels", "a,b"], "1 of 2 rows have no text in the column 'text': row 0"),
        ([{"text": "x"}], ["--labels", "a,b", "--llm", "m"], "names an LLM twice"),
        ([{"text": "x"}], ["--labels", "a,b", "--llm", '{"model": "z", "oops": 1}'], "unknown fields ['oops']"),
        ([{"text": "x"}], ["--labels", "a,b", "--llm", '{"model": '], "is no valid JSON"),
        ([{"text": "x"}], ["--labels", '["a", "b"'], "is no valid JSON"),
        ([{"text": "x"}], ["--labels", "a,b", "--llm", '{"model": "z", "price": 1}'], "(input, output)"),
        ([{"text": "x"}], ["--labels", "a,b", "--price", "free"], "expected two numbers, such as 0.05,0.4, got 'free'"),
        ([{"text": "x"}], ["--labels", "a,b", "--max-cost-usd", "nan"], "expected US dollars, 0 or more, got 'nan'"),
        ([{"text": "x"}], ["--labels", "a,b", "--prompt", "few-shot"], "few-shot prompts need"),
        ([{"text": "x"}], ["--labels", "a,b", "--llm", "recorded"], "no LLM that can be queried"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], options: list[str], message: str
) -> None:
    with LLMServer() as server:
        assert score(tmp_path, server, write(tmp_path / "in.jsonl", rows), "out.jsonl", *options) == 2
        assert server.requests == 0
    assert message in capsys.readouterr().err


def test_a_local_model_keeps_one_prior_for_all_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelfusion.scoring import factory
    from labelfusion.scoring.score_batch import ScoreBatch

    class Local:
        name, labels, multi_label = "local/tiny", SORTED, False
        provider = LLMProvider("local/tiny")
        prior: Any = None

        def fit_prior(self, texts: list[str]) -> list[float]:
            assert len(texts) == 60
            self.prior = [0.0]
            return self.prior

        async def score(self, texts: list[str]) -> ScoreBatch:
            assert self.prior is not None
            return ScoreBatch(np.array([truth(t, SORTED) for t in texts], dtype=np.float32), "likelihood")

    local = Local()
    monkeypatch.setattr(factory, "build_scorer", lambda *args, **kwargs: local)
    source = write(tmp_path / "in.csv")
    assert main(["score", str(source), str(tmp_path / "out.csv"), "--llm", "local/tiny", "--chunk-size", "20"]) == 0
    np.testing.assert_allclose([r["llm_scores"][0] for r in read(tmp_path / "out.csv")], right(ROWS), atol=1e-5)
    assert "| `local/tiny` | likelihood |" in (tmp_path / "out.csv.md").read_text()


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "no.csv"), "out.csv", "--llm", "m"]) == 2
    assert capsys.readouterr().err.startswith("labelfusion score: error: There is no file ")
    source = write(tmp_path / "in.csv")
    assert main(["score", str(source), str(tmp_path / "out.xlsx"), "--llm", "m"]) == 2
    assert "expected a name that ends in .csv, .tsv, .json, .jsonl, .parquet, or a folder" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"text": \n')
    assert main(["score", str(tmp_path / "bad.jsonl"), str(tmp_path / "o.csv"), "--llm", "m", "--labels", "a,b"]) == 2
    assert "line 2 is not JSON" in capsys.readouterr().err


def test_number_columns(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a,b,c,d,e,text\n1,1.5,007,,1,5\n-3,2,8,4,x,6\n")
    assert number_columns(Table(str(path)), "text") == {"a": int, "b": float, "d": int}
    write(tmp_path / "in.jsonl")
    assert number_columns(Table(str(tmp_path / "in.jsonl")), "text") == {}


def test_the_cache_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store = ["--store", str(tmp_path / "store.sqlite")]
    with LLMServer(labels=SORTED) as server:
        score(tmp_path, server, write(tmp_path / "in.csv"), "out.csv", "--price", "1000,1000")
    capsys.readouterr()
    assert main(["cache", "info", *store]) == 0
    output = capsys.readouterr().out
    assert "50 answers" in output
    assert "m  " in output
    assert main(["cache", "export", str(tmp_path / "x.jsonl"), *store]) == 0
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 50
    assert main(["cache", "export", *store]) == 0
    assert capsys.readouterr().out.count("\n") == 50
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert main(["cache", "clear", *store]) == 1
    assert "Nothing deleted" in capsys.readouterr().out
    assert main(["cache", "clear", "--model", "other", "--yes", *store]) == 0
    assert main(["cache", "clear", "--older-than", "1", "--yes", *store]) == 0
    assert "0 answers deleted" in capsys.readouterr().out
    assert main(["cache", "clear", "--yes", *store]) == 0
    assert "50 answers deleted" in capsys.readouterr().out
