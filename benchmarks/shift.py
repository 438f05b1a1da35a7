"""LLMs that are worse in use than on the rows that the fusion was fitted on: encoder, plain fusion, robust fusion.

    python benchmarks/shift.py --data ../shared/data [--part ag_news] [--encoder FOLDER] [--seeds 2]

Data, folds and encoder outputs are those of `benchmarks/tradeoff.py`. In use, right answers of each LLM are replaced at
random by wrong ones that it gave to other texts, until it has lost some points of accuracy. What is measured is kept in
`--cache`; the report is written to `docs/shift.md`.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accuracy import FOLDS
from accuracy_data import Embedder
from labelfusion.evaluation.metrics import is_right
from labelfusion.evaluation.statistics import bootstrap_means, percentile_interval
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.scoring.probabilities import to_probabilities
from labelfusion.training.calibration.answer_calibration import calibrate_answers
from labelfusion.training.calibration.thresholds import set_thresholds
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.fit_state import FitState
from labelfusion.training.fusion import worse_answers
from labelfusion.training.fusion.fusion_fit import fuse
from labelfusion.training.fusion.worse_answers import wrong_answers
from labelfusion.training.recipe import RECIPE, fit
from numpy.typing import NDArray
from tradeoff import SIZES, Fold
from transformers.utils import logging as transformers_logging

SHIFTS = (0.0, 0.02, 0.05, 0.1)  # accuracy that each LLM loses
DRAWS = 5  # of the answers that are replaced
WAYS = ("plain", "robust")


def degraded(scores: NDArray[np.float32], labels: NDArray[Any], shift: float, seed: int) -> NDArray[np.float32]:
    """Scores `(n, P, K)` of LLMs that give wrong answers to `shift` of the texts which they had right."""
    rng, found = np.random.default_rng(seed), scores.copy()
    wrong = wrong_answers(scores, labels, seed)
    for p in range(scores.shape[1]):
        there = ~np.isnan(scores[:, p]).any(axis=1)
        right = np.flatnonzero(there & is_right(np.nan_to_num(scores[:, p]), labels))
        rows = rng.permutation(right)[: round(shift * len(labels))]
        found[rows, p] = wrong[rows, p]
    return found


def unfused(name: str, seed: int, fold: int, embed: Embedder, folder: Path) -> tuple[FitState, torch.Tensor, Fold]:
    """The fit up to the fusion, the embeddings of the held-out rows, and these rows."""
    rows = Fold(name, seed, fold, embed, folder)
    model = embed.model(rows.classes, rows.scores.shape[1], rows.multi_label, fusion="mlp")
    options = FitOptions(encoder_training="probe", seed=seed)
    options.finetune.max_length = rows.part.max_length
    data = (rows.texts, rows.labels, rows.scores, options)
    state = fit(FitState.start(model, embed.tokenizer, *data, rows.embeddings), RECIPE[: RECIPE.index(fuse)])
    encoder = TextEncoder(model, embed.tokenizer, max_length=rows.part.max_length)
    return state, encoder.complete(rows.test_texts, rows.test_embeddings), rows


def one(
    state: FitState, test: torch.Tensor, scores: NDArray[np.float32], labels: NDArray[Any]
) -> dict[str, dict[str, list[float]]]:
    """For each held-out row, whether the encoder is right, and each fusion on average over the draws."""
    found: dict[str, dict[str, list[float]]] = {}
    for way in WAYS:
        fitted = copy.deepcopy(state)
        drift, errors = (0.0, 0.0) if way == "plain" else (worse_answers.DRIFT, worse_answers.ERRORS)
        with patch.multiple(worse_answers, DRIFT=drift, ERRORS=errors):
            for step in (fuse, calibrate_answers, set_thresholds):
                fitted = step(fitted)
        model, rule = fitted.model.eval(), fitted.config.decision_rule
        for shift in SHIFTS:
            right = []
            for draw in range(DRAWS if shift else 1):
                used = torch.from_numpy(degraded(scores, labels, shift, draw))
                with torch.no_grad():
                    outputs = model.fuse(test, used)
                answers = [
                    is_right(to_probabilities(x.float().numpy(), labels.ndim == 2), labels, rule) for x in outputs
                ]
                right.append(answers[0])
            found.setdefault(f"{shift:g}", {})[way] = np.mean(right, axis=0).round(3).tolist()
            found[f"{shift:g}"][f"{way} encoder"] = answers[1].astype(float).tolist()
    return found


def write(done: dict[tuple[Any, ...], Any], path: Path) -> None:
    """The report: one table for each encoder."""
    lines = [
        "# LLMs that are worse in use",
        "",
        "Written by `python benchmarks/shift.py`. Rows with recorded LLM answers, five-fold cross-validated, on a",
        "frozen encoder. The models are fitted on the recorded answers. On the held-out rows, right answers of each",
        "LLM are replaced at random by wrong ones that it gave to other texts, until it has lost 2, 5 or 10 points of",
        f"accuracy (mean over {DRAWS} draws). Accuracy is exact match for Reuters.",
        "",
        "* *Robust*: the fusion as `fit` makes it. It minimises the loss that is expected if some of the LLM answers",
        f"  are wrong ones in use: {worse_answers.DRIFT:.0%} of them, and {worse_answers.ERRORS:g} standard errors of",
        "  the LLM's accuracy on the scored rows more ([`worse_answers.py`](../training/fusion/worse_answers.py)).",
        "* *Plain*: the same fit without it, which takes the scored rows as they are.",
        "* Differences are in points of accuracy, paired by row, with 95 % bootstrap intervals over the rows.",
        "  For several labels a text, each fusion is compared with the encoder under the thresholds of the same fit.",
        "* The share was chosen on other splits of ag_news, climate_stance and semeval_stance. The number of standard",
        "  errors lies between two values that were tried there.",
        "",
    ]
    for encoder in dict.fromkeys(key[0] for key in done):
        below, given_up = [], []
        table = []
        for name in SIZES:
            results = [r for key, r in done.items() if key[:2] == (encoder, name)]
            if len(results) < FOLDS:
                continue
            for shift in SHIFTS:
                columns = {
                    kind: np.concatenate([r[f"{shift:g}"][kind] for r in results])
                    for kind in ("plain", "robust", "plain encoder", "robust encoder")
                }
                gains = np.stack(
                    [
                        columns["plain"] - columns["plain encoder"],
                        columns["robust"] - columns["robust encoder"],
                        columns["robust"] - columns["plain"],
                    ],
                    axis=1,
                )
                sampled = bootstrap_means(gains, 2000)
                cells = []
                for i in range(3):
                    low, high = percentile_interval(sampled[:, i])
                    cells.append(f"{100 * gains[:, i].mean():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]")
                    if i == 1 and high < 0:
                        below.append(f"{name} at -{100 * shift:g}")
                if shift == 0:
                    given_up.append((name, -100 * float(gains[:, 2].mean())))
                rows = sum(len(r["0"]["robust"]) for r in results)
                seeds = len(results) // FOLDS
                where = f"{name} ({rows // seeds} rows, {seeds} seed{'s' if seeds > 1 else ''})" if shift == 0 else ""
                table.append(
                    [where, f"-{100 * shift:g}" if shift else "0", f"{columns['robust encoder'].mean():.1%}", *cells]
                )
        if not table:
            continue
        most = max(given_up, key=lambda x: x[1])
        head = ["data set", "LLM, points", "encoder", "plain - encoder", "robust - encoder", "robust - plain"]
        lines += [
            f"## Encoder {encoder}",
            "",
            f"* Robust fusion significantly below its encoder: {', '.join(below) or 'nowhere'}.",
            f"* Gain given up where the LLMs are as good as in the fit: at most {max(most[1], 0):.2f} points "
            f"({most[0]}); on average {np.mean([lost for _, lost in given_up]):+.2f}.",
            f"* Not measured yet: {', '.join(n for n in SIZES if n not in dict(given_up)) or 'none'}.",
            "",
            "| " + " | ".join(head) + " |",
            "|" + " --- |" * len(head),
            *("| " + " | ".join(row) + " |" for row in table),
            "",
        ]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16: twice as fast on some CPUs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--output", type=Path, default=Path("docs/shift.md"))
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    args.cache.mkdir(parents=True, exist_ok=True)
    log, done = args.cache / "shift.jsonl", {}
    for line in log.read_text().splitlines() if log.exists() else []:
        entry = json.loads(line)
        done[tuple(entry["key"])] = entry["result"]
    embed = Embedder(args.encoder, args.cache, "cpu", args.bf16)
    for seed in range(args.seeds):
        for name in args.part:
            for fold in range(FOLDS):
                key = (Path(args.encoder).name, name, seed, fold)
                if key in done:
                    continue
                state, test, rows = unfused(name, seed, fold, embed, args.data)
                done[key] = one(state, test, rows.test_scores, rows.test_labels)
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "result": done[key]}) + "\n")
                print(*key, flush=True)
    write(done, args.output)


if __name__ == "__main__":
    main()
