"""Accuracy of encoder, LLM and fusion at every amount of training data, on data sets with recorded LLM answers.

    python benchmarks/accuracy.py --data ../shared/data [--part ag_news reuters10] [--encoder roberta-base]

Every result is kept in `--cache` as soon as it is there; a run that was stopped goes on where it was. Encoder outputs
are computed once. The report is written to `docs/accuracy.md`; what stands below its mark for notes is kept.
"""

import argparse
import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accuracy_data import PARTS, Data, Embedder, load
from labelfusion.configuration import DecisionRule
from labelfusion.evaluation.metrics import classification_metrics
from labelfusion.modeling_labelfusion.encoding import TextEncoder, encode_texts
from labelfusion.routing.decisions import decided_classes
from labelfusion.scoring.probabilities import to_probabilities
from labelfusion.training.data import LabelledTexts
from labelfusion.training.encoder import finetune_fit
from labelfusion.training.encoder.finetune import finetune
from labelfusion.training.fit_options import ENCODER_TRAINING, MAX_TRAIN_TOKENS, FinetuneOptions, FitOptions
from labelfusion.training.folds import assign_folds
from labelfusion.training.recipe import fit_model
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

FOLDS = 5
BINS = 15  # of the reliability
NOTES = "<!-- notes, kept when the tables are written anew -->\n"
# Fusion of RoBERTa-base and LLMs in arXiv:2512.10793, by number of training rows, on the data set's test split.
PAPER = {"ag_news": {4000: 0.924}, "reuters10": {292: 0.706, 1168: 0.720, 5842: 0.923}}


class SharedTraining:
    """`finetune`, once for all folds where it learns from the rows without scores: they are the same in each.

    The weights after each epoch are kept in `folder`, also for a run that is resumed; `seconds` is what was saved so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds = folder, 0.0

    def __call__(self, encoder: TextEncoder, texts: list[str], *args: Any, on_epoch: Any = None, **kwargs: Any) -> None:
        if on_epoch is None:
            return finetune(encoder, texts, *args, **kwargs)
        model = encoder.model
        told = (
            model.config.encoder_config.to_dict(),
            float(next(model.encoder.parameters()).detach().sum()),
            texts,
            args,
            kwargs,
        )
        folder = self.folder / f"finetuned-{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"
        if folder.exists():
            self.seconds += float((folder / "seconds").read_text())
        else:
            began = time.perf_counter()
            begun, start = folder.with_suffix(".part"), {k: x.clone() for k, x in model.state_dict().items()}
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir(parents=True)

            def save() -> None:
                trained = {k: x for k, x in model.state_dict().items() if not torch.equal(x, start[k])}
                save_file(trained, begun / f"{len(list(begun.iterdir()))}.safetensors")

            finetune(encoder, texts, *args, on_epoch=save, **kwargs)
            (begun / "seconds").write_text(f"{time.perf_counter() - began:.1f}\n")
            begun.rename(folder)
        for epoch in range(len(list(folder.glob("*.safetensors")))):
            model.load_state_dict(load_file(folder / f"{epoch}.safetensors"), strict=False)
            on_epoch()


def one(
    name: str,
    data: Data,
    size: int,
    seed: int,
    fold: int,
    embed: Embedder,
    shared: SharedTraining,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Fit on one training part and measure all sources on the held-out fold, and on as much of another domain."""
    part, scored, more = PARTS[name], data.scored, data.unscored
    assert scored.labels is not None
    assert scored.llm_scores is not None
    embeddings = embed(scored.texts, part.max_length, f"{name}/{part.scored}")
    all_scores = scored.llm_scores
    if args.control == "shuffled LLM scores":
        all_scores = all_scores[np.random.default_rng(seed).permutation(len(scored))]
    held_out = assign_folds(scored.labels, FOLDS, scored.texts, seed=100 + seed) == fold
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(~held_out)
    if more is None:
        rows = np.sort(rng.permutation(rows)[:size])
    texts = [scored.texts[i] for i in rows]
    labels, scores, features = scored.labels[rows], all_scores[rows], embeddings[rows]
    if more is not None:
        assert more.labels is not None
        extra = np.sort(rng.permutation(len(more))[:size])
        features = torch.cat([embed(more.texts, part.max_length, f"{name}/{part.unscored}")[extra], features])
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
        max_train_tokens=args.max_train_tokens,
        extra_sources=not noise,  # words are no noise
        finetune=FinetuneOptions(max_length=part.max_length, seed=seed),
        bf16=args.bf16,
        seed=seed,
    )
    started, shared.seconds = time.perf_counter(), 0.0
    report = fit_model(model, embed.tokenizer, texts, labels, scores, options, embeddings=features)
    seconds = time.perf_counter() - started + shared.seconds

    def measure(
        rows: LabelledTexts, scores: NDArray[np.float32], known: torch.Tensor, use: NDArray[np.bool_], called: str
    ) -> dict[str, Any]:
        assert rows.labels is not None
        truth, given = rows.labels[use], scores[use]
        chosen = [text for text, yes in zip(rows.texts, use, strict=True) if yes]
        if report["encoder_training"] != "probe":
            test = encode_texts(model, embed.tokenizer, chosen, max_length=part.max_length, bf16=args.bf16)
        else:
            test = TextEncoder(model, embed.tokenizer, max_length=part.max_length).complete(chosen, known[use])
        with torch.no_grad():
            fused, alone = model.fuse(test.to(args.device), torch.from_numpy(given).to(args.device))
        settings = (multi_label, model.config.thresholds, model.config.min_labels)
        found = {
            source: (to_probabilities(x.float().cpu().numpy(), multi_label), settings)
            for source, x in (("fusion", fused), ("encoder", alone))
        }
        found |= {f"llm {p}": (np.nan_to_num(given[:, p]), (multi_label, None, 0)) for p in range(given.shape[1])}
        if args.predictions is not None:
            decided = {s: decided_classes(p, multi_label, DecisionRule(*how[1:])) for s, (p, how) in found.items()}
            decided["label"] = truth > 0 if multi_label else np.eye(len(scored.classes), dtype=bool)[truth]
            write_predictions(args.predictions, [str(c) for c in scored.classes], chosen, decided)
        return {
            "part": called,
            "encoder": Path(args.encoder).name,
            "training": args.encoder_training,
            "bf16": args.bf16,
            "control": args.control,
            "size": size,
            "seed": seed,
            "fold": fold,
            "rows": int(use.sum()),
            "trained": report["encoder_training"],
            "seconds": round(seconds, 1),
            "accuracy": {s: classification_metrics(p, truth, *how)["accuracy"] for s, (p, how) in found.items()},
            "reliability": {s: reliability(p, truth) for s, (p, _) in found.items()},
        }

    results = [measure(scored, all_scores, embeddings, held_out, name)]
    if data.elsewhere is not None:
        other = data.elsewhere
        assert other.labels is not None
        assert other.llm_scores is not None
        use = assign_folds(other.labels, FOLDS, other.texts, seed=100 + seed) == fold
        there = embed(other.texts, part.max_length, part.elsewhere)
        results.append(measure(other, other.llm_scores, there, use, f"{name}, on {part.elsewhere}"))
    return results


