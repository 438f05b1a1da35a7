"""The local LLM: accuracy by data set, words, recipe and prompt strategy; throughput against naive peers.

    python benchmarks/local_llm.py PART [--on ag_news] [--n 300] [--seed 0] [--runs 3] [--data ../shared/data]

PART: the name of a data set (see `local_llm_classes.yaml`), `strategies`, `lengths`, `throughput`, or `report`. Each
takes minutes on two cores and keeps its figures in `docs/local-llm.json`; the tables of `docs/local-llm.md` are then
written anew. Zero-shot means that no label is used; the prior comes from the texts that are scored.
"""

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from labelfusion.configuration import LLMProvider
from labelfusion.scoring.local.causal_lm import CausalLM, Prefix, PromptTree
from labelfusion.scoring.local.embedded import LLM
from labelfusion.scoring.local.likelihood_scorer import TEMPLATES, LikelihoodScorer
from sklearn.metrics import average_precision_score

HERE = Path(__file__).parent
RESULTS, REPORT = HERE.parent / "docs/local-llm.json", HERE.parent / "docs/local-llm.md"
CLASSES: dict[str, Any] = yaml.safe_load((HERE / "local_llm_classes.yaml").read_text(encoding="utf-8"))
SUGGEST_ROWS = 128
TOPIC = "{text}\nTopic:"


class Data:
    """`n` rows of a split, chosen by `seed`: texts, member `(n, K)` of 0 and 1, recorded LLM scores if any."""

    def __init__(self, folder: Path, name: str, split: str, n: int, seed: int) -> None:
        rows = pd.read_parquet(folder / name / f"{split}.parquet")
        rows = rows.sample(min(n, len(rows)), random_state=seed)
        self.labels = list(CLASSES[name]["classes"])
        self.texts: list[str] = rows["text"].tolist()
        self.multi_label = "labels" in rows
        eye = np.eye(len(self.labels))
        self.member = np.stack(rows["labels"].tolist()) if self.multi_label else eye[rows["label"].to_numpy()]
        self.recorded = rows["llm_scores"].tolist() if "llm_scores" in rows else None
        self.providers: list[str] = json.loads((folder / name / "metadata.json").read_text())["providers"]

    def hits(self, scores: np.ndarray) -> np.ndarray:
        """0/1 `(n,)`: whether the best-scored class is right (multi-label: one of the right ones)."""
        return self.member[np.arange(len(scores)), scores.argmax(axis=1)]


class Replay:
    """Stands for a `CausalLM` whose texts are known: one pass answers every scorer whose prompts have no prefix."""

    def __init__(self, lm: CausalLM, texts: Sequence[Sequence[int]], trees: Sequence[PromptTree], size: int) -> None:
        asked = sorted({(path, token) for tree in trees for _, path, token in self._terms(tree)})
        paths = list(dict.fromkeys(path for path, _ in asked))
        union = PromptTree.build(paths, [[[t] for p, t in asked if p == path] for path in paths])
        table = lm.log_likelihoods(texts, union, batch_size=size)
        order = [(path, t) for path in paths for p, t in asked if p == path]
        self.columns = {term: table[:, i] for i, term in enumerate(order)}
        self.encode, self.ids = lm.encode, {tuple(row): i for i, row in enumerate(texts)}

    def log_likelihoods(self, texts: Any, tree: PromptTree, *_: Any) -> torch.Tensor:
        rows = [self.ids[tuple(text)] for text in texts]
        out = torch.zeros(len(rows), tree.num_leaves)
        for leaf, path, token in self._terms(tree):
            out[:, leaf] += self.columns[path, token][rows]
        return out

    @staticmethod
    def _terms(tree: PromptTree) -> list[tuple[int, tuple[int, ...], int]]:
        """(leaf, tokens that precede, token) of each term."""
        paths = [tuple(tree.tokens[tree.visible[node]].tolist()) for node in tree.reads]
        return [(leaf, paths[read], token) for leaf, read, token in tree.terms.T.tolist()]


def make(data: Data, descriptions: dict[str, str] | None = None, **fields: Any) -> LikelihoodScorer:
    return LikelihoodScorer(LLMProvider(LLM, **fields), data.labels, data.multi_label, descriptions)


