"""Labels that training has not seen, texts that are not there, columns by name, and what is said about each."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, IterableDataset
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.options import read_descriptions
from labelfusion.training.collator import LabelFusionDataCollator
from labelfusion.training.data import prepare
from llm_server import LLMServer
from sklearn.model_selection import cross_val_score

from labelfusion import AutoFusionClassifier

TEXTS = [f"the {'movie' if i % 2 else 'team'} is w{i % 10} good" for i in range(24)]
AB = ["b" if i % 2 else "a" for i in range(24)]
SCORES = [[[0.9, 0.1], [0.8, 0.2]] if label == "a" else [[0.1, 0.9], [0.2, 0.8]] for label in AB]


@pytest.fixture
def make(tiny_encoder_dir: str) -> Any:
    known: dict[str, Any] = {"llm": None, "encoder_training": "probe", "fusion": "pool"}
    return lambda **options: AutoFusionClassifier(tiny_encoder_dir, **known | options)


def table(path: Path, **columns: Any) -> str:
    pd.DataFrame({"text": TEXTS, "label": AB} | columns).to_csv(path, index=False)
    return str(path)


def test_a_class_that_training_has_not_seen_is_a_wrong_answer(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    clf, odd = make().fit(TEXTS, AB), [*AB[:-1], "c"]
    right = clf.score(TEXTS, AB)
    with caplog.at_level(logging.WARNING):
        assert clf.score(TEXTS, odd) == pytest.approx(right - 1 / 24)
    assert "the class 'c' count as wrong answers" in caplog.text
    found = clf.evaluate((TEXTS, odd))["fusion"]
    assert found["accuracy"] == pytest.approx(right - 1 / 24)
    assert found["macro_f1"] < 0.7  # the third class has none right
    assert clf.score(TEXTS[:2], ["c", "d"]) == 0.0
    assert np.isfinite(cross_val_score(make(), TEXTS, odd, cv=3)).all()
    several = make(multi_label=True).fit(TEXTS, [[label] for label in AB])
    right = several.score(TEXTS, [[label] for label in AB])
    assert several.score(TEXTS, [*([label] for label in AB[:-1]), [AB[-1], "c"]]) == pytest.approx(right - 1 / 24)
    assert several.evaluate((TEXTS, [["c"]] * 24))["fusion"]["accuracy"] == 0.0


def test_the_report_counts_it(tiny_encoder_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, test = table(tmp_path / "d.csv"), table(tmp_path / "t.csv", label=[*AB[:-2], "c", "c"])
    options = ["--output-dir", str(tmp_path / "m"), "--encoder", tiny_encoder_dir, "--encoder-training", "probe"]
    assert main(["train", data, "--test", test, *options]) == 0
    report = json.loads((tmp_path / "m" / "evaluation" / "report.json").read_text())
    assert report["classes"] == ["a", "b", "c"]
    assert report["sources"]["Fusion"]["accuracy"]["value"] <= 22 / 24
    assert report["per_class"][2]["sources"]["Fusion"]["f1"] in (0, None)
    assert main(["evaluate", str(tmp_path / "m"), test, "--output-dir", str(tmp_path / "e")]) == 0


def test_all_data_are_checked_before_the_training(
    tiny_encoder_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table(tmp_path / "d.csv")
    options = ["--output-dir", str(tmp_path / "m"), "--encoder", tiny_encoder_dir, "--encoder-training", "probe"]
    for option, columns, message in (
        ("--test", {"label": ["", *AB[1:]]}, "t.csv: Row 0 has no label"),
        ("--eval", {"label": ["c", *AB[1:]]}, "t.csv: Row 0 has the unknown label 'c'"),
        ("--eval", {"text": ["", *TEXTS[1:]]}, "t.csv: 1 of 24 rows have no text in the column 'text': row 0"),
    ):
        assert main(["train", data, option, table(tmp_path / "t.csv", **columns), *options]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "m").exists()

    def failing(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("labelfusion.hub_scripts.commands.evaluate.evaluate", failing)
    assert main(["train", data, "--test", data, *options]) == 2
    told = capsys.readouterr().err
    assert f"saved in {tmp_path / 'm'}" in told
    assert "the disk is full" in told
    assert AutoFusionClassifier.from_pretrained(tmp_path / "m").classes_.tolist() == ["a", "b"]


def test_recorded_takes_as_many_llms_as_the_data_hold(make: Any, tmp_path: Path) -> None:
    data = pd.DataFrame({"text": TEXTS, "label": AB, "llm_scores": SCORES})
    clf = make(llm="recorded").fit(data)
    assert clf.model_.config.num_providers == 2
    assert clf.predict_sources(data).llm_scores.shape == (24, 2, 2)
    clf.save_pretrained(tmp_path)
    assert AutoFusionClassifier.from_pretrained(tmp_path).score(data) == clf.score(data)


def test_any_label_column(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"text": TEXTS, "topic": AB, "label": range(24)})
    clf = make(label_column="topic").fit(frame)
    assert clf.classes_.tolist() == ["a", "b"]
    assert clf.evaluate(frame)["rows"] == 24
    assert clf.score(frame[["text"]], AB) == clf.score(frame)
    clf.save_pretrained(tmp_path / "m")
    assert AutoFusionClassifier.from_pretrained(tmp_path / "m").label_column == "topic"
    path = table(tmp_path / "d.csv", text=TEXTS, label=range(24), kind=AB)
    assert main(["evaluate", str(tmp_path / "m"), path, "--output-dir", str(tmp_path / "e")]) == 2
    assert (
        "no column 'topic'; the columns are text, label, kind. Name yours by `--label-column`"
        in capsys.readouterr().err
    )
    assert (
        main(["evaluate", str(tmp_path / "m"), path, "--label-column", "kind", "--output-dir", str(tmp_path / "e")])
        == 0
    )
    with pytest.raises(ValueError, match="Name yours by `label_column`"):
        make(label_column="x").fit(frame)


@pytest.mark.parametrize("labels", [[["a", "b"], ["b"]], [np.array([1, 0]), np.array([0, 1])], [("a", "b"), ("b",)]])
def test_several_labels_need_multi_label(make: Any, labels: list[Any], tmp_path: Path) -> None:
    data = pd.DataFrame({"text": TEXTS, "label": labels * 12})
    with pytest.raises(ValueError, match=r"Row 0 has several labels.*`multi_label=True`"):
        make().fit(data)
    data.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"d.parquet: Row 0 has several labels.*`multi_label=True`"):
        make().fit(tmp_path / "d.parquet")


def test_texts_that_are_not_there(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gaps = ["", "  ", None, float("nan"), "the movie is good"]
    clf = make().fit(TEXTS, AB)
    with pytest.raises(ValueError, match=r"Input 0 has no text"):
        clf.predict(gaps)
    with pytest.raises(ValueError, match=r"4 of 5 rows have no text in the column 'text': row 0, 1, 2, 3\."):
        clf.predict(pd.DataFrame({"text": gaps}))
    clf.empty_texts = "skip"
    for data in (gaps, pd.DataFrame({"text": gaps})):
        assert [answer is None for answer in clf.predict(data)] == [True] * 4 + [False]
        assert np.isnan(clf.predict_proba(data)[:4]).all()
    assert clf.predict_sources(gaps).errors == dict.fromkeys(range(4), "no text")
    whole = make(empty_texts="skip").fit([*gaps, *TEXTS], ["a"] * 5 + AB)
    assert whole.report_["rows"] == 25
    whole.save_pretrained(tmp_path / "m")
    path, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*gaps[:3], "a movie"]))
    command = ["predict", str(tmp_path / "m"), str(path), str(out), "--top-k", "1", "--with-sources"]
    assert main([*command, "--empty-texts", "error"]) == 2
    assert "in.jsonl: 3 of 4 rows have no text" in capsys.readouterr().err
    assert main(command) == 0
    assert "3 rows have no text, and no answer." in capsys.readouterr().out
    rows = pq.read_table(out).to_pylist()
    assert [row["predicted_label"] is None for row in rows] == [True, True, True, False]
    assert [row["llm_missing"] for row in rows] == ["no text"] * 3 + [None]


def test_the_pipeline_skips_them(make: Any) -> None:
    from labelfusion import LabelFusionPipeline

    for multi_label, empty in ((False, {"label": None, "score": None}), (True, None)):
        clf = make(multi_label=multi_label).fit(TEXTS, [[label] for label in AB] if multi_label else AB)
        pipe = LabelFusionPipeline(model=clf.model_, tokenizer=clf.tokenizer_, device="cpu")
        texts = ["", *TEXTS[:2], None, " "]
        expected = pipe(TEXTS[:2])
        assert pipe(texts, empty_texts="skip") == [empty, *expected, empty, empty]
        assert list(pipe(iter(texts), empty_texts="skip")) == [empty, *expected, empty, empty]
        told = pipe(texts, empty_texts="skip", return_sources=True)
        assert told[0]["llm_missing"] == "no text"
        assert told[0]["sources"]["encoder"] is None
        with pytest.raises(ValueError, match="`empty_texts` is 'drop'"):
            pipe(texts, empty_texts="drop")


def test_suspected_labels_count_rows_of_the_data(make: Any) -> None:
    labels = ["b", *AB[1:]]
    scores = [SCORES[i][:1] for i in range(24)]
    data = pd.DataFrame({"text": ["", *TEXTS], "label": ["a", *labels], "llm_scores": [None, *scores]})
    full = make(llm="recorded").fit(data[1:]).suspected_labels()
    found = make(llm="recorded", empty_texts="skip").fit(data).suspected_labels()
    assert full
    assert [entry["row"] - 1 for entry in found] == [entry["row"] for entry in full]


def test_a_stream_that_does_not_know_its_columns(make: Any) -> None:
    def rows() -> Any:
        yield from ({"text": text, "label": label} for text, label in zip(TEXTS, AB, strict=True))

    stream = IterableDataset.from_generator(rows)
    assert stream.features is None
    clf = make().fit(stream)
    assert clf.classes_.tolist() == ["a", "b"]
    assert clf.predict(stream).tolist() == clf.predict(TEXTS).tolist()
    assert clf.evaluate(stream)["rows"] == 24


def test_dates_that_datasets_made_of_texts_are_named(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    days = ["2024-05-01" if label == "a" else "2024-06-01" for label in AB]
    path.write_text("".join(json.dumps({"text": t, "label": d}) + "\n" for t, d in zip(TEXTS, days, strict=True)))
    read = Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))
    if read.features["label"].dtype != "string":
        with pytest.raises(ValueError, match="Row 0: the label is the date 2024-05-01"):
            make().fit(read)
    assert make().fit(path).classes_.tolist() == ["2024-05-01", "2024-06-01"]
    frame = pd.read_json(path, lines=True, convert_dates=["label"])
    with pytest.raises(ValueError, match="Row 0: the label is the date 2024-05-01"):
        make().fit(frame)


def test_floats_of_a_column_with_a_gap(make: Any) -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": [float(label == "b") for label in AB]})
    clf = make().fit(frame)
    assert clf.classes_.tolist() == [0, 1]
    assert clf.model_.config.label_names == ["0", "1"]
    assert clf.score(TEXTS, [int(label == "b") for label in AB]) == clf.score(frame)


def test_yaml_keeps_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr("labelfusion.hub_scripts.commands.train.run", found.append)
    config = tmp_path / "c.yaml"
    config.write_text("labels: [yes, no, 01, 1.10]\nmulti_label: yes\nseed: 7\ntrain:\n  text_column: no\n")
    assert main(["train", "d.csv", "--output-dir", "m", "--config", str(config)]) == 0
    assert found[0].labels == ["yes", "no", "01", "1.10"]
    assert (found[0].multi_label, found[0].seed, found[0].text_column) == (True, 7, "no")
    descriptions = tmp_path / "d.yaml"
    descriptions.write_text("yes: it is\n01: the first\n1.10: 2024-05-01\n")
    assert read_descriptions(str(descriptions)) == {"yes": "it is", "01": "the first", "1.10": "2024-05-01"}


def test_a_scored_file_keeps_the_spelling(tmp_path: Path) -> None:
    codes = [("1.10" if label == "a" else "1.1") for label in AB]
    source = table(tmp_path / "d.csv", label=codes, price=[1.5] * 24)
    with LLMServer(labels=["1.1", "1.10"]) as server:
        asked = ["--llm", "m", "--api-base", server.url, "--method", "json", "--no-cache", "--labels", "1.1,1.10"]
        assert main(["score", source, str(tmp_path / "out.parquet"), *asked]) == 0
    read = pq.read_table(tmp_path / "out.parquet")
    assert read["label"].to_pylist() == codes
    assert read["price"].to_pylist() == [1.5] * 24
    assert prepare(tmp_path / "out.parquet").names() == codes


def test_names_in_the_trainer_are_refused(tiny_tokenizer: Any) -> None:
    collate = LabelFusionDataCollator(tiny_tokenizer, 0, 2)
    row = dict(tiny_tokenizer("good movie"))
    with pytest.raises(ValueError, match=r"labels that are indices of classes; got 'b'.*label2id"):
        collate([{**row, "label": "b"}])
    with pytest.raises(ValueError, match=r"labels that are 0/1 vectors.*got \['b'\]"):
        LabelFusionDataCollator(tiny_tokenizer, 0, 2, multi_label=True)([{**row, "labels": ["b"]}])
