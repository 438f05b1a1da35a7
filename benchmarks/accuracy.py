"""Accuracy of encoder, LLM and fusion at every amount of training data, on data sets with recorded LLM answers.

    python benchmarks/accuracy.py --data ../shared/data [--part ag_news reuters10] [--encoder roberta-base]

Every result is kept in `--cache` as soon as it is there; a run that was stopped goes on where it was. Encoder outputs
are computed once. The report is written to `docs/accuracy.md`.
"""

import argparse
import ast
import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.scoring.embedded import resolve_model
from labelfusion.training.data import LabelledTexts, prepare
from labelfusion.training.encoding import complete, encode_texts
from labelfusion.training.finetune import FinetuneOptions
from labelfusion.training.fit import FitOptions, fit_model
from labelfusion.training.folds import assign_folds
from labelfusion.training.metrics import classification_metrics, softmax_or_sigmoid
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging


@dataclass
class Part:
    """One data set.

    Args:
        scored: Split with recorded LLM answers, cross-validated.
        unscored: Split without, of which `sizes` rows train the encoder as well; `None`: sizes are of the scored rows.
        sizes: Numbers of training rows.
        max_length: Tokens kept of a text.
    """

    scored: str
    unscored: str | None
    sizes: tuple[int, ...]
    max_length: int = 128


PARTS = {
    "ag_news": Part("validation", "train", (40, 80, 200, 400, 800, 1600, 4000)),  # 1, 2, 5, 10, 20, 40, 100 %
    "reuters10": Part("validation", "train", (58, 117, 292, 584, 1168, 2337, 5842), 256),
    "climate_stance": Part("train", None, (30, 100, 1000)),
    "movie_reviews": Part("train", None, (30, 100, 1000)),
    "semeval_stance": Part("test", None, (30, 100, 348)),
}
FOLDS = 5
# Fusion of RoBERTa-base and LLMs in arXiv:2512.10793, by number of training rows, on the data set's test split.
PAPER = {"ag_news": {4000: 0.924}, "reuters10": {292: 0.706, 1168: 0.720, 5842: 0.923}}


def load(folder: Path, name: str, split: str, at_most: int | None = None) -> LabelledTexts:
    meta = json.loads((folder / name / "metadata.json").read_text(encoding="utf-8"))
    table = pd.read_parquet(folder / name / f"{split}.parquet")
    if at_most is not None and len(table) > at_most:
        table = table.sample(at_most, random_state=0)
    return prepare(
        table,
        classes=meta["label_names"],
        multi_label=meta["multi_label"],
        num_providers=len(meta["providers"]) or None,
    )


def load_unscored(folder: Path, name: str, part: Part) -> LabelledTexts:
    """The rows that stand for 100 % of the training data: as many as the largest size, the same for every seed."""
    assert part.unscored is not None
    return load(folder, name, part.unscored, max(part.sizes))


class Embedder:
    """Frozen encoder outputs, computed once for each data set, split and length."""

    def __init__(self, encoder: str, cache: Path, device: str, bf16: bool = False) -> None:
        self.source = str(resolve_model(encoder))
        self.tokenizer = AutoTokenizer.from_pretrained(self.source)
        self.cache, self.device, self.bf16 = cache, device, bf16

    def model(self, labels: list[str], num_providers: int, multi_label: bool) -> LabelFusionForSequenceClassification:
        torch.manual_seed(0)
        return LabelFusionForSequenceClassification.from_encoder_pretrained(
            self.source,
            labels=labels,
            llm_providers=[{"model": "recorded", "name": f"llm {p}"} for p in range(num_providers)],
            multi_label=multi_label,
        ).to(self.device)

    def __call__(self, texts: list[str], key: str, max_length: int) -> torch.Tensor:
        settings = [self.source, key, str(max_length), *(["bf16"] if self.bf16 else [])]
        digest = hashlib.sha256("\0".join([*settings, *texts]).encode()).hexdigest()[:16]
        path = self.cache / f"{digest}.npy"
        if not path.exists():
            encoder = self.model(["a", "b"], 0, False)
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
                out = encode_texts(
                    encoder, self.tokenizer, texts, max_length=max_length, progress=True, description=f"Encoding {key}"
                )
            np.save(path, out.numpy())
        return torch.from_numpy(np.load(path))


