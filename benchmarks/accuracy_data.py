"""The data sets of `accuracy.py`: labelled texts with recorded LLM answers, with those of the embedded LLM, or both."""

import ast
import asyncio
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from labelfusion.configuration import LLMProvider
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import encode_texts, inner_layers
from labelfusion.scoring.local.embedded import LLM, resolve_model
from labelfusion.scoring.local.likelihood_scorer import LikelihoodScorer
from labelfusion.training.data import LabelledTexts, prepare
from transformers import AutoTokenizer

LLM_ROWS = 500  # that the embedded LLM is asked about where no answers are recorded
WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("local_llm_classes.yaml").read_text(encoding="utf-8"))
# Classes of GoEmotions that stand for those of tweet_emotion; rows with classes of two of them, or of none, are left.
EMOTIONS = {
    "anger": ("anger", "annoyance", "disgust"),
    "joy": ("joy", "amusement", "excitement", "love"),
    "optimism": ("optimism",),
    "sadness": ("sadness", "grief", "disappointment", "remorse"),
}


@dataclass
class Part:
    """One data set.

    Args:
        scored: Split with LLM answers, cross-validated.
        unscored: Split without, of which `sizes` rows train the encoder as well; `None`: sizes are of the scored rows.
        sizes: Numbers of training rows.
        max_length: Tokens kept of a text.
        data: Its folder. Default: its name.
        llm: Ask the embedded LLM about `LLM_ROWS` rows of the scored split.
        beside: Ask it about all rows of the scored split, beside the LLMs whose answers are recorded.
        elsewhere: Another data set on whose test split the same models are measured too.
    """

    scored: str
    unscored: str | None
    sizes: tuple[int, ...]
    max_length: int = 128
    data: str = ""
    llm: bool = False
    beside: bool = False
    elsewhere: str = ""


PARTS = {
    # 1, 2, 5, 10, 20, 40, 60, 80 and 100 % of what the paper trains on
    "ag_news": Part("validation", "train", (40, 80, 200, 400, 800, 1600, 2400, 3200, 4000)),
    "reuters10": Part("validation", "train", (58, 117, 292, 584, 1168, 2337, 3505, 4674, 5842), 256),
    "climate_stance": Part("train", None, (30, 100, 1000)),
    "movie_reviews": Part("train", None, (30, 100, 1000)),
    "semeval_stance": Part("test", None, (30, 100, 348)),
    "ag_news+local": Part("validation", "train", (80, 800, 4000), data="ag_news", beside=True),
    "reuters10+local": Part("validation", "train", (292, 1168), 256, data="reuters10", beside=True),
    "climate_stance+local": Part("train", None, (100, 1000), data="climate_stance", beside=True),
    "trec6": Part("test", "train", (100, 500, 2000), 64, llm=True),
    "goemotions": Part("validation", "train", (300, 3000), 64, llm=True),
    "emotions": Part("validation", "train", (300, 1500), 64, "goemotions", llm=True, elsewhere="tweet_emotion"),
}


@dataclass
class Data:
    """The rows of a part.

    Args:
        scored: With LLM scores.
        unscored: Without; as many as the largest size.
        elsewhere: Of another domain, with LLM scores.
        providers: Names of the LLMs.
        source: Where the data come from.
    """

    scored: LabelledTexts
    unscored: LabelledTexts | None
    elsewhere: LabelledTexts | None
    providers: list[str]
    source: str


def load(folder: Path, name: str, cache: Path) -> Data:
    """Read a part; the same rows each time. Answers of the embedded LLM are kept in `cache`."""
    part = PARTS[name]
    meta = metadata(folder, part.data or name)
    scored = _read(folder, name, part.scored, LLM_ROWS if part.llm else None)
    unscored = None if part.unscored is None else _read(folder, name, part.unscored, max(part.sizes))
    elsewhere = _read(folder, part.elsewhere, "test", LLM_ROWS) if part.elsewhere else None
    if part.llm:
        words = {label: w for label, (_, w) in WORDS[part.elsewhere or part.data or name]["classes"].items()}
        sets = [scored] if elsewhere is None else [scored, elsewhere]
        for rows, scores in zip(sets, _embedded_llm(sets, words, cache), strict=True):
            rows.llm_scores = scores[:, None]
    if part.beside:
        assert scored.llm_scores is not None
        words = {label: w for label, (_, w) in WORDS[part.data]["classes"].items()}
        (scores,) = _embedded_llm([scored], words, cache)
        scored.llm_scores = np.concatenate([scored.llm_scores, scores[:, None]], axis=1)
    providers = ([] if part.llm else meta["providers"]) + (["SmolLM2-135M-Instruct"] if part.llm or part.beside else [])
    return Data(scored, unscored, elsewhere, providers, origin(meta["source"]))