def write_predictions(path: Path, classes: list[str], texts: list[str], decided: dict[str, NDArray[np.bool_]]) -> None:
    """Append a line of JSON for each text: its classes by `decided`, bool `(n, K)` of the data and of each source."""
    with path.open("a", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            named = {name: [classes[k] for k in np.flatnonzero(rows[i])] for name, rows in decided.items()}
            file.write(json.dumps({"text": text, **named}) + "\n")


def reliability(probabilities: NDArray[np.floating], labels: NDArray[Any]) -> list[list[float]]:
    """In each of `BINS` bins of confidence: how many answers, their confidences and right ones summed."""
    if labels.ndim == 2:
        confidence, right = probabilities.ravel(), labels.ravel() > 0
    else:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(place, weights, BINS) for weights in (None, confidence, right)]
    return np.stack(sums, axis=1).astype(float).round(4).tolist()


def calibration_error(tables: list[list[list[float]]]) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599) over the rows of all the tables together."""
    count, confidence, right = np.sum(tables, axis=0).T
    return float(np.abs(confidence - right).sum() / count.sum())


def _seeds(group: pd.DataFrame) -> str:
    """How many seeds the lines of a table have."""
    least, most = group.groupby("size")["seed"].nunique().agg(["min", "max"])
    return f"{least} to {most} seeds" if least < most else f"{most} seed{'s' if most > 1 else ''}"


def write(results: list[dict[str, Any]], path: Path, folder: Path, cache: Path) -> None:
    """The report: one table a data set, mean over folds and seeds, standard error over the held-out rows."""
    lines = [
        "# Accuracy",
        "",
        "Written by `python benchmarks/accuracy.py`. Cross-validated on rows with LLM answers: for each seed, each row",
        "is predicted once, by a model that was not trained on it. Accuracy is exact match for multi-label data.",
        "",
        "* `±`: one standard error of the fusion's accuracy over the held-out rows.",
        "* `difference`: fusion minus the best single source, which is chosen with hindsight.",
        "* `rows`: training rows without LLM scores, to which four fifths of the scored rows are added. If the data",
        "  set has no such rows: the number of scored rows.",
        "* `ECE`: expected calibration error of the fusion, 15 bins, over all held-out rows together (multi-label:",
        "  over the classes, too).",
        "* LLM: its answers were recorded with the data, or it is `SmolLM2-135M-Instruct`, run on this machine (see",
        "  [local-llm.md](local-llm.md)). `+local`: both.",
        "* `paper`: arXiv:2512.10793, RoBERTa-base, on the test split, so not on the same rows.",
        "* Training `probe`: the encoder is frozen. `full`: it is fine-tuned; on a CPU, only its upper layers. `lora`:",
        "  low-rank updates of all its layers. One training serves all folds if it uses only rows without LLM scores.",
        "* `fit s`: seconds, the median over the fits, or the longest if they fine-tune. Measured on two shared",
        "  cores, partly under other load.",
        "",
        "Results:",
    ]
    summary: list[tuple[str, int, float, float]] = []
    tables: list[str] = []
    table = pd.json_normalize(results)
    table["useless"] = table["control"] != ""
    table["place"] = table["part"].map(lambda part: list(PARTS).index(part.split(",")[0]))
    table["tuned"] = table["training"] != "probe"
    table = table.sort_values(["useless", "place", "part", "tuned"], kind="stable")
    sections = ["part", "encoder", "training", "control"]
    finished = table.groupby([*sections, "size", "seed"])["fold"].transform("nunique") == FOLDS
    for (called, encoder, training, control), group in table[finished].groupby(sections, sort=False):
        name = str(called).split(",")[0]
        shown = str(called) if training == "probe" else f"{called}, training {training}"
        data = load(folder, name, cache)
        llms = [c for c in group.columns.astype(str) if c.startswith("accuracy.llm") and group[c].notna().all()]
        paper = PAPER.get(name, {})
        heads = ["rows", "encoder", *data.providers, "fusion", "difference", "ECE", "fit s"]
        heads += ["paper"] if paper else []
        half = ", encoded in bfloat16" if group["bf16"].all() else ""
        tables += [
            "",
            f"## {shown}" + (f", with {control}" if control else ""),
            "",
            f"Encoder `{encoder}`, training `{training}`, {_seeds(group)}{half}. {data.source}.",
            "",
        ]
        tables += ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        for size, rows in group.groupby("size"):
            assert isinstance(size, int)
            weights = rows["rows"]
            mean = {c: np.average(rows[c], weights=weights) for c in ("accuracy.encoder", *llms, "accuracy.fusion")}
            fused = mean["accuracy.fusion"]
            error = (fused * (1 - fused) / (weights.sum() / rows["seed"].nunique())) ** 0.5
            best = max(mean["accuracy.encoder"], *(mean[c] for c in llms))
            cells = [str(size), f"{mean['accuracy.encoder']:.1%}", *(f"{mean[c]:.1%}" for c in llms)]
            cells += [f"**{fused:.1%}** ± {error:.1%}", f"{fused - best:+.1%}"]
            cells += [
                f"{calibration_error(rows['reliability.fusion'].tolist()):.3f}",
                f"{rows['seconds'].median() if training == 'probe' else rows['seconds'].max():.0f}",
            ]
            cells += [f"{paper[size]:.1%}" if size in paper else ""] if paper else []
            tables.append("| " + " | ".join(cells) + " |")
            if not control:
                summary.append((shown, size, fused - best, error))
    worst = min(summary, key=lambda x: x[2] / x[3])
    behind = [f"{name} with {size} rows ({gap:+.1%}, SE {error:.1%})" for name, size, gap, error in summary if gap < 0]
    lines += [
        "",
        f"* The fusion is ahead of the best single source by {np.mean([x[2] for x in summary]):.1%} on average over "
        f"{len(summary)} lines, and not behind it on {len(summary) - len(behind)}.",
        f"* Behind: {', '.join(behind) or 'nowhere'}.",
        f"* Worst: {worst[0]} with {worst[1]} rows, {worst[2] / worst[3]:+.1f} standard errors.",
    ]
    kept = path.read_text(encoding="utf-8").partition(NOTES)[2] if path.exists() else ""
    page = "\n".join([*lines, *tables]) + "\n"
    path.write_text(f"{page}\n{NOTES}{kept}" if kept else page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--encoder-training", default="probe", choices=ENCODER_TRAINING)
    parser.add_argument("--max-train-tokens", type=int, default=MAX_TRAIN_TOKENS)
    parser.add_argument("--control", default="", choices=["", "shuffled LLM scores", "noise for embeddings"])
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16: twice as fast on some CPUs")
    parser.add_argument(
        "--predictions", type=Path, help="add each held-out row, with the answer of every source, to it"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--output", type=Path, default=Path("docs/accuracy.md"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    transformers_logging.disable_progress_bar()
    args.cache.mkdir(parents=True, exist_ok=True)
    log = args.cache / "accuracy.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    keys = ("part", "encoder", "training", "control", "size", "seed", "fold")
    seen = {tuple(r[k] for k in keys) for r in done}
    embed = Embedder(args.encoder, args.cache, args.device, args.bf16)
    shared = SharedTraining(args.cache)
    finetune_fit.finetune = shared  # type: ignore[assignment]
    for name in args.part:
        data = load(args.data, name, args.cache)
        for size in args.sizes or PARTS[name].sizes:
            for seed in range(args.seeds):
                for fold in range(FOLDS):
                    run = (name, Path(args.encoder).name, args.encoder_training, args.control, size, seed, fold)
                    if run in seen:
                        continue
                    for result in one(name, data, size, seed, fold, embed, shared, args):
                        done.append(result)
                        with log.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(result) + "\n")
                        found = {source: round(value, 3) for source, value in result["accuracy"].items()}
                        print(result["part"], size, f"fold {fold}", found, flush=True)
            write(done, args.output, args.data, args.cache)
    write(done, args.output, args.data, args.cache)


if __name__ == "__main__":
    main()