def one(
    part: Part, name: str, size: int, seed: int, fold: int, embed: Embedder, args: argparse.Namespace
) -> dict[str, Any]:
    """Fit on one training part and measure all sources on the held-out fold."""
    scored = load(args.data, name, part.scored)
    assert scored.labels is not None
    assert scored.llm_scores is not None
    embeddings = embed(scored.texts, f"{name}/{part.scored}", part.max_length)
    if args.control == "shuffled LLM scores":
        scored.llm_scores = scored.llm_scores[np.random.default_rng(seed).permutation(len(scored))]
    held_out = assign_folds(scored.labels, FOLDS, scored.texts, seed=100 + seed) == fold
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(~held_out)
    if part.unscored is None:
        rows = np.sort(rng.permutation(rows)[:size])
    texts = [scored.texts[i] for i in rows]
    labels, scores, features = scored.labels[rows], scored.llm_scores[rows], embeddings[rows]
    if part.unscored is not None:
        more = load_unscored(args.data, name, part)
        assert more.labels is not None
        extra = np.sort(rng.permutation(len(more))[:size])
        features = torch.cat([embed(more.texts, f"{name}/{part.unscored}", part.max_length)[extra], features])
        texts = [more.texts[i] for i in extra] + texts
        labels = np.concatenate([more.labels[extra], labels])
        scores = np.concatenate([np.full((len(extra), *scores.shape[1:]), np.nan, dtype=np.float32), scores])
    noise = args.control == "noise for embeddings"
    if noise:
        features, embeddings = (torch.randn(x.shape, generator=torch.manual_seed(seed)) for x in (features, embeddings))
    multi_label = labels.ndim == 2
    model = embed.model([str(c) for c in scored.classes], scores.shape[1], multi_label)
    options = FitOptions(
        encoder_training=args.encoder_training,
        max_train_minutes=args.max_train_minutes,
        extra_sources=not noise,  # words are no noise
        finetune=FinetuneOptions(max_length=part.max_length, seed=seed),
        seed=seed,
    )
    started = time.perf_counter()
    report = fit_model(model, embed.tokenizer, texts, labels, scores, options, embeddings=features)
    seconds = time.perf_counter() - started
    truth, test_scores = scored.labels[held_out], scored.llm_scores[held_out]
    chosen = [t for t, yes in zip(scored.texts, held_out, strict=True) if yes]
    if report["encoder_training"] != "probe":
        test = encode_texts(model, embed.tokenizer, chosen, max_length=part.max_length)
    else:
        test = complete(model, embed.tokenizer, chosen, embeddings[held_out], part.max_length)
    with torch.no_grad():
        fused, alone = model.fuse(test.to(args.device), torch.from_numpy(test_scores).to(args.device))
    settings = (multi_label, model.config.thresholds, model.config.min_labels)
    probabilities = [softmax_or_sigmoid(x.float().cpu().numpy(), multi_label) for x in (fused, alone)]
    result = {
        "fusion": classification_metrics(probabilities[0], truth, *settings),
        "encoder": classification_metrics(probabilities[1], truth, *settings),
    }
    for p in range(test_scores.shape[1]):
        result[f"llm {p}"] = classification_metrics(np.nan_to_num(test_scores[:, p]), truth, multi_label)
    return {
        "part": name,
        "encoder": Path(args.encoder).name,
        "training": args.encoder_training,
        "control": args.control,
        "size": size,
        "seed": seed,
        "fold": fold,
        "rows": int(held_out.sum()),
        "trained": report["encoder_training"],
        "seconds": round(seconds, 1),
        "accuracy": {source: metrics["accuracy"] for source, metrics in result.items()},
        "ece": {source: metrics["ece"] for source, metrics in result.items()},
    }


def origin(source: str) -> str:
    """Where a data set comes from; some metadata files hold the text of a dict."""
    if not source.startswith("{"):
        return source
    place = ast.literal_eval(source)
    return f"From the repository {place['repo']} at {place['commit'][:10]}"


