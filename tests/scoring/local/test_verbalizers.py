"""Words that stand for the classes."""

from pathlib import Path

import numpy as np
import pytest
from labelfusion.scoring.local.verbalizers import MAX_WORDS, class_words, resolve_verbalizers, separating_words
from test_likelihood import LABELS, score, scorer, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
)


def test_words_from_names() -> None:
    assert class_words("Sci/Tech") == ["science", "technology"]
    assert class_words("money-fx") == ["money", "currency"]
    assert class_words("FoodAndDrink") == ["Food", "Drink"]
    assert class_words("card_arrival") == ["card", "arrival"]
    assert class_words("Arts & Culture or Film") == ["Arts", "Culture", "Film"]
    assert class_words("0") == ["0"]
    assert class_words("other") == ["other"]
    assert class_words("政治") == ["政治"]


def test_words_from_descriptions() -> None:
    words = class_words("World", "Politics, wars and international affairs of the world")
    assert words == ["World", "Politics", "wars", "international", "affairs"]
    assert len(class_words("x", " ".join(f"w{chr(97 + i)}" for i in range(26)))) == MAX_WORDS


def test_given_words_win() -> None:
    words = resolve_verbalizers(["law", "b"], {"b": ["x", " y ", "x"]}, {"law": "Courts, crime", "b": "second"})
    assert words == [["law", "Courts", "crime"], ["x", "y"]]


def test_separating_words() -> None:
    rng = np.random.default_rng(0)
    member = np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    member[:, 2] = 0
    member[:5, 2] = 1  # a class with few texts
    logp = rng.normal(size=(60, 8)).astype(np.float32) - 9
    logp[:, 1] += 4 * member[:, 0]
    logp[:, 5] += 2 * member[:, 0]
    logp[:, 2] += 3 * member[:, 1]
    logp += rng.normal(size=(60, 1)).astype(np.float32) * 5  # texts after which every word is likelier
    words = ["w0", "goal", "vote", "w3", "Goal", "team", "w6", "w7"]
    logp[:, 4] = logp[:, 1]
    first, second, third = separating_words(logp, member, words, 2)
    assert first == ["goal", "team"]
    assert second[0] == "vote"
    assert len(third) == 1  # one word for every four texts


def test_suggested_words_join_the_class_names(tmp_path: Path) -> None:
    words = ["match", "war", "phone", "goal", "law", "team", "chip"]
    vocab = {piece: i for i, piece in enumerate(["<unk>", ":", "In", "▁Topic", *(f"▁{w}" for w in words)])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split(":", "isolated")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    model = tiny("llama", len(vocab))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = [" ".join(words[i % 3 :: 3]) for i in range(48)]
    named = [LABELS[i % 3] for i in range(48)]
    it = scorer(tmp_path, templates=["{text} Topic:"])
    found = it.suggest_verbalizers([*texts, ""], [*named, "World"], num_words=2)
    assert list(found) == LABELS
    for own, words_of_class in zip(it.verbalizers, found.values(), strict=True):
        assert words_of_class[: len(own)] == own
        assert len(words_of_class) <= len(own) + 2
        assert set(words_of_class[len(own) :]) <= {"Topic", *words}
    better = scorer(tmp_path, templates=["{text} Topic:"], verbalizers={k: v[-2:] for k, v in found.items()})
    predicted = score(better, texts).scores.argmax(axis=1)
    assert (predicted == np.arange(48) % 3).all()
    several = it.suggest_verbalizers(texts, [[name] for name in named], num_words=2)
    assert several == found
    with pytest.raises(ValueError, match=r"unknown classes \['Weather'\]"):
        it.suggest_verbalizers(texts[:1], ["Weather"])
    with pytest.raises(ValueError, match="2 texts, but 1 labels"):
        it.suggest_verbalizers(texts[:2], ["World"])
