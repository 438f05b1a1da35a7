"""`labelfusion train`, `evaluate` and `predict` from files to files, with a tiny random encoder."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.io.journal import Journal

from labelfusion import AutoFusionClassifier

WORDS = {"sport": ["team", "game", "goal"], "money": ["stock", "bank", "price"], "tech": ["code", "chip", "phone"]}


def rows(n: int, seed: int, providers: int = 1, multi_label: bool = False) -> pd.DataFrame:
    rng, names = np.random.default_rng(seed), list(WORDS)
    out = []
    for i in range(n):
        k = i % 3
        text = f"the {rng.choice(WORDS[names[k]])} is {rng.choice(['good', 'bad'])} w{i % 10}"
        label: Any = names[k]
        order = sorted(names)
        scores = []
        for _ in range(providers):
            p = rng.dirichlet(np.ones(3) * 0.7) * 0.4
            p[order.index(names[k])] += 0.6
            scores.append((p / p.sum()).round(6).tolist())
        row = {"id": i, "text": text, "llm_scores": None if i % 10 == 9 else scores}
        row |= {"labels": [label] if i % 4 else [label, "money"]} if multi_label else {"label": label}
        out.append(row)
    return pd.DataFrame(out)


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        frame.assign(
            **{c: frame[c].map(lambda v: None if v is None else json.dumps(v)) for c in ("llm_scores",) if c in frame}
        ).to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    """Folder with `model`, `train.jsonl` and `test.jsonl`; the model has its evaluation."""
    folder = tmp_path_factory.mktemp("cli")
    write(rows(60, 0, 2), folder / "train.jsonl")
    write(rows(45, 1, 2), folder / "test.jsonl")
    arguments = ["--encoder", tiny_encoder_dir, "--encoder-training", "probe", "--output-dir", str(folder / "model")]
    arguments += ["--license", "mit", "--language", "en"]
    assert main(["train", str(folder / "train.jsonl"), "--test", str(folder / "test.jsonl"), *arguments]) == 0
    return folder


def test_train_writes_model_report_and_card(trained: Path) -> None:
    model = trained / "model"
    clf = AutoFusionClassifier.from_pretrained(model)
    assert clf.classes_.tolist() == ["money", "sport", "tech"]
    assert clf.model_.config.num_providers == 2  # as many as the data bring
    names = {p.name for p in (model / "evaluation").iterdir()}
    assert names == {"report.md", "report.json", "confusion_matrix.png", "reliability.png", "per_class.png"}
    summary = (model / "training_report.md").read_text()
    assert "60 rows of train.jsonl" in summary
    assert f"{clf.report_['out_of_sample']['accuracy']:.4f}" in summary
    fusion = clf.report_["fusion"]
    assert f"| recorded (2) alone | {fusion['log_loss']['llm 1']:.4f} |" in summary
    best = max(fusion["weights"], key=fusion["weights"].get)
    assert f"| {fusion['log_loss'][best]:.4f} | {fusion['weights'][best]:.3f} |" in summary
    assert f"Chosen: {fusion['chosen']}." in summary
    assert f"| Linear head on the frozen encoder | {clf.report_['encoder_log_loss']['probe']:.4f} |" in summary
    card = ModelCard.load(model / "README.md")
    results = {r.metric_name: r.metric_value for r in card.data.eval_results}
    report = json.loads((model / "evaluation" / "report.json").read_text())
    assert results["Accuracy"] == pytest.approx(report["sources"]["Fusion"]["accuracy"]["value"], abs=1e-4)
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert card.data.base_model is None  # a folder of this machine is nobody's base model
    everything = "".join(p.read_text() for p in [*model.rglob("*.md"), model / "evaluation" / "report.json"])
    assert str(trained) not in everything


def test_emissions_need_codecarbon(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    arguments = ["--output-dir", str(trained / "other"), "--track-emissions", "deu"]
    assert main(["train", str(trained / "train.jsonl"), *arguments]) == 2
    assert "pip install codecarbon" in capsys.readouterr().err


def test_options_that_cannot_be_right_are_named(trained: Path, tmp_path: Path, capsys: Any) -> None:
    model, data, out = (str(p) for p in (trained / "model", trained / "test.jsonl", tmp_path / "out"))
    for option, value in (("max-length", "-5"), ("learning-rate", "-1"), ("max-train-minutes", "nan"), ("device", "x")):
        assert main(["train", data, "--output-dir", out, f"--{option}", value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"error: `--{option}` " in line
    assert main(["evaluate", model, data, "--device", "x"]) == 2
    assert "error: `--device` is 'x'" in capsys.readouterr().err


def test_the_report_agrees_with_evaluate_of_the_classifier(trained: Path) -> None:
    report = json.loads((trained / "model" / "evaluation" / "report.json").read_text())
    clf = AutoFusionClassifier.from_pretrained(trained / "model")
    expected = clf.evaluate(str(trained / "test.jsonl"))
    shown = list(report["sources"].values())
    for found, wanted in zip(shown, [expected["fusion"], expected["encoder"], *expected["llm"].values()], strict=True):
        assert found["accuracy_answered"]["value"] == pytest.approx(wanted["accuracy"])
        for name in ("log_loss", "brier"):
            assert found[name]["value"] == pytest.approx(wanted[name], abs=1e-5), name
        assert found["ece"] == pytest.approx(wanted["ece"], abs=1e-6)
    assert report["llm_share"] == expected["llm_share"] == pytest.approx(41 / 45)
    text = (trained / "test.jsonl").read_text().splitlines()[0]
    assert json.loads(text)["text"] not in (trained / "model" / "evaluation" / "report.json").read_text()


def test_evaluate_with_a_policy_into_another_folder(trained: Path, tmp_path: Path, capsys: Any) -> None:
    model, data = str(trained / "model"), str(trained / "test.jsonl")
    card = (trained / "model" / "README.md").read_text()
    assert main(["evaluate", model, data, "--llm-policy", "never", "--output-dir", str(tmp_path / "r")]) == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["llm_share"] == 0
    assert report["sources"]["recorded"]["answered"] == 0
    assert "| recorded | – |" in (tmp_path / "r" / "report.md").read_text()
    assert (trained / "model" / "README.md").read_text() == card
    assert "Encoder alone" in capsys.readouterr().out
    assert report["warnings"] == []
    assert main(["evaluate", model, data, "--llm-policy", "sometimes"]) == 2
    assert "always, never, auto or a share" in capsys.readouterr().err


def test_evaluate_says_that_recorded_scores_are_not_in_the_data(trained: Path, tmp_path: Path, capsys: Any) -> None:
    rows = [json.loads(line) for line in (trained / "test.jsonl").read_text().splitlines()]
    lines = [json.dumps({k: v for k, v in row.items() if k != "llm_scores"}) for row in rows]
    (tmp_path / "plain.jsonl").write_text("\n".join(lines))
    asked = ["evaluate", str(trained / "model"), str(tmp_path / "plain.jsonl"), "--output-dir", str(tmp_path / "r")]
    assert main(asked) == 0
    assert "- No row has scores of 'recorded'" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_predict_from_any_file_to_any_file(trained: Path, tmp_path: Path, suffix: str) -> None:
    frame = pd.read_json(trained / "test.jsonl", lines=True).drop(columns="label")
    source, out = write(frame, tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    before = source.read_bytes()
    options = ["--top-k", "2", "--with-sources", "--llm-policy", "0.5"]
    assert main(["predict", str(trained / "model"), str(source), str(out), *options]) == 0
    assert source.read_bytes() == before
    if suffix == ".parquet":
        found = pq.read_table(out).to_pylist()
    elif suffix in (".csv", ".tsv"):
        found = pd.read_csv(out, sep="," if suffix == ".csv" else "\t").to_dict("records")
    elif suffix == ".json":
        found = json.loads(out.read_text())
    else:
        found = [json.loads(line) for line in out.read_text().splitlines()]
    clf = AutoFusionClassifier.from_pretrained(trained / "model")
    expected = clf.predict_sources(frame, llm_policy=0.5)
    assert [r["id"] for r in found] == frame["id"].tolist()
    assert [r["text"] for r in found] == frame["text"].tolist()
    assert [r["predicted_label"] for r in found] == [clf.classes_[i] for i in expected.probabilities.argmax(axis=1)]
    assert [r["score"] for r in found] == pytest.approx(expected.probabilities.max(axis=1).tolist(), abs=1e-5)
    top = [json.loads(r["top_k"]) if isinstance(r["top_k"], str) else r["top_k"] for r in found]
    assert all(len(t) == 2 and t[0]["label"] == r["predicted_label"] for t, r in zip(top, found, strict=True))
    sources = [json.loads(r["sources"]) if isinstance(r["sources"], str) else r["sources"] for r in found]
    told = [s["recorded"] is not None for s in sources]
    assert told == (~np.isnan(expected.llm_scores[:, 0]).any(axis=1)).tolist()
    assert 0 < sum(told) < len(told)


def test_predict_says_where_no_llm_can_be_queried(trained: Path, tmp_path: Path, capsys: Any) -> None:
    frame = pd.read_json(trained / "test.jsonl", lines=True).drop(columns=["label", "llm_scores"])
    command = ["predict", str(trained / "model"), str(write(frame, tmp_path / "in.csv")), str(tmp_path / "out.csv")]
    assert main([*command, "--llm-policy", "never"]) == 0
    assert "No LLM is queried" not in capsys.readouterr().err
    assert main([*command, "--overwrite", "--llm-policy", "0.5"]) == 0
    assert "No LLM is queried: the scores of recorded were recorded" in capsys.readouterr().err


def test_json_that_is_no_table_is_refused(trained: Path, tmp_path: Path, capsys: Any) -> None:
    source, model = tmp_path / "in.json", str(trained / "model")
    for text, message in (
        ("[1, 2]", "row 0 is '1'; expected a list of objects"),
        ('{"text": "a"', "line 1 is not JSON"),
    ):
        source.write_text(text)
        assert main(["predict", model, str(source), str(tmp_path / "out.json")]) == 2
        assert message in capsys.readouterr().err


def test_predict_goes_on_where_it_was_stopped(
    trained: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"the team is w{i % 10} good" for i in range(700)]
    lines = [json.dumps({"text": t, "n": i}) for i, t in enumerate(texts)]
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join([*lines, '{"text": "the end", "llm_scores": "high"}']) + "\n")
    command = ["predict", str(trained / "model"), str(path), str(out)]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "`llm_scores` row 700 is text that is not JSON" in told
    assert "700 rows are answered" in told
    assert not out.exists()
    assert texts[0] not in (tmp_path / "out.jsonl.journal").read_text()
    assert main([*command, "--top-k", "2"]) == 2
    assert "other settings (top_k)" in capsys.readouterr().err

    encoded: list[str] = []
    stream = AutoFusionClassifier.stream_sources

    def noted(rows: Any) -> Iterator[Any]:
        for text, scores in rows:
            encoded.append(text)
            yield text, scores

    def watched(self: Any, rows: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.bf16
        return stream(self, noted(rows), *args, **kwargs)

    monkeypatch.setattr(AutoFusionClassifier, "stream_sources", watched)
    lines[600] = json.dumps({"text": "the bank is w0 good", "n": 600})  # what was mended is answered anew
    path.write_text("\n".join([*lines, json.dumps({"text": "the end", "n": 700})]) + "\n")
    assert main([*command, "--bf16"]) == 0
    assert "512 from an earlier run" in capsys.readouterr().out
    assert encoded == [json.loads(line)["text"] for line in lines[512:]] + ["the end"]
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["n"] for r in found] == list(range(701))
    clf = AutoFusionClassifier.from_pretrained(trained / "model")
    assert [r["predicted_label"] for r in found] == clf.predict([r["text"] for r in found]).tolist()
    assert not (tmp_path / "out.jsonl.journal").exists()


def test_predict_survives_being_killed(
    trained: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"text": [f"the team is w{i % 10} good" for i in range(500)]})
    path, out = write(frame, tmp_path / "in.parquet"), tmp_path / "out.parquet"
    command = ["predict", str(trained / "model"), str(path), str(out), "--with-sources"]
    assert main(command) == 0
    whole = pq.read_table(out).to_pylist()
    put = Journal.put

    def killed(self: Journal, record: dict[str, Any]) -> None:
        put(self, record)
        if record["start"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "put", killed)
    assert main([*command, "--overwrite"]) == 130
    monkeypatch.undo()
    with (tmp_path / "out.parquet.journal").open("rb+") as file:  # the last line was not written to its end
        file.truncate(file.seek(0, 2) - 9)
    capsys.readouterr()
    assert main([*command, "--overwrite"]) == 0
    assert "372 rows in" in capsys.readouterr().out
    assert pq.read_table(out).to_pylist() == whole


def test_predict_refuses_to_destroy(trained: Path, tmp_path: Path, capsys: Any) -> None:
    source, model = write(rows(6, 3), tmp_path / "in.csv"), str(trained / "model")
    link = tmp_path / "same.csv"
    link.symlink_to(source)
    (tmp_path / "there.csv").write_text("mine")
    for out, message in (
        (source, "same file"),
        (link, "same file"),
        (tmp_path / "there.csv", "is there already"),
        (tmp_path / "out.txt", "ends in"),
    ):
        assert main(["predict", model, str(source), str(out), "--overwrite" if out == source else "--top-k=1"]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "there.csv").read_text() == "mine"
    taken = write(rows(6, 3).assign(score=1), tmp_path / "taken.csv")
    assert main(["predict", model, str(taken), str(tmp_path / "x.csv")]) == 2
    assert "['score'] already" in capsys.readouterr().err
    uneven = tmp_path / "uneven.jsonl"
    uneven.write_text('{"text": "a"}\n{"text": "b", "id": 7}\n')
    assert main(["predict", model, str(uneven), str(tmp_path / "y.csv")]) == 2
    assert "Row 1 of uneven.jsonl has the columns ['id']" in capsys.readouterr().err
    assert main(["predict", model, str(uneven), str(tmp_path / "y.jsonl")]) == 0


def test_multi_label_from_parquet_to_predictions(tmp_path: Path, tiny_encoder_dir: str) -> None:
    data = write(rows(60, 0, 1, multi_label=True), tmp_path / "train.parquet")
    model = tmp_path / "model"
    arguments = ["--encoder", tiny_encoder_dir, "--encoder-training", "probe", "--output-dir", str(model)]
    options = ["--multi-label", "--labels", "tech,money,sport", "--llm", "none"]
    frame = pd.read_parquet(data).drop(columns="llm_scores")
    frame.to_parquet(data)
    assert main(["train", str(data), "--test", str(data), *arguments, *options]) == 0
    markdown = (model / "evaluation" / "report.md").read_text()
    assert "Exact match" in markdown
    assert "the figures are too good" in markdown  # tested on its training data
    assert (model / "evaluation" / "confusion_matrix.png").stat().st_size > 5000
    assert "no LLM so far" in (model / "README.md").read_text()
    out = tmp_path / "out.parquet"
    assert main(["predict", str(model), str(data), str(out)]) == 0
    clf = AutoFusionClassifier.from_pretrained(model)
    assert clf.classes_.tolist() == ["tech", "money", "sport"]
    found = pq.read_table(out).to_pylist()
    predicted = clf.predict(frame["text"].tolist())
    assert [set(r["predicted_labels"]) for r in found] == [set(p) for p in predicted]
    assert all(len(r["score"]) == len(r["predicted_labels"]) for r in found)


def test_the_class_order_of_scored_files_is_kept(tmp_path: Path, tiny_encoder_dir: str) -> None:
    frame = rows(40, 0)
    order = ["tech", "sport", "money"]  # not the sorted one, which `rows` writes
    turned = [None if s is None else [[s[0][2], s[0][1], s[0][0]]] for s in frame["llm_scores"]]
    frame["llm_scores"] = pd.Series(turned)
    path = write(frame, tmp_path / "scored.parquet")
    table = pq.read_table(path)
    meta = {**(table.schema.metadata or {}), b"labelfusion": json.dumps({"labels": order}).encode()}
    pq.write_table(table.replace_schema_metadata(meta), path)
    model = tmp_path / "model"
    options = ["--encoder", tiny_encoder_dir, "--encoder-training", "probe", "--output-dir", str(model)]
    assert main(["train", str(path), "--test", str(path), *options]) == 0
    report = json.loads((model / "evaluation" / "report.json").read_text())
    assert report["classes"] == order
    assert report["sources"]["recorded"]["accuracy_answered"]["value"] > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(columns={"text": "body"}), "no column 'text' (`--text-column`)"),
        (lambda f: f.drop(columns="label"), "no column 'label' or 'labels'"),
    ],
)
def test_train_says_what_is_wrong_with_the_data(
    tmp_path: Path, tiny_encoder_dir: str, capsys: Any, change: Callable[..., Any], message: str
) -> None:
    path = write(change(rows(12, 0)), tmp_path / "train.jsonl")
    assert main(["train", str(path), "--encoder", tiny_encoder_dir, "--output-dir", str(tmp_path / "m")]) == 2
    assert message in capsys.readouterr().err


def test_train_does_not_write_over_other_things(tmp_path: Path, capsys: Any) -> None:
    path = write(rows(12, 0), tmp_path / "train.jsonl")
    assert main(["train", str(path), "--output-dir", str(tmp_path)]) == 2
    assert "holds other things than a LabelFusion model" in capsys.readouterr().err
    assert main(["train", str(path), "--output-dir", str(path), "--overwrite"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "none.csv"), "--output-dir", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