def write(results: list[dict[str, Any]], path: Path, data: Path) -> None:
    """The report: one table a data set, mean over folds and seeds, standard error over the held-out rows."""
    lines = [
        "# Accuracy",
        "",
        "Written by `python benchmarks/accuracy.py`. Cross-validated on rows with recorded LLM answers: each row is",
        "predicted once a seed by a model that has not seen it. Accuracy is exact match for multi-label data. `±` is",
        "one standard error of the fusion's accuracy over the held-out rows; the difference is fusion minus the best",
        "single source, chosen with hindsight. `rows`: those without LLM scores where the data set has any, to which",
        "four fifths of the scored rows come; else the number of scored rows. ECE is the mean over the folds, whose",
        "few rows raise it. `paper`: arXiv:2512.10793, RoBERTa-base, on the test split, so not on the same rows.",
    ]
    table = pd.json_normalize(results)
    table["useless"] = table["control"] != ""
    table = table.sort_values("useless", kind="stable")
    for (name, encoder, training, control), group in table.groupby(
        ["part", "encoder", "training", "control"], sort=False
    ):
        meta = json.loads((data / str(name) / "metadata.json").read_text(encoding="utf-8"))
        llms = [c for c in group.columns.astype(str) if c.startswith("accuracy.llm") and group[c].notna().all()]
        paper = PAPER.get(str(name), {})
        heads = ["rows", "encoder", *meta["providers"], "fusion", "difference", "ECE", "fit s"]
        heads += ["paper"] if paper else []
        lines += [
            "",
            f"## {name}" + (f", with {control}" if control else ""),
            "",
            f"Encoder `{encoder}`, training `{training}`. {origin(meta['source'])}.",
            "",
        ]
        lines += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        for size, rows in group.groupby("size"):
            assert isinstance(size, int)
            weights = rows["rows"]
            mean = {c: np.average(rows[c], weights=weights) for c in ("accuracy.encoder", *llms, "accuracy.fusion")}
            fused = mean["accuracy.fusion"]
            count = weights.sum() / rows["seed"].nunique()
            error = (fused * (1 - fused) / count) ** 0.5
            best = max(mean["accuracy.encoder"], *(mean[c] for c in llms))
            ece = np.average(rows["ece.fusion"], weights=weights)
            cells = [str(size), f"{mean['accuracy.encoder']:.1%}", *(f"{mean[c]:.1%}" for c in llms)]
            cells += [f"**{fused:.1%}** ± {error:.1%}", f"{fused - best:+.1%}", f"{ece:.3f}"]
            cells.append(f"{rows['seconds'].median():.0f}")
            cells += [f"{paper[size]:.1%}" if size in paper else ""] if paper else []
            lines.append("| " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--encoder-training", default="probe", choices=["probe", "auto", "contrastive", "full"])
    parser.add_argument("--max-train-minutes", type=float, default=15.0)
    parser.add_argument("--control", default="", choices=["", "shuffled LLM scores", "noise for embeddings"])
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16: twice as fast on some CPUs")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--output", type=Path, default=Path("docs/accuracy.md"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    transformers_logging.disable_progress_bar()
    args.cache.mkdir(parents=True, exist_ok=True)
    log = args.cache / "accuracy.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = [{"control": "", **r} for r in done]
    keys = ("part", "encoder", "training", "control", "size", "seed", "fold")
    seen = {tuple(r[k] for k in keys) for r in done}
    embed = Embedder(args.encoder, args.cache, args.device, args.bf16)
    for name in args.part:
        part = PARTS[name]
        for size in args.sizes or part.sizes:
            for seed in range(args.seeds):
                for fold in range(FOLDS):
                    run = (name, Path(args.encoder).name, args.encoder_training, args.control, size, seed, fold)
                    if run in seen:
                        continue
                    result = one(part, name, size, seed, fold, embed, args)
                    done.append(result)
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(result) + "\n")
                    print(
                        name, size, f"fold {fold}", {k: round(v, 3) for k, v in result["accuracy"].items()}, flush=True
                    )
            write(done, args.output, args.data)
    write(done, args.output, args.data)


if __name__ == "__main__":
    main()