def accuracy(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All word sets and recipes on one data set, from one pass over its texts."""
    classes = CLASSES[name]["classes"]
    data = Data(options.data, name, CLASSES[name]["test"], options.n, options.seed)
    train = Data(options.data, name, "train", SUGGEST_ROWS, options.seed)
    named = [[c for c, yes in zip(train.labels, row, strict=True) if yes] for row in train.member]
    suggested = make(train).suggest_verbalizers(train.texts, named)
    written = {label: words for label, (_, words) in classes.items()}
    descriptions = {label: text for label, (text, _) in classes.items()}
    words: dict[str, dict[str, Any]] = {
        "names": {},
        "descriptions": {"descriptions": descriptions},
        "written": {"verbalizers": written},
        "suggested": {"verbalizers": suggested},
    }
    recipes: dict[str, dict[str, Any]] = {
        "one template, first word": {"templates": [TOPIC], "verbalizers": {c: w[:1] for c, w in written.items()}},
        "one template, sum of words": {"templates": [TOPIC], "verbalizers": written, "params": {"word_power": 1.0}},
        "one template, power mean": {"templates": [TOPIC], "verbalizers": written},
        "three templates, sum of words": {"verbalizers": written, "params": {"word_power": 1.0}},
        "three templates, power mean": {"verbalizers": written},
    }
    scorers = {key: make(data, **fields) for key, fields in {**words, **recipes}.items()}
    lm, questions = next(iter(scorers.values()))._prepare()
    ids = scorers["names"]._encode(lm, questions[0], data.texts)
    replay: Any = Replay(lm, ids, [s._prepare()[1][0].tree for s in scorers.values()], 16)
    result: dict[str, Any] = {
        "rows": len(data.texts),
        "split": CLASSES[name]["test"],
        "multi_label": data.multi_label,
        "majority": float(data.member.mean(axis=0).max()),
        "suggested_words": {label: w[-10:] for label, w in suggested.items()},
    }
    if data.recorded is not None:
        known = [i for i, row in enumerate(data.recorded) if row is not None and row[0] is not None]
        if known:
            recorded = np.stack([np.asarray(data.recorded[i][0], dtype=float) for i in known])
            hits = data.member[known, recorded.argmax(axis=1)]
            result["recorded"] = {"provider": data.providers[0], **measure(hits, options.seed)}
    for key, scorer in scorers.items():
        for prior in (False, True):
            scorer._ready = (replay, scorer._prepare()[1])
            scorer.prior = None if prior else np.zeros(len(data.labels), dtype=np.float32)
            scores = asyncio.run(scorer.score(data.texts)).scores
            figures = measure(data.hits(scores), options.seed)
            if data.multi_label:
                figures["map"] = mean_average_precision(data, scores)
            result[f"{key}, prior" if prior else key] = figures
    return result


def measure(hits: np.ndarray, seed: int) -> dict[str, Any]:
    """Share of hits, with a bootstrap interval of 95 %."""
    rng = np.random.default_rng(seed)
    means = rng.choice(hits, size=(2000, len(hits))).mean(axis=1)
    return {"accuracy": float(hits.mean()), "interval": [float(q) for q in np.quantile(means, [0.025, 0.975])]}


def strategies(options: argparse.Namespace) -> dict[str, Any]:
    """Prompt strategies on the data set `--on`, all with the written words and the prior."""
    data = Data(options.data, options.on, CLASSES[options.on]["test"], options.n, options.seed)
    train = Data(options.data, options.on, "train", 1000, options.seed)
    classes = CLASSES[options.on]["classes"]
    shots = [
        {"text": train.texts[np.flatnonzero(train.member[:, k])[i]], "label": label}
        for i in range(2)
        for k, label in enumerate(data.labels)
    ]
    described = "\n".join(f"{label}: {text}." for label, (text, _) in classes.items())
    chat = "<|im_start|>user\nClassify this text.\n{text}<|im_end|>\n<|im_start|>assistant\n"
    variants: dict[str, dict[str, Any]] = {
        "zero-shot": {},
        "zero-shot, float32": {"params": {"dtype": "float32"}},
        "classes described in front": {"guidelines": described},
        "few-shot, one example a class": {"prompt": "few-shot", "examples": shots[: len(data.labels)]},
        "few-shot, two examples a class": {"prompt": "few-shot", "examples": shots},
        "chat template": {"templates": [chat + t.removeprefix("{text}").strip() for t in TEMPLATES]},
    }
    words = {label: w for label, (_, w) in classes.items()}
    result: dict[str, Any] = {"rows": len(data.texts), "on": f"{options.on}/{CLASSES[options.on]['test']}"}
    for key, fields in variants.items():
        result[key] = scored(make(data, verbalizers=words, **fields), data, options.seed)
        print(key, result[key], flush=True)
    return result


def lengths(options: argparse.Namespace) -> dict[str, Any]:
    """How much of a long text is worth reading, on Reuters."""
    data = Data(options.data, "reuters10", "validation", options.n, options.seed)
    words = {label: w for label, (_, w) in CLASSES["reuters10"]["classes"].items()}
    result: dict[str, Any] = {"rows": len(data.texts)}
    for limit in (32, 64, 128, 256):
        scorer = make(data, verbalizers=words, params={"max_text_tokens": limit})
        result[str(limit)] = scored(scorer, data, options.seed)
        print(limit, result[str(limit)], flush=True)
    return result


def scored(scorer: LikelihoodScorer, data: Data, seed: int) -> dict[str, Any]:
    batch = asyncio.run(scorer.score(data.texts))
    figures = {**measure(data.hits(batch.scores), seed), "tokens": batch.usage.prompt_tokens / len(data.texts)}
    if data.multi_label:
        figures["map"] = mean_average_precision(data, batch.scores)
    return figures


def mean_average_precision(data: Data, scores: np.ndarray) -> float:
    some = data.member.sum(axis=0) > 0
    return float(average_precision_score(data.member[:, some], scores[:, some], average="macro"))


@torch.inference_mode()
def naive(lm: CausalLM, texts: Sequence[Sequence[int]], tree: PromptTree, prefix: Sequence[int]) -> None:
    """The peer: one forward for each text, template and word, over the whole sequence."""
    for text in texts:
        for leaf in range(tree.num_leaves):
            own = tree.terms[:, tree.terms[0] == leaf]
            node = tree.reads[own[1, -1]]
            ids = [*prefix, *text, *tree.tokens[tree.visible[node]].tolist(), int(own[2, -1])]
            lm.model(input_ids=torch.tensor([ids])).logits.float().log_softmax(-1)


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Texts per second on AG News, against peers that do the same work in the usual ways. Rounds are interleaved."""
    data = Data(options.data, "ag_news", "validation", 16, options.seed)
    shots = [{"text": text, "label": "World"} for text in Data(options.data, "ag_news", "train", 4, 0).texts]
    words = {label: w for label, (_, w) in CLASSES["ag_news"]["classes"].items()}
    one = {label: w[:1] for label, w in words.items()}
    setups: dict[str, tuple[dict[str, Any], int]] = {  # fields of the provider, texts that the slow peer is given
        "4 words, one template": ({"verbalizers": one, "templates": [TOPIC]}, 4),
        "28 words, three templates": ({"verbalizers": words}, 1),
        "28 words, three templates, 4 examples": (
            {"verbalizers": words, "prompt": "few-shot", "examples": shots},
            1,
        ),
    }
    result: dict[str, Any] = {"rows": len(data.texts), "runs": options.runs, "threads": torch.get_num_threads()}
    for key, (fields, few) in setups.items():
        scorer = make(data, **fields)
        lm, (question,) = scorer._prepare()
        ids, tree, prefix = scorer._encode(lm, question, data.texts), question.tree, question.prefix
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "this project": (partial(lm.log_likelihoods, ids, tree, prefix), len(ids)),
            "one forward a text, template and word": (partial(naive, lm, ids[:few], tree, prefix.tokens), few),
        }
        if "templates" not in fields:
            trees = [make(data, **fields, templates=[t])._prepare()[1][0].tree for t in TEMPLATES]
            ways["one batched pass a template"] = (partial(one_by_one, lm, ids, trees, prefix), len(ids))
        if prefix.tokens:
            whole = [[*prefix.tokens, *row] for row in ids]
            ways["prefix read with every text"] = (partial(lm.log_likelihoods, whole, tree), len(ids))
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.runs):
            for way, (work, count) in ways.items():
                started = time.perf_counter()
                work()
                rates[way].append(count / (time.perf_counter() - started))
        result[key] = {way: statistics.median(values) for way, values in rates.items()}
        result[key]["prefix_tokens"] = len(prefix.tokens)
        result[key]["text_tokens"] = statistics.mean(map(len, ids))
        print(key, result[key], flush=True)
    return result


def one_by_one(lm: CausalLM, ids: Sequence[Sequence[int]], trees: Sequence[PromptTree], prefix: Prefix) -> None:
    """A peer: batched, but every template reads the text anew."""
    for tree in trees:
        lm.log_likelihoods(ids, tree, prefix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "strategies": strategies,
        "lengths": lengths,
        "throughput": throughput,
    }
    parser.add_argument("part", choices=[*CLASSES, *parts, "report"])
    parser.add_argument("--on", choices=list(CLASSES), default="ag_news", help="data set of the strategies")
    parser.add_argument("--n", type=int, default=300, help="texts of a data set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3, help="rounds of the throughput (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.part != "report":
        work = parts.get(options.part)
        started = time.perf_counter()
        figures = work(options) if work else accuracy(options.part, options)
        seconds = round(time.perf_counter() - started)
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        key = f"strategies {options.on}" if options.part == "strategies" else options.part
        results[key] = {**figures, "seed": options.seed, "seconds": seconds, "machine": machine}
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    from local_llm_report import write_tables

    write_tables(results, list(CLASSES), REPORT)


if __name__ == "__main__":
    main()
