"""Which training rows are scored where not all of them can be, and training labels that are probably wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from labelfusion.evaluation.diagnosis.label_errors import suspected_labels
from labelfusion.hub_scripts.cli import main
from labelfusion.training.scored_rows import scoring_order

from labelfusion import AutoFusionClassifier, LLMProvider

WORDS = {"sport": "team game goal player match", "money": "bank stock price trade market"}


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    """A third of the texts say nothing of their class; the others say it clearly."""
    rng, names = np.random.default_rng(seed), list(WORDS)
    rows = []
    for i in range(n):
        name = names[int(rng.integers(2))]
        words = ["the", "is", "was"] if i % 3 == 0 else [rng.choice(WORDS[name].split()) for _ in range(4)]
        rows.append({"text": f"{' '.join(words)} w{i % 10} w{i // 10 % 10} w{i // 100}", "label": name})
    return pd.DataFrame(rows)


def test_unsure_rows_come_first_but_not_alone() -> None:
    probs = np.where(np.arange(1000)[:, None] % 10 == 0, [0.5, 0.5], [0.98, 0.02])
    first = scoring_order(probs, 1000, False, seed=1)[:100]
    assert len(np.unique(first)) == 100
    unsure = (first % 10 == 0).mean()
    assert 0.25 < unsure < 0.75  # a tenth of the rows
    assert (scoring_order(None, 1000, False)[:100] % 10 == 0).mean() == pytest.approx(0.1, abs=0.1)
    assert sorted(scoring_order(probs, 1000, False)) == list(range(1000))
    assert scoring_order(probs[:0], 0, False).shape == (0,)


def test_every_prefix_is_a_good_sample() -> None:
    probs = np.where(np.arange(2000)[:, None] % 10 == 0, [0.5, 0.5], [0.98, 0.02])
    shares = [(scoring_order(probs, 2000, False, seed=s)[:n] % 10 == 0).mean() for s in range(5) for n in (50, 150)]
    assert min(shares) > 0.2
    assert max(shares) < 0.8


@pytest.mark.parametrize("limit", ["rows", "dollars"])
def test_fit_asks_more_about_what_the_encoder_does_not_know(tiny_encoder_dir: str, limit: str) -> None:
    asked: list[str] = []

    def llm(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.tile([0.5, 0.5], (len(texts), 1))

    options: dict[str, Any] = {"max_scored_rows": 30} if limit == "rows" else {"max_cost_usd": 1.0}
    clf = AutoFusionClassifier(encoder=tiny_encoder_dir, llm=llm, encoder_training="probe", fusion="pool", **options)
    data = frame(99)
    clf.fit(data)
    assert len(set(asked)) == (30 if limit == "rows" else 99)
    blank = ["the is was" in text for text in asked[:30]]
    assert np.mean(blank) > 0.4  # a third of all
    assert asked[:30] != data["text"].tolist()[:30]


def test_a_provider_string_is_still_accepted(tiny_encoder_dir: str) -> None:
    data = frame(60)
    data["llm_scores"] = pd.Series([[[0.9, 0.1]]] * 60)
    clf = AutoFusionClassifier(encoder=tiny_encoder_dir, llm=LLMProvider("recorded"), encoder_training="probe")
    assert clf.fit(data).report_["scored_rows"] == 60


def test_suspected_labels_are_those_that_both_witnesses_contradict() -> None:
    encoder = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    llm = np.array([[0.8, 0.2], [0.8, 0.2], [0.9, 0.1], [0.3, 0.7], [np.nan] * 2])[:, None]
    found = suspected_labels(encoder, llm, np.array([0, 1, 0, 0, 0]), False)
    assert [entry["row"] for entry in found] == [1, 3]  # the most suspect first; 2: they disagree; 4: no answer
    assert found[0] == {
        "row": 1,
        "given": [1],
        "suggested": [0],
        "encoder_given": 0.1,
        "encoder_suggested": 0.9,
        "llm_given": 0.2,
        "llm_suggested": 0.8,
    }


def test_suspected_labels_of_multi_label() -> None:
    encoder, llm = np.array([[0.9, 0.1, 0.9]] * 2), np.array([[[0.8, 0.2, 0.3]]] * 2)
    (entry,) = suspected_labels(encoder, llm, np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), True)
    assert (entry["row"], entry["given"], entry["suggested"]) == (1, [], [0])
    assert (entry["llm_given"], entry["llm_suggested"]) == (0.2, 0.8)


def test_train_lists_planted_errors(tmp_path: Path, tiny_encoder_dir: str, capsys: Any) -> None:
    data = frame(99)
    truth = data["label"].tolist()
    data["llm_scores"] = pd.Series([[[0.9, 0.1] if name == "sport" else [0.1, 0.9]] for name in truth])
    planted = [row for row in range(1, 95, 9) if row % 3]
    data.loc[planted, "label"] = ["money" if truth[row] == "sport" else "sport" for row in planted]
    data.to_json(tmp_path / "data.jsonl", orient="records", lines=True)
    out = tmp_path / "review.csv"
    arguments = ["train", str(tmp_path / "data.jsonl"), "--output-dir", str(tmp_path / "m"), "--labels", "sport,money"]
    arguments += [
        "--encoder",
        tiny_encoder_dir,
        "--encoder-training",
        "probe",
        "--fusion",
        "pool",
        "--review",
        str(out),
    ]
    assert main(arguments) == 0
    assert "suspected labels" in capsys.readouterr().out
    found = pd.read_csv(out)
    listed = found["row"].tolist()
    assert len(set(listed) & set(planted)) >= 0.6 * len(planted)
    clear = [row for row in listed if row % 3]  # of the texts without a word of their class, the encoder only guesses
    assert set(clear[: len(planted) // 2]) <= set(planted)
    for row in found.to_dict("records"):
        assert row["given"] == data["label"][row["row"]]
        assert row["suggested"] != row["given"]
    assert "w1" not in out.read_text()  # no text
    clf = AutoFusionClassifier.from_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="known after `fit` only"):
        clf.suspected_labels()
    assert main([*arguments[:-1], str(tmp_path / "review.xlsx")]) == 2
