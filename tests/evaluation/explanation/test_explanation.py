"""Explanations: shares that add up, words, nearest texts, and what is shown of them."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_scorer import NAMES as CLASSES
from labelfusion.evaluation.explanation.source_shares import shapley_values, share_names, source_shares
from labelfusion.evaluation.explanation.words_left_out import leave_words_out, word_spans
from labelfusion.hub_scripts.cli import main
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from made_data import NAMES, frame
from transformers import PreTrainedTokenizerFast

from labelfusion import AutoFusionClassifier


def test_shapley_values_are_the_mean_over_all_orders() -> None:
    values = np.random.default_rng(0).normal(size=(16, 2))
    expected = np.zeros((4, 2))
    for order in permutations(range(4)):
        joined = 0
        for player in order:
            expected[player] += (values[joined | 1 << player] - values[joined]) / 24
            joined |= 1 << player
    np.testing.assert_allclose(shapley_values(values), expected, atol=1e-12)


@pytest.mark.parametrize("fusion", ["mlp", "pool", "weighted", "vote", "routing"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("answers", [0, 1, 2])
def test_the_shares_add_up_to_the_logits(
    make_model: Any, tiny_tokenizer: PreTrainedTokenizerFast, fusion: str, multi_label: bool, answers: int
) -> None:
    model = make_model(
        num_providers=2,
        multi_label=multi_label,
        fusion=fusion,
        pooling_layers=[1],
        kernel_size=4,
        lexical_size=2**15 + len(tiny_tokenizer),
        label_set_size=3 if multi_label else 0,
        calibration={"temperature": 1.7, "encoder_temperature": 0.6, "answer_map": [[-1.0, 1.0], [-2.0, 1.5]]},
    )
    with torch.no_grad():
        for head in (model.kernel_head, model.lexical_head, model.label_set_head):
            for parameter in head.parameters() if head is not None else ():
                parameter.copy_(torch.rand_like(parameter))
    encoder = TextEncoder(model, tiny_tokenizer)
    embedding = encoder(["the movie was very good"])[0]
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=np.float32)
    scores[answers:] = np.nan
    with torch.inference_mode():
        logits = model.fuse(embedding[None], torch.from_numpy(scores)[None])[0][0]
    shares = source_shares(encoder, embedding, scores)
    assert share_names(model)[1:5] == ["encoder layer 2", "encoder layer 1", "TF-IDF head", "kernel head"]
    assert shares.shape == (len(share_names(model)), 3)
    np.testing.assert_allclose(shares.sum(axis=0), logits.numpy(), atol=1e-5)
    assert (np.abs(shares[5 : 5 + answers]).sum(axis=1) > 1e-4).all()
    assert not shares[5 + answers :].any()


def test_a_linear_model_gets_its_own_terms(make_model: Any, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Without an LLM, a layer's share is what it adds to the logit, less what it adds on average."""
    model = make_model(num_providers=0)
    model.config.fusion_report = {"mean_parts": {"encoder layer 2": [0.5, -0.5, 0.0]}}
    encoder = TextEncoder(model, tiny_tokenizer)
    embedding = encoder(["a great match"])[0]
    with torch.inference_mode():
        own = (model.encoder_head.weight @ embedding).numpy()
        bias = model.encoder_head.bias.numpy()
    shares = source_shares(encoder, embedding, np.zeros((0, 3)))
    np.testing.assert_allclose(shares[0], bias + np.array([0.5, -0.5, 0.0]), atol=1e-5)
    np.testing.assert_allclose(shares[1], own - [0.5, -0.5, 0.0], atol=1e-5)


