"""`AutoFusionClassifier` from data of every kind to a saved model, with a tiny encoder and made LLM scores."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from forked import run
from labelfusion.evaluation.reports.training_report import training_summary
from labelfusion.training.data import prepare
from llm_server import LLMServer
from made_data import NAMES, WORDS, frame, scores_for, texts_and_labels
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from labelfusion import AutoFusionClassifier, LLMProvider


@pytest.fixture
def make(tiny_encoder_dir: str) -> Any:
    def build(**kwargs: Any) -> AutoFusionClassifier:
        defaults = {"encoder": tiny_encoder_dir, "llm": "recorded", "encoder_training": "probe", "fusion": "pool"}
        return AutoFusionClassifier(**(defaults | kwargs))

    return build


def test_fit_predict_evaluate_save_and_load(make: Any, tmp_path: Path) -> None:
    clf = make(fusion="mlp").fit(frame())
    assert clf.classes_.tolist() == NAMES
    test = frame(60, seed=5)
    result = clf.evaluate(test)
    fused, encoder, llm = result["fusion"], result["encoder"], result["llm"]["recorded"]
    assert fused["accuracy"] >= max(encoder["accuracy"], llm["accuracy"]) - 0.05
    assert result["llm_share"] == 1.0
    assert {"accuracy", "macro_f1", "ece", "brier", "log_loss"} <= set(fused)
    probs = clf.predict_proba(test)
    assert probs.shape == (60, 3)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    predicted = clf.predict(test)
    assert np.mean(predicted == test["label"].to_numpy()) == pytest.approx(fused["accuracy"])
    clf.save_pretrained(tmp_path / "model")
    again = AutoFusionClassifier.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(test), probs)
    given = np.array(test["llm_scores"].tolist())
    np.testing.assert_array_equal(again.predict(test["text"].tolist(), llm_scores=given), predicted)


def test_saved_model_gives_the_same_bits_in_a_new_process(make: Any, tmp_path: Path) -> None:
    clf = make().fit(frame())
    clf.save_pretrained(tmp_path / "model")
    test = frame(8, seed=3)
    rows = [{"text": t, "llm_scores": s} for t, s in zip(test["text"], test["llm_scores"], strict=True)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    script = (
        "import json, sys, labelfusion\n"
        "from transformers import pipeline\n"
        "folder, rows = sys.argv[1], json.load(open(sys.argv[2]))\n"
        "pipe = pipeline('labelfusion-classification', model=folder)\n"
        "by_pipe = [[a['score'] for a in sorted(x, key=lambda a: a['label'])] for x in pipe(rows, top_k=None)]\n"
        "clf = labelfusion.AutoFusionClassifier.from_pretrained(folder)\n"
        "import numpy as np\n"
        "own = clf.predict_proba([r['text'] for r in rows], llm_scores=np.array([r['llm_scores'] for r in rows]))\n"
        "print(json.dumps([by_pipe, own.tolist()]))\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "model"), str(tmp_path / "rows.json")]
    out = run(arguments, capture_output=True, text=True, check=True).stdout
    by_pipe, own = json.loads(out.strip().splitlines()[-1])
    here = clf.predict_proba(test["text"].tolist(), llm_scores=np.array(test["llm_scores"].tolist()))
    np.testing.assert_array_equal(np.float32(by_pipe), here)
    np.testing.assert_array_equal(np.float32(own), here)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "dataset", "pair", "records"])
def test_every_kind_of_data_gives_the_same_model(make: Any, tmp_path: Path, kind: str) -> None:
    table = frame(45)
    reference = make().fit(table).predict_proba(table)
    data: Any
    if kind == "csv":
        data = tmp_path / "d.csv"
        table.assign(llm_scores=table["llm_scores"].map(json.dumps)).to_csv(data, index=False)
    elif kind == "jsonl":
        data = str(tmp_path / "d.jsonl")
        table.to_json(data, orient="records", lines=True)
    elif kind == "parquet":
        data = tmp_path / "d.parquet"
        table.to_parquet(data)
    elif kind == "dataset":
        features = Features(
            {
                "text": Value("string"),
                "label": ClassLabel(names=NAMES),
                "llm_scores": Sequence(Sequence(Value("float64"))),
            }
        )
        data = Dataset.from_dict(table.to_dict("list"), features=features)
    elif kind == "records":
        data = table.to_dict("records")
    else:
        clf = make(llm=None).fit((table["text"].tolist(), table["label"].tolist()))
        np.testing.assert_allclose(clf.predict_proba(table), make(llm=None).fit(table).predict_proba(table), atol=1e-6)
        return
    np.testing.assert_allclose(make().fit(data).predict_proba(table), reference, atol=1e-6)


def test_rows_without_scores_train_the_encoder_and_eval_data_counts(make: Any) -> None:
    unscored, scored = frame(60, seed=7).drop(columns="llm_scores"), frame(45)
    clf = make().fit(unscored, eval_data=scored)
    assert clf.report_["rows"] == 105
    assert clf.report_["scored_rows"] == 45
    np.testing.assert_allclose(make().fit(unscored, scored).predict_proba(scored), clf.predict_proba(scored))


def test_scikit_learn_knows_it(make: Any) -> None:
    texts, labels = texts_and_labels(60)
    clf = make(llm=None)
    assert clone(clf).get_params() == clf.get_params()
    assert cross_val_score(clf, np.array(texts, dtype=object), labels, cv=3).mean() > 0.5
    fitted = make(llm=None).fit(texts, labels)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert set(fitted.predict(texts)) <= {0, 1, 2}
    named = make(llm=None, labels=NAMES).fit(texts, labels)
    assert set(named.predict(texts)) <= set(NAMES)
    assert named.score(texts, labels) == pytest.approx(fitted.score(texts, labels))


def test_bf16_reaches_the_encoder(make: Any, tmp_path: Path) -> None:
    exact, fast = (make(bf16=bf16).fit(frame()) for bf16 in (False, True))
    assert not np.array_equal(exact.predict_proba(frame(9)), fast.predict_proba(frame(9)))
    np.testing.assert_allclose(exact.predict_proba(frame(9)), fast.predict_proba(frame(9)), atol=0.05)
    fast.save_pretrained(tmp_path)  # the next machine may be another
    assert not AutoFusionClassifier.from_pretrained(tmp_path).bf16


def test_policies(make: Any) -> None:
    clf = make().fit(frame())
    test = frame(50, seed=5)
    np.testing.assert_allclose(
        clf.predict_proba(test, llm_policy="never"), clf.predict_proba(test["text"].tolist()), atol=1e-6
    )
    assert clf.evaluate(test, llm_policy=0.3)["llm_share"] == pytest.approx(0.3)
    auto = clf.evaluate(test, llm_policy="auto")  # no more than is worth its price: the encoder is nearly always right
    assert auto["llm_share"] <= 0.3
    assert auto["fusion"]["accuracy"] >= clf.evaluate(test, llm_policy="never")["fusion"]["accuracy"]


def test_a_function_is_asked_and_is_not_saved(make: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    def keywords(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        hits = np.array([[sum(w in t.split() for w in WORDS[n].split()) for n in NAMES] for t in texts]) + 0.05
        return hits / hits.sum(1, keepdims=True)

    train, test = frame(60).drop(columns="llm_scores"), frame(30, seed=9).drop(columns="llm_scores")
    clf = make(llm=keywords, max_scored_rows=40).fit(train)
    assert len(asked) == 40
    assert clf.report_["scored_rows"] == 40
    assert clf.evaluate(test)["fusion"]["accuracy"] > 0.9
    clf.save_pretrained(tmp_path / "m")
    loaded = AutoFusionClassifier.from_pretrained(tmp_path / "m", llm=keywords)
    np.testing.assert_array_equal(loaded.predict_proba(test), clf.predict_proba(test))
    alone = AutoFusionClassifier.from_pretrained(tmp_path / "m")
    np.testing.assert_allclose(alone.predict_proba(test), clf.predict_proba(test, llm_policy="never"), atol=1e-6)


def test_two_llms_one_of_them_missing_now_and_then(make: Any) -> None:
    texts, labels = texts_and_labels(90)
    good, other = scores_for(labels, 0.9, 2), scores_for(labels, 0.6, 3)
    rows: list[Any] = [
        [g[0].tolist(), None if i % 3 == 0 else o[0].tolist()] for i, (g, o) in enumerate(zip(good, other, strict=True))
    ]
    rows[4] = None
    table = pd.DataFrame({"text": texts, "label": labels, "llm_scores": rows})
    clf = make(llm=["recorded", LLMProvider("recorded", name="second")], labels=NAMES).fit(table)
    assert clf.model_.config.num_providers == 2
    result = clf.evaluate(table)
    assert result["llm"]["second"]["answered"] == pytest.approx(59 / 90, abs=0.02)
    assert result["llm_share"] == pytest.approx(89 / 90)


@pytest.mark.parametrize("spelling", ["lists", "vectors", "columns"])
def test_multi_label(make: Any, tmp_path: Path, spelling: str) -> None:
    texts, first = texts_and_labels(90)
    extra = [
        f"{t} {WORDS[NAMES[(i + 1) % 3]].split()[0]}" if k % 4 == 0 else t
        for k, (t, i) in enumerate(zip(texts, first, strict=True))
    ]
    truth = np.eye(3)[first]
    truth[np.arange(0, 90, 4), (first[::4] + 1) % 3] = 1
    table = pd.DataFrame({"text": extra, "llm_scores": (truth * 0.7 + 0.15)[:, None].tolist()})
    options: dict[str, Any] = {"multi_label": True}
    if spelling == "lists":
        table["labels"] = [[n for n, yes in zip(NAMES, row, strict=True) if yes] for row in truth]
    elif spelling == "vectors":
        table["labels"] = truth.astype(int).tolist()
        options["labels"] = NAMES
    else:
        table = table.assign(**{n: truth[:, i].astype(int) for i, n in enumerate(NAMES)})
        options["label_columns"] = NAMES
    clf = make(**options).fit(table)
    predicted = clf.predict(table)
    assert all(isinstance(p, list) and p for p in predicted)  # every training text has a class, so every answer
    assert clf.evaluate(table)["fusion"]["accuracy"] > 0.9
    assert len(clf.model_.config.thresholds) == 3
    clf.save_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(AutoFusionClassifier.from_pretrained(tmp_path / "m").predict(table), predicted)


def test_full_training_beats_chance_and_says_what_it_did(make: Any) -> None:
    clf = make(encoder_training="full", num_train_epochs=2, max_length=16).fit(frame(48))
    assert clf.report_["encoder_training"] == "full"
    clf.report_["data"] = "news.csv"
    epochs, share = clf.report_["num_train_epochs"], clf.report_["trained_layers"]
    assert f"Encoder: fine-tuned ({epochs} epochs of {share:.0%} of the layers)." in training_summary(clf)
    assert clf.report_["num_train_epochs"] in (1, 2)
    assert {"probe", "full"} <= set(clf.report_["encoder_log_loss"])


def test_auto_training_respects_its_bound(make: Any) -> None:
    clf = make(encoder_training="auto", max_train_tokens=0).fit(frame(30))
    assert clf.report_["encoder_training"] == "probe"
    assert "stopped" not in clf.report_
    clf = make(encoder_training="auto", max_train_minutes=0).fit(frame(30))
    assert clf.report_["encoder_training"] == "probe"
    assert clf.report_["stopped"] == "max_train_minutes=0"
    clf.report_["data"] = "news.csv"
    assert "its training was stopped by `max_train_minutes=0`" in training_summary(clf)


def test_long_and_odd_texts(make: Any) -> None:
    clf = make(llm=None).fit(frame(30))
    odd = ["movie " * 20000, "\u200b\U0001f600 \ud800 中文 مرحبا", "plot"]
    probs = clf.predict_proba(odd)
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs[2], clf.predict_proba(["plot"])[0], atol=1e-5)
    assert clf.predict_proba([]).shape == (0, 3)
    assert clf.predict([]).shape == (0,)


def test_30_rows_two_classes_and_77_classes(make: Any) -> None:
    texts, labels = texts_and_labels(30)
    assert make(llm=None).fit(texts, (labels == 0).astype(int)).predict_proba(texts).shape == (30, 2)
    many = [f"w{i % 10} w{i // 10} {i}" for i in range(77)]
    clf = make(llm=None).fit(many * 2, [f"class {i}" for i in range(77)] * 2)
    assert clf.predict_proba(many[:4]).shape == (4, 77)


def test_a_class_of_two_percent_in_german(make: Any) -> None:
    rng = np.random.default_rng(0)
    words = {"Gemüse": "Möhre Kürbis Rübe", "Straße": "Straße Brücke Überführung", "Süßes": "Süßigkeit Törtchen Käse"}
    names = ["Gemüse"] * 74 + ["Straße"] * 73 + ["Süßes"] * 3
    texts = [
        f"{rng.choice(words[name].split())} für {i} Äpfel, größer als {i % 7} Öfen" for i, name in enumerate(names)
    ]
    truth = np.array([list(words).index(name) for name in names])
    said = np.where(rng.random(len(names)) < 0.9, truth, (truth + 1) % 3)
    scores = (np.eye(3)[said] * 0.85 + 0.05)[:, None]
    table = pd.DataFrame({"text": texts, "label": names, "llm_scores": scores.tolist()})
    clf = make(labels=list(words)).fit(table)
    assert clf.evaluate(table)["fusion"]["accuracy"] > 0.85
    assert "Süßes" in clf.predict(texts[-3:], llm_policy="never")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": [None] + ["a"] * 8}, "1 of 9 rows have no text in the column 'text': row 0"),
        ({"label": ["film"] * 9}, "1 class"),
        ({"label": [None] + ["film", "sport"] * 4}, "Row 0 has no label"),
        ({"llm_scores": [[[0.2, 0.8]]] * 9}, "2 scores for 3 classes"),
        ({"llm_scores": [[[0.2, 0.8, 7.0]]] * 9}, "probabilities in"),
        ({"llm_scores": ["no json"] * 9}, "not JSON"),
        ({"llm_scores": [None] * 9}, "llm='recorded' takes the scores from the data"),
    ],
)
def test_bad_data_is_named(make: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().fit(frame(9).assign(**change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_training": "qlora"}, "`encoder_training` is 'qlora'"),
        ({"calibration": "strong"}, "`calibration` is 'strong'"),
        ({"threshold_metric": "f7"}, "`threshold_metric` is 'f7'"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"max_length": -5}, "`max_length` must be a positive integer, got -5"),
        ({"learning_rate": -1.0}, "`learning_rate` must be a number above 0, got -1.0"),
        ({"max_train_minutes": float("nan")}, "`max_train_minutes` must be a finite number, 0 or more, got nan"),
        ({"max_train_tokens": -1}, "`max_train_tokens` must be a finite number of tokens, 0 or more, got -1"),
        ({"device": "foo"}, "`device` is 'foo'"),
        ({"device": "cuda:99"}, "`device` is 'cuda:99'"),
        ({"labels": ["film", "sport"]}, "unknown label 'tech'"),
        ({"text_column": "body"}, "no column 'body' \\(`text_column`\\); the columns are text, label"),
        ({"label_columns": ["x"]}, "no column \\['x'\\]"),
        ({"llm": {"model": "openai/gpt-5-nano", "params": {"api_key": "sk-abcdefghijklmnopqrstuvwx"}}}, "credential"),
    ],
)
def test_bad_options_are_named(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options).fit(frame(9))


def test_other_mistakes(make: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="call `fit`"):
        make().predict(["a"])
    with pytest.raises(FileNotFoundError, match="no file"):
        make().fit(tmp_path / "absent.csv")
    clf = make(llm=None).fit(frame(30))
    with pytest.raises(ValueError, match="`texts` is one string"):
        clf.predict("a text")
    with pytest.raises(ValueError, match="llm_policy"):
        clf.predict(["a"], llm_policy="sometimes")


@pytest.mark.parametrize(("name", "cell"), [("d.csv", "{},{}"), ("d.tsv", "{}\t{}")])
def test_words_that_pandas_takes_for_missing_values(tmp_path: Path, name: str, cell: str) -> None:
    rows = [("text", "label"), ("NA", "None"), ("null", "favor"), ("nan", "None")]
    (tmp_path / name).write_text("".join(cell.format(*row) + "\n" for row in rows))
    data = prepare(tmp_path / name)
    assert data.texts == ["NA", "null", "nan"]
    assert data.names() == ["None", "favor", "None"]


def test_the_original_dict_is_understood() -> None:
    clf = AutoFusionClassifier({"llm_provider": "deepseek", "label_columns": ["a", "b"], "multi_label": True})
    assert (clf.llm, clf.label_columns, clf.multi_label) == ("deepseek/deepseek-chat", ["a", "b"], True)
    with pytest.raises(ValueError, match="unknown keys \\['epochs'\\]"):
        AutoFusionClassifier({"llm_provider": "openai", "epochs": 3})


@pytest.fixture
def llm_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with LLMServer(labels=NAMES, keep=True) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def test_few_shot_examples_are_chosen_at_fit_and_saved(make: Any, llm_server: Any, tmp_path: Path) -> None:
    train = frame(30).drop(columns="llm_scores")
    llm = LLMProvider("openai/gpt-5-nano", method="json", prompt="few-shot", num_examples=3, price=(0.1, 0.4))
    clf = make(llm=llm, cache=False).fit(train)
    [provider] = clf.model_.config.providers
    assert sorted(e["label"] for e in provider.examples) == NAMES
    clf.save_pretrained(tmp_path / "m")
    asked = llm_server.requests
    loaded = AutoFusionClassifier.from_pretrained(tmp_path / "m", cache=False)
    assert loaded.predict_sources(["a new plot"]).llm_called.all()
    assert llm_server.requests > asked
    assert provider.examples[0]["text"] in json.dumps(llm_server.bodies[-1])
    assert clf.report_["cost_usd"] > 0


def test_nearest_neighbour_prompts_know_the_training_texts(make: Any, llm_server: Any) -> None:
    train = frame(24).drop(columns="llm_scores")
    clf = make(llm=LLMProvider("openai/gpt-5-nano", method="json", prompt="nearest", num_examples=2), cache=False)
    assert clf.fit(train).predict_sources(["a new plot"]).llm_called.all()
    shown = json.dumps(llm_server.bodies[-1])
    assert sum(text in shown for text in train["text"]) == 2
    own = next(json.dumps(b) for b in llm_server.bodies if json.dumps(b).count(train["text"][0]))
    assert own.count(train["text"][0]) == 1  # asked about or shown, never both