def metadata(folder: Path, name: str) -> dict[str, Any]:
    """A data set's `metadata.json`."""
    found: dict[str, Any] = json.loads((folder / name / "metadata.json").read_text(encoding="utf-8"))
    return found


def origin(source: str) -> str:
    """Where a data set comes from; some metadata files hold the text of a dict."""
    if not source.startswith("{"):
        return source
    place = ast.literal_eval(source)
    return f"From the repository {place['repo']} at {place['commit'][:10]}"


def _read(folder: Path, name: str, split: str, at_most: int | None) -> LabelledTexts:
    data = PARTS[name].data or name if name in PARTS else name
    meta = metadata(folder, data)
    table, classes, multi_label = pd.read_parquet(folder / data / f"{split}.parquet"), meta["label_names"], True
    if name == "emotions":
        member = np.stack(table["labels"].tolist())
        groups = [member[:, [classes.index(c) for c in group]].any(axis=1) for group in EMOTIONS.values()]
        known = np.stack(groups).sum(axis=0) == 1
        table = table.drop(columns="labels").assign(label=np.stack(groups).argmax(axis=0)).loc[known]
        classes, multi_label = list(EMOTIONS), False
    if at_most is not None and len(table) > at_most:
        table = table.sample(at_most, random_state=0)
    return prepare(
        table,
        classes=classes,
        multi_label=meta["multi_label"] and multi_label,
        num_providers=len(meta["providers"]) or None,
    )


def _embedded_llm(sets: list[LabelledTexts], words: dict[str, list[str]], cache: Path) -> list[np.ndarray]:
    """Its scores `(n, K)` of the texts of each set; its prior comes from those of the first."""
    texts = [text for rows in sets for text in rows.texts]
    digest = hashlib.sha256(json.dumps([LLM, words, texts]).encode()).hexdigest()[:16]
    path = cache / f"llm-{digest}.npy"
    if not path.exists():
        first = sets[0]
        assert first.labels is not None
        scorer = LikelihoodScorer(LLMProvider(LLM, verbalizers=words), list(words), first.labels.ndim == 2)
        np.save(path, np.concatenate([asyncio.run(scorer.score(rows.texts)).scores for rows in sets]))
    return np.split(np.load(path), np.cumsum([len(rows) for rows in sets])[:-1])


class Embedder:
    """Frozen encoder outputs, computed once for each data set, split and length."""

    def __init__(self, encoder: str, cache: Path, device: str, bf16: bool = False) -> None:
        self.source = str(resolve_model(encoder))
        self.tokenizer = AutoTokenizer.from_pretrained(self.source)
        self.cache, self.device, self.bf16 = cache, device, bf16

    def model(
        self, labels: list[str], num_providers: int, multi_label: bool, **config: Any
    ) -> LabelFusionForSequenceClassification:
        """A new model on the encoder, with the inner layers that the recipe takes."""
        torch.manual_seed(0)
        model = LabelFusionForSequenceClassification.from_encoder_pretrained(
            self.source,
            labels=labels,
            llm_providers=[{"model": "recorded", "name": f"llm {p}"} for p in range(num_providers)],
            multi_label=multi_label,
            **config,
        ).to(self.device)
        model.set_pooling_layers(inner_layers(model, self.tokenizer, ["Stocks rose after the bank kept its rate."]))
        return model

    def __call__(self, texts: list[str], max_length: int, description: str) -> torch.Tensor:
        """float32 `(n, pooled_size)`."""
        encoder = self.model(["a", "b"], 0, False)
        settings = [self.source, str(encoder.config.pooling_layers), str(max_length), *(["bf16"] if self.bf16 else [])]
        digest = hashlib.sha256("\0".join([*settings, *texts]).encode()).hexdigest()[:16]
        path = self.cache / f"{digest}.npy"
        if not path.exists():
            print(f"Encoding {description}", flush=True)
            out = encode_texts(encoder, self.tokenizer, texts, max_length=max_length, bf16=self.bf16, progress=True)
            np.save(path, out.numpy())
        return torch.from_numpy(np.load(path))