def test_too_many_sources(make_model: Any, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(num_providers=17)
    encoder = TextEncoder(model, tiny_tokenizer)
    with pytest.raises(ValueError, match="18 sources"):
        source_shares(encoder, encoder(["a"])[0], np.full((17, 3), 1 / 3))


def test_words_and_runs_of_words() -> None:
    def words(text: str, most: int = 100) -> list[str]:
        return [text[start:end] for start, end in word_spans(text, most)]

    assert words("It's well-made, isn’t it?") == ["It's", "well-made", "isn’t", "it"]
    assert words("東京 は 暑い") == ["東", "京", "は", "暑", "い"]
    assert words("a b c d e f g", 3) == ["a b c", "d e", "f g"]
    assert words("?!") == []


def test_words_keep_the_answers_of_the_llm(make_model: Any, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model, text = make_model(), "the movie was good"
    encoder, scores = TextEncoder(model, tiny_tokenizer), np.array([[0.2, 0.7, 0.1]], dtype=np.float32)
    found = leave_words_out(encoder, text, scores)
    without = encoder(["the  was good", text])
    with torch.inference_mode():
        logits = model.fuse(without, torch.from_numpy(scores).expand(2, 1, 3))[0].numpy()
    np.testing.assert_allclose(found.effects[1], logits[1] - logits[0], atol=1e-5)


@pytest.fixture(scope="module")
def clf(tiny_encoder_dir: str) -> AutoFusionClassifier:
    return AutoFusionClassifier(encoder=tiny_encoder_dir, llm="recorded", encoder_training="probe").fit(frame(120))


def test_explain(clf: AutoFusionClassifier, tmp_path: Path) -> None:
    test = frame(6, seed=5)
    found = clf.explain(test, frame(120), nearest=2)
    sources = clf.predict_sources(test)
    assert len(found) == 6
    for i, one in enumerate(found):
        assert one.predicted == [clf.predict(test)[i]]
        np.testing.assert_allclose(one.shares.sum(axis=0), sources.logits[i], atol=1e-5)
        assert sum(one.shares_of().values()) == pytest.approx(sources.logits[i].max(), abs=1e-5)
        assert [n["similarity"] for n in one.nearest] == sorted((n["similarity"] for n in one.nearest), reverse=True)
    near = [n["label"] for one in found for n in one.nearest]
    assert np.mean([a == b for a, b in zip(near, np.repeat(test["label"], 2), strict=True)]) > 0.6
    assert found[0].nearest[0]["text"] == frame(120)["text"][found[0].nearest[0]["row"]]
    json.dumps(found[0].to_dict())
    found[0].plot(tmp_path / "why.png")
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


def test_the_words_of_a_class_speak_for_it(clf: AutoFusionClassifier) -> None:
    one = clf.explain("the movie plot was good")
    assert one.explained == "film"
    words = dict(one.words_of())
    assert min(words["movie"], words["plot"]) > max(words["the"], words["was"])
    assert one.rival() in ("sport", "tech")
    assert "recorded (no answer)" in repr(one)
    assert "against" in repr(one)
    other = clf.explain("the movie plot was good", label="tech", words=False)
    assert other.shares_of("film") == one.shares_of()
    assert "not predicted" in repr(other)
    assert other.words_of() == []


def test_an_llm_is_queried_once(tiny_encoder_dir: str) -> None:
    asked: list[str] = []

    def llm(texts: list[str]) -> Any:
        asked.extend(texts)
        return np.tile([0.2, 0.7, 0.1], (len(texts), 1))

    data = frame(60).drop(columns="llm_scores")
    clf = AutoFusionClassifier(tiny_encoder_dir, llm=llm, encoder_training="probe", cache=False).fit(data)
    asked.clear()
    one = clf.explain("a good team and a bad match")
    assert asked == ["a good team and a bad match"]
    assert one.llm_called
    assert "The LLM was queried, for $0." in repr(one)
    assert "for $0.000041." in repr(replace(one, cost_usd=0.000041))
    assert "for under $0.000001." in repr(replace(one, cost_usd=2e-7))
    clf.explain("a good team", llm_policy="never")
    assert len(asked) == 1


def test_markup_in_texts_and_bad_arguments(clf: AutoFusionClassifier) -> None:
    shown = clf.explain("a | movie <b>plot</b>", frame(30)).to_markdown()
    assert "<b>" not in shown
    assert "\\|" in shown.splitlines()[0]
    with pytest.raises(ValueError, match="`label` is 'music'; the classes are film"):
        clf.explain("a movie", label="music")
    with pytest.raises(ValueError, match="`nearest`"):
        clf.explain("a movie", nearest=0)


def test_a_multi_label_text(tiny_encoder_dir: str) -> None:
    data = frame(90)
    data["labels"] = [[name] for name in data.pop("label")]
    clf = AutoFusionClassifier(tiny_encoder_dir, llm="recorded", multi_label=True, encoder_training="probe").fit(data)
    one = clf.explain("a movie", llm_scores=[[[0.9, 0.05, 0.2]]])
    assert one.rival() is None
    assert "against" not in repr(one)
    np.testing.assert_allclose(one.shares.sum(axis=0), one.logits, atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-one.logits)), one.probabilities, atol=1e-5)


def test_the_report_of_a_fit_holds_means_and_counts(clf: AutoFusionClassifier) -> None:
    assert clf.report_["class_rows"] == [40, 40, 40]
    assert all(np.shape(row) == (3,) for row in clf.report_["mean_parts"].values())
    assert clf.classes_.tolist() == NAMES != CLASSES


def test_command(clf: AutoFusionClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clf.save_pretrained(tmp_path / "model")
    frame(30).to_csv(tmp_path / "train.csv", index=False)
    words = ["explain", str(tmp_path / "model"), "the movie plot"]
    assert main([*words, "--plot", str(tmp_path / "why.png"), "--examples", str(tmp_path / "train.csv")]) == 0
    assert "Nearest labelled texts:" in capsys.readouterr().out
    assert (tmp_path / "why.png").is_file()
    assert main([*words, "a goal", "--json"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["the movie plot", "a goal"]
    assert main([*words, "a goal", "--plot", "x.png"]) == 2
