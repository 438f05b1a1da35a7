"""`pipeline("labelfusion-classification")`: what it answers, to which inputs."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers import RobertaConfig, TextClassificationPipeline, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from labelfusion import LabelFusionPipeline

MakePipe = Callable[..., LabelFusionPipeline]

TEXTS = ["good movie", "the team was bad", "stock market price fine .", "!", "a", "great phone code data science !"]
SCORES = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.8, 0.1]], [[np.nan] * 3], [[0.3, 0.3, 0.4]], [[1, 0, 0]], [[0, 0, 1]]])


@pytest.fixture
def make_pipe(make_model: Callable[..., Any], tiny_tokenizer: Tokenizer) -> Any:
    def make(pipe_options: Any = None, **model_options: Any) -> Any:
        model = make_model(**model_options)
        return LabelFusionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu", **(pipe_options or {}))

    return make


def load(folder: Path, **options: Any) -> LabelFusionPipeline:
    factory: Any = pipeline  # its annotations know only the tasks of Transformers itself
    return factory("labelfusion-classification", model=str(folder), device="cpu", **options)


def reference(pipe: LabelFusionPipeline, text: str, scores: Any = None) -> Any:
    """Probabilities by a plain forward of the model."""
    inputs = pipe.tokenizer([text], return_tensors="pt", truncation=True)
    if scores is not None:
        inputs["llm_scores"] = torch.tensor(np.asarray(scores)[None], dtype=torch.float32)
    with torch.no_grad():
        logits = pipe.model(**inputs).logits[0]
    return (logits.sigmoid() if pipe.model.config.multi_label else logits.softmax(-1)).tolist()


def as_dict(labels: Any) -> Any:
    return {entry["label"]: entry["score"] for entry in labels}


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS[:3], TEXTS[:1]])
@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}])
def test_answers_have_the_shape_of_text_classification(
    make_pipe: MakePipe, inputs: Any, options: dict[str, Any]
) -> None:
    pipe = make_pipe(num_providers=0)
    expected = TextClassificationPipeline(model=pipe.model, tokenizer=pipe.tokenizer, device="cpu")(inputs, **options)
    got = pipe(inputs, **options)
    assert type(got) is type(expected)
    assert strip(got) == strip(expected)


def strip(answer: Any) -> Any:
    """The answer with rounded scores."""
    if isinstance(answer, list):
        return [strip(entry) for entry in answer]
    return {"label": answer["label"], "score": round(answer["score"], 5)}


def test_a_dict_gives_a_dict_and_options_may_be_set_at_construction(make_pipe: MakePipe) -> None:
    pipe = make_pipe({"top_k": 2, "llm_policy": "never", "batch_size": 4})
    assert [len(answer) for answer in pipe(TEXTS[:2])] == [2, 2]
    assert len(pipe(TEXTS[:2], top_k=None)[0]) == 3
    assert set(make_pipe()({"text": "good"})) == {"label", "score"}


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("num_labels", [2, 77])
def test_fused_scores_are_those_of_the_forward(make_pipe: MakePipe, multi_label: bool, num_labels: int) -> None:
    pipe = make_pipe(num_labels=num_labels, num_providers=2, multi_label=multi_label)
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.01, 1, size=(len(TEXTS), 2, num_labels))
    scores = scores if multi_label else scores / scores.sum(-1, keepdims=True)
    scores[1, 0] = scores[2] = np.nan
    answers = pipe(TEXTS, llm_scores=scores, top_k=None)
    for text, given, answer in zip(TEXTS, scores, answers, strict=True):
        expected = reference(pipe, text, given)
        assert [as_dict(answer)[f"class{k}"] for k in range(num_labels)] == pytest.approx(expected, abs=1e-5)
    assert as_dict(answers[0]) != pytest.approx(as_dict(pipe(TEXTS[:1], top_k=None)[0]), abs=1e-3)


def test_batching_does_not_change_the_answers(make_pipe: MakePipe) -> None:
    pipe = make_pipe()
    texts = [" ".join(TEXTS[i % 6] for i in range(n)) for n in range(1, 40)]
    one = pipe(texts, batch_size=1, top_k=None)
    for size in (3, 32):
        for a, b in zip(one, pipe(texts, batch_size=size, top_k=None), strict=True):
            assert as_dict(a) == pytest.approx(as_dict(b), abs=1e-5)
    for a, b in zip(one, pipe(iter(texts), top_k=None), strict=True):
        assert as_dict(a) == pytest.approx(as_dict(b), abs=1e-5)


def test_multi_label_uses_the_thresholds(make_pipe: MakePipe) -> None:
    pipe = make_pipe(multi_label=True, num_labels=4)
    scores = as_dict(pipe("good movie", top_k=None))
    wanted = sorted(scores, key=scores.get, reverse=True)
    pipe.model.config.thresholds = [scores[f"class{k}"] + (1e-4 if f"class{k}" in wanted[2:] else 0) for k in range(4)]
    assert [entry["label"] for entry in pipe("good movie")] == wanted[:2]
    assert [[entry["label"] for entry in answer] for answer in pipe(["good movie"])] == [wanted[:2]]
    pipe.model.config.thresholds = [1.0] * 4
    assert pipe("good movie") == []
    assert pipe(["good movie", "bad"]) == [[], []]
    pipe.model.config.thresholds = None
    assert [entry["label"] for entry in pipe("good movie")] == [name for name in wanted if scores[name] >= 0.5]
    assert len(pipe("good movie", top_k=3)) == 3


def test_sources(make_pipe: MakePipe) -> None:
    pipe = make_pipe(llm_providers=[{"model": "recorded", "name": "a"}, {"model": "recorded", "name": "encoder"}])
    scores = np.concatenate([SCORES, SCORES[::-1]], axis=1)
    answers = pipe(TEXTS, llm_scores=scores, return_sources=True)
    for text, given, answer in zip(TEXTS, scores, answers, strict=True):
        assert set(answer) == {"label", "score", "sources", "llm_called", "cost_usd"}
        assert list(answer["sources"]) == ["encoder", "a", "encoder (2)"]
        assert list(answer["sources"]["encoder"].values()) == pytest.approx(reference(pipe, text), abs=1e-5)
        for name, row in zip(["a", "encoder (2)"], given, strict=True):
            if np.isnan(row).any():
                assert answer["sources"][name] is None
            else:
                assert list(answer["sources"][name].values()) == pytest.approx(row.tolist())
        assert answer["llm_called"] is False
        assert answer["cost_usd"] == 0.0
    json.dumps(answers)
    (single,) = pipe("good", return_sources=True)
    assert single["sources"]["a"] is None
    assert [entry["label"] for entry in pipe("good", top_k=2, return_sources=True)["labels"]]


@pytest.mark.parametrize(
    "wrap",
    [
        tuple,
        iter,
        np.array,
        lambda texts: (text for text in texts),
        lambda texts: map(str, texts),
        lambda texts: [{"text": text} for text in texts],
        lambda texts: datasets.Dataset.from_dict({"text": texts, "label": [0] * len(texts)}),
        lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
        lambda texts: datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset(),
        lambda texts: KeyDataset(datasets.Dataset.from_dict({"body": texts}), "body"),
    ],
)
def test_inputs_of_every_kind(make_pipe: MakePipe, wrap: Any) -> None:
    pipe = make_pipe()
    answers = pipe(wrap(TEXTS))
    assert strip(list(answers)) == strip(pipe(TEXTS))


def test_a_dataset_gives_a_lazy_answer_with_its_length(make_pipe: MakePipe) -> None:
    answers = make_pipe()(datasets.Dataset.from_dict({"text": TEXTS}))
    assert len(answers) == 6
    first = next(answers)
    assert strip(list(answers))[0] == strip(first)  # iterating starts again


def test_scores_in_dicts_and_dataset_columns(make_pipe: MakePipe) -> None:
    pipe = make_pipe()
    expected = strip(pipe(TEXTS, llm_scores=SCORES, top_k=None))
    column: list[Any] = [None if np.isnan(row).any() else row.tolist() for row in SCORES]
    column[4] = [column[4][0]]
    rows = [{"text": text, "llm_scores": scores} for text, scores in zip(TEXTS, column, strict=True)]
    assert strip(pipe(rows, top_k=None)) == expected
    assert strip(list(pipe(datasets.Dataset.from_list(rows), top_k=None))) == expected
    assert strip([pipe(row, top_k=None) for row in rows]) == expected
    assert strip([pipe(text, llm_scores=s, top_k=None) for text, s in zip(TEXTS, column, strict=True)]) == expected
    assert strip(pipe(TEXTS, llm_scores=SCORES[:, 0], top_k=None)) == expected  # one provider: (n, K) will do


def test_a_provider_without_an_answer_is_null(make_pipe: MakePipe) -> None:
    pipe = make_pipe(num_providers=2)
    partial = [None, [0.2, 0.3, 0.5]]
    answer = pipe({"text": "good", "llm_scores": partial}, top_k=None)
    expected = reference(pipe, "good", [[np.nan] * 3, [0.2, 0.3, 0.5]])
    assert [as_dict(answer)[f"class{k}"] for k in range(3)] == pytest.approx(expected, abs=1e-5)


def test_nothing_gives_nothing(make_pipe: MakePipe) -> None:
    pipe = make_pipe()
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []
    assert list(pipe(datasets.Dataset.from_dict({"text": []}))) == []


@pytest.mark.parametrize("encoder", ["bert", "roberta"])
def test_texts_of_any_length_and_script(
    make_pipe: MakePipe,
    make_model: Callable[..., Any],
    tiny_tokenizer: Tokenizer,
    encoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {}
    if encoder == "roberta":
        options["encoder_config"] = RobertaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=40,
            pad_token_id=tiny_tokenizer.pad_token_id,
        )
        monkeypatch.setattr(tiny_tokenizer, "model_max_length", int(1e30))
    pipe = make_pipe(**options)
    long = "good " * 20_000  # 100,000 characters
    texts = [long, "x" * 100_000, "漢字 🎉 é", "\ud800 lone surrogate", "\x00"]
    answers = pipe(texts)
    assert all(0 < answer["score"] <= 1 for answer in answers)
    assert strip(answers[:1]) == strip(pipe([long[:1000]]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([*TEXTS, None], "Input 6 has no text: it is None"),
        (["a", " \n\t"], "Input 1 has no text: it is"),
        ("", "Input 0 has no text: it is ''. .*`empty_texts='skip'`"),
        (["a", 3.5], "Input 1 is float"),
        (["a", ["b", "c"]], "Input 1 is list"),
        ([{"body": "a"}], "Input 0 has no key `text`; its keys are"),
        ({"text": None}, "Input 0 has no text"),
        ({"text": "a", "text_pair": 5}, "`text_pair` is int '5', expected a text"),
        (None, "got NoneType, expected"),
        (7, "got int, expected"),
        ([{"text": "a"}, {"text": "b", "llm_scores": [0.5, 0.5]}], r"of input 1 has shape \(2,\), expected \(1, 3\)"),
        ([{"text": "a", "llm_scores": "high"}], "of input 0 has no array of numbers"),
        ([{"text": "a", "llm_scores": [[2.0, 0.0, 0.0]]}], r"probabilities in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(make_pipe: MakePipe, inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_pipe()(inputs)


def test_another_model_is_refused(tiny_encoder_dir: str) -> None:
    with pytest.raises(ValueError, match="of type 'bert', not 'labelfusion'"):
        load(Path(tiny_encoder_dir))


def test_a_data_frame_is_refused(make_pipe: MakePipe) -> None:
    import pandas as pd

    pipe, frame = make_pipe(), pd.DataFrame({"text": TEXTS})
    with pytest.raises(ValueError, match="DataFrame"):
        pipe(frame)
    assert strip(pipe(frame["text"])) == strip(pipe(TEXTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm_policy": "maybe"}, "`llm_policy`"),
        ({"top_k": 0}, "`top_k`"),
        ({"max_cost_usd": -1}, "`max_cost_usd`"),
        ({"batch_size": -2}, "`batch_size`"),
        ({"max_length": 0}, "`max_length`"),
        ({"truncation": False}, "`truncation`"),
        ({"llm_scores": SCORES[:2]}, "2 entries for 6 texts"),
    ],
)
def test_bad_options_are_named(make_pipe: MakePipe, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_pipe()(TEXTS, **options)


def test_a_broken_stream_answers_what_came_before(make_pipe: MakePipe) -> None:
    def stream() -> Iterator[str]:
        yield from ["good"] * 300
        raise OSError("the disk is gone")

    answers = []
    with pytest.raises(OSError, match="disk"):
        answers.extend(make_pipe()(stream()))
    assert len(answers) == 300
    with pytest.raises(ValueError, match="Input 200 has no text"):
        list(make_pipe()(iter(["good"] * 200 + [None])))


def test_the_three_steps_of_a_pipeline_work_too(make_pipe: MakePipe) -> None:
    pipe = make_pipe()
    item = {"text": "good movie", "llm_scores": SCORES[0].tolist()}
    stepwise = pipe.postprocess(pipe.forward(pipe.preprocess(item)), top_k=None)
    assert strip(stepwise) == strip(pipe(item, top_k=None))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_saved_and_loaded_by_name(saved_model: Callable[..., Path], tmp_path: Path, dtype: str) -> None:
    folder = saved_model()
    pipe = load(folder, dtype=dtype)
    assert isinstance(pipe, LabelFusionPipeline)
    assert pipe.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    before = pipe(TEXTS, llm_scores=SCORES, top_k=None)
    pipe.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "custom_pipelines" not in config
    assert not list((tmp_path / "again").glob("*.py"))
    again = load(tmp_path / "again")
    assert again(TEXTS, llm_scores=SCORES, top_k=None) == before


def test_a_new_process_gives_the_same_bits(saved_model: Callable[..., Path]) -> None:
    folder = saved_model()
    script = f"""
import json, sys
import labelfusion
assert "torch" not in sys.modules and "transformers.pipelines" not in sys.modules
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

pipe = pipeline("labelfusion-classification", model={str(folder)!r}, device="cpu")
model = AutoModelForSequenceClassification.from_pretrained({str(folder)!r})
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
scores = [[0.2, 0.5, 0.3]]
inputs = tokenizer(["good movie"], return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs, llm_scores=torch.tensor([scores])).logits
again = pipe.forward(pipe.preprocess({{"text": "good movie", "llm_scores": scores}}))["logits"]
assert torch.equal(logits, again), (logits, again)
pipe(["good movie"] * 3, llm_policy="never")
assert not {{"litellm", "openai", "matplotlib", "labelfusion.scoring.factory"}} & set(sys.modules)
answer = pipe({{"text": "good movie", "llm_scores": scores}}, top_k=None)
print(json.dumps([logits[0].tolist(), {{a["label"]: a["score"] for a in answer}}]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    logits, answer = json.loads(done.stdout.splitlines()[-1])
    pipe = load(folder)
    item = {"text": "good movie", "llm_scores": [[0.2, 0.5, 0.3]]}
    assert pipe.forward(pipe.preprocess(item))["logits"][0].tolist() == logits
    assert as_dict(pipe(item, top_k=None)) == answer
    softmax = torch.tensor(logits, dtype=torch.float64).softmax(-1).float().tolist()
    assert [answer[f"class{k}"] for k in range(3)] == pytest.approx(softmax, abs=1e-7)
