"""Selective querying: gates compared, guarantees checked, drift, and which training rows to have scored.

    python benchmarks/tradeoff.py --data ../shared/data [--part ag_news] [--encoder FOLDER] [--seeds 1]

Data, folds and encoder outputs are those of `benchmarks/accuracy.py`, the LLM answers are recorded ones. What each fit
said about its held-out rows is kept in `--cache`, so that a run that was stopped goes on where it was. The report is
written to `docs/tradeoff.md`, with a picture beside it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import FOLDS
from accuracy_data import PARTS, Embedder, load
from labelfusion.configuration import Task
from labelfusion.evaluation.metrics import is_right
from labelfusion.evaluation.statistics import bootstrap_means, percentile_interval
from labelfusion.evaluation.tradeoff_curve import gain_curve
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.routing.gate import gate_values
from labelfusion.routing.out_of_distribution import novelty_of
from labelfusion.routing.risk import risk_control
from labelfusion.scoring.probabilities import to_probabilities
from labelfusion.training.calibration.gate_fit import simple_gates
from labelfusion.training.encoder.probe import fit_probe
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.folds import assign_folds
from labelfusion.training.recipe import fit_model
from labelfusion.training.scored_rows import scoring_order
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from transformers.utils import logging as transformers_logging

SIZES = {"ag_news": 800, "reuters10": 1168, "climate_stance": 1000, "movie_reviews": 1000, "semeval_stance": 348}
BUDGET = 60  # rows scored in the comparison of ways to choose them
GATES = ("learnt", "without novelty", "maximum probability", "entropy", "margin", "conformal set size")
RISKS = (0.05, 0.1)
FOREIGN = {  # where a gate is sent that was trained on something else
    "ag_news": "climate_stance",
    "reuters10": "movie_reviews",
    "climate_stance": "ag_news",
    "movie_reviews": "ag_news",
    "semeval_stance": "ag_news",
}


class Fold:
    """The training rows and the held-out rows of one fold, as in `benchmarks/accuracy.py`."""

    def __init__(self, name: str, seed: int, fold: int, embed: Embedder, folder: Path) -> None:
        part, size = PARTS[name], SIZES[name]
        self.part, self.embed = part, embed
        data = load(folder, name, embed.cache)
        scored, more = data.scored, data.unscored
        assert scored.labels is not None
        assert scored.llm_scores is not None
        embeddings = embed(scored.texts, part.max_length, f"{name}/{part.scored}")
        held_out = assign_folds(scored.labels, FOLDS, scored.texts, seed=100 + seed) == fold
        rng = np.random.default_rng(seed)
        rows = np.flatnonzero(~held_out)
        if more is None:
            rows = np.sort(rng.permutation(rows)[:size])
        self.classes = [str(c) for c in scored.classes]
        self.texts = [scored.texts[i] for i in rows]
        self.labels, self.scores, self.embeddings = scored.labels[rows], scored.llm_scores[rows], embeddings[rows]
        if more is not None:
            assert more.labels is not None
            extra = np.sort(rng.permutation(len(more))[:size])
            features = embed(more.texts, part.max_length, f"{name}/{part.unscored}")[extra]
            self.embeddings = torch.cat([features, self.embeddings])
            self.texts = [more.texts[i] for i in extra] + self.texts
            self.labels = np.concatenate([more.labels[extra], self.labels])
            blank = np.full((len(extra), *self.scores.shape[1:]), np.nan, dtype=np.float32)
            self.scores = np.concatenate([blank, self.scores])
        self.multi_label = self.labels.ndim == 2
        self.test_texts = [t for t, yes in zip(scored.texts, held_out, strict=True) if yes]
        self.test_embeddings = embeddings[held_out]
        self.test_labels, self.test_scores = scored.labels[held_out], scored.llm_scores[held_out]

    def fit(self, scores: NDArray[np.float32], seed: int, plain: bool = False) -> LabelFusionForSequenceClassification:
        """The recipe of `fit` on a frozen encoder; `plain`: a pool of the linear probe and the LLMs, in less time."""
        model = self.embed.model(self.classes, scores.shape[1], self.multi_label, fusion="pool" if plain else "mlp")
        options = FitOptions(encoder_training="probe", extra_sources=not plain, seed=seed)
        options.finetune.max_length = self.part.max_length
        fit_model(model, self.embed.tokenizer, self.texts, self.labels, scores, options, embeddings=self.embeddings)
        return model

    def outputs(
        self, model: LabelFusionForSequenceClassification, texts: list[str], embeddings: torch.Tensor, scores: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
        """Probabilities of the fusion and of the encoder alone, and the texts' novelty."""
        encoder = TextEncoder(model, self.embed.tokenizer, max_length=self.part.max_length)
        embeddings = encoder.complete(texts, embeddings)
        with torch.no_grad():
            fused, alone = model.fuse(embeddings, None if scores is None else torch.from_numpy(scores))
        probs = [to_probabilities(x.float().numpy(), self.multi_label) for x in (fused, alone)]
        return probs[0], probs[1], novelty_of(embeddings, model.config)


def gates(name: str, seed: int, fold: int, embed: Embedder, args: argparse.Namespace) -> dict[str, Any]:
    """What every gate says about the held-out rows, and what each of them is worth."""
    rows = Fold(name, seed, fold, embed, args.data)
    model = rows.fit(rows.scores, seed)
    config = model.config
    fused, alone, novelty = rows.outputs(model, rows.test_texts, rows.test_embeddings, rows.test_scores)
    settings = (rows.test_labels, config.decision_rule)
    values, threshold = gate_values(alone, config.calibration, rows.multi_label, novelty=novelty)
    assert threshold is not None
    stored = config.calibration["risk"]
    sizes = risk_control(0.1, stored, rows.multi_label, np.inf).label_sets(alone, config.decision_rule).sum(axis=1)
    simple = simple_gates(alone, rows.multi_label)
    blind = gate_values(alone, config.calibration, rows.multi_label)[0]
    ties = 1e-3 * simple["maximum probability"]
    by_gate = {"learnt": values, "without novelty": blind, **simple, "conformal set size": sizes + ties}
    before, after = is_right(alone, *settings), is_right(fused, *settings)
    asked = values > threshold
    risks = {}
    for risk in RISKS:
        for policy, above, probs in (("never", np.inf, alone), ("always", -np.inf, fused)):
            control = risk_control(risk, stored, rows.multi_label, above)
            given = control.answered(probs, novelty)
            sets = control.label_sets(probs, config.decision_rule, novelty)
            truth = rows.test_labels > 0 if rows.multi_label else np.eye(probs.shape[1])[rows.test_labels] > 0
            missed = (truth & ~sets).sum(axis=1) / truth.sum(axis=1).clip(1)
            wrong = given & ~(before if policy == "never" else after)
            risks[f"{policy} {risk:g}"] = [float(given.mean()), float(wrong.mean()), float(missed.mean())]
    other = FOREIGN[name]
    foreign = load(args.data, other, embed.cache).scored.texts
    there = embed(foreign, PARTS[other].max_length, f"{other}/{PARTS[other].scored}")[:500]
    _, elsewhere, far = rows.outputs(model, foreign[:500], there, None)
    drift = gate_values(elsewhere, config.calibration, rows.multi_label, novelty=far)[0] > threshold
    unaware = gate_values(elsewhere, config.calibration, rows.multi_label)[0] > threshold
    control = risk_control(RISKS[0], stored, rows.multi_label, np.inf)
    answered = [float(control.answered(elsewhere, score).mean()) for score in (far, None)]
    cascade = _cascade(rows, model) if rows.scores.shape[1] > 1 else None
    return {
        "before": before.astype(int).tolist(),
        "after": after.astype(int).tolist(),
        "gates": {gate: [round(float(v), 7) for v in by_gate[gate]] for gate in GATES},
        "auto": asked.astype(int).tolist(),
        "answered elsewhere": answered,
        "drift": float(drift.mean()),
        "drift without": float(unaware.mean()),
        "novel": [float((novelty > 0).mean()), float((far > 0).mean())],
        "risks": risks,
        "cascade": cascade,
    }


def _cascade(rows: Fold, model: LabelFusionForSequenceClassification) -> dict[str, float]:
    """Answers and accuracy where the LLMs are asked one after the other, each through its gate."""
    config, heard = model.config, np.full_like(rows.test_scores, np.nan)
    for p in range(heard.shape[1]):
        now, _, novelty = rows.outputs(model, rows.test_texts, rows.test_embeddings, heard)
        values, threshold = gate_values(now, config.calibration, rows.multi_label, p, novelty)
        wanted = values > (0.0 if threshold is None else threshold)
        heard[wanted, p] = rows.test_scores[wanted, p]
    probs, _, _ = rows.outputs(model, rows.test_texts, rows.test_embeddings, heard)
    right = is_right(probs, rows.test_labels, config.decision_rule)
    return {"accuracy": float(right.mean()), "answers": float((~np.isnan(heard).any(axis=2)).sum(axis=1).mean())}


def budgets(name: str, seed: int, fold: int, embed: Embedder, args: argparse.Namespace) -> dict[str, Any]:
    """The fusion from `BUDGET` scored rows, chosen at random or as `fit` does."""
    rows = Fold(name, seed, fold, embed, args.data)
    scored = np.flatnonzero(~np.isnan(rows.scores).any(axis=2).all(axis=1))  # type: ignore
    folds = assign_folds(rows.labels, FOLDS, rows.texts, seed)
    task = Task([str(k) for k in range(rows.scores.shape[2])], rows.multi_label)
    probe = fit_probe(rows.embeddings, torch.from_numpy(rows.labels), folds, task)
    probs = to_probabilities(probe.out_of_fold_logits.numpy(), rows.multi_label)
    found: dict[str, Any] = {}
    for way in ("random", "chosen"):
        order = scoring_order(probs[scored] if way == "chosen" else None, len(scored), rows.multi_label, seed)
        kept = np.full_like(rows.scores, np.nan)
        chosen = scored[order[:BUDGET]]
        kept[chosen] = rows.scores[chosen]
        model = rows.fit(kept, seed, plain=True)
        config = model.config
        fused, alone, novelty = rows.outputs(model, rows.test_texts, rows.test_embeddings, rows.test_scores)
        settings = (rows.test_labels, config.decision_rule)
        before, after = is_right(alone, *settings), is_right(fused, *settings)
        values, _ = gate_values(alone, config.calibration, rows.multi_label, novelty=novelty)
        curve = before.mean() + gain_curve(values, after.astype(float) - before)
        found[way] = {"rows": len(after), "always": float(after.mean()), "share 0.3": float(curve[30])}
    return found


def curves(results: list[dict[str, Any]], num_resamples: int = 1000) -> dict[str, Any]:
    """Each gate's curve over all folds, the gain that 30 % keep, and areas with bootstrap intervals over the rows.

    Rows are ranked within their fold, as one batch; a resample draws rows of all folds.
    """
    gain = np.concatenate([np.array(r["after"]) - np.array(r["before"]) for r in results]).astype(float)
    before = float(np.mean(np.concatenate([r["before"] for r in results])))
    sizes = [len(r["after"]) for r in results]
    ranks = {gate: np.concatenate([_rank(np.array(r["gates"][gate])) for r in results]) for gate in results[0]["gates"]}
    # The area is a mean over rows: a row's gain counts for the shares at which it is asked.
    parts = {gate: gain * (0.5 - rank) for gate, rank in ranks.items()}
    columns = [gain, *parts.values(), *(parts["learnt"] - parts[gate] for gate in GATES[1:])]
    at30 = gain * (ranks["learnt"] < 0.3)
    sampled = bootstrap_means(np.stack([*columns, at30], axis=1), num_resamples)
    shares = np.linspace(0, 1, 101)
    found: dict[str, Any] = {"rows": sum(sizes), "before": before, "after": before + float(gain.mean())}
    kept = sampled[:, -1] / np.where(sampled[:, 0] > 1e-9, sampled[:, 0], np.nan)
    found["kept30"] = percentile_interval(kept)
    wrong = 1.0 - np.concatenate([r["before"] for r in results])
    found["errors30"] = float((wrong * (ranks["maximum probability"] < 0.3)).sum() / wrong.sum())
    for i, gate in enumerate(parts, start=1):
        curve = np.array([float((gain * (ranks[gate] < s)).mean()) for s in shares])
        found[gate] = {
            "area": float(parts[gate].mean()),
            "interval": percentile_interval(sampled[:, i]),
            "kept": {s: float(curve[s] / gain.mean()) for s in (10, 20, 30, 50)},
            "curve": [before + float(c) for c in curve],
        }
    for i, gate in enumerate(GATES[1:], start=1 + len(parts)):
        found[gate]["behind"] = (float(columns[i].mean()), *percentile_interval(sampled[:, i]))
    auto = np.concatenate([r["auto"] for r in results]) > 0
    found["auto"] = (float(auto.mean()), before + float((gain * auto).mean()))
    found["least"] = _least_share(gain, ranks["learnt"], auto)
    found["ratio by chance"] = _ratio_by_chance(gain, ranks["learnt"], auto)
    for name in ("drift", "drift without", "novel", "answered elsewhere"):
        found[name] = np.mean([r[name] for r in results], axis=0).tolist()
    found["risks"] = {
        k: np.average([r["risks"][k] for r in results], axis=0, weights=sizes) for k in results[0]["risks"]
    }
    if results[0]["cascade"] is not None:
        found["cascade"] = {k: float(np.mean([r["cascade"][k] for r in results])) for k in results[0]["cascade"]}
    return found


def _least_share(gain: NDArray[np.float64], rank: NDArray[np.float64], auto: NDArray[np.bool_]) -> float:
    """The smallest share, in the gate's order, with the accuracy of those that `auto` queries; NaN: none."""
    order = np.argsort(rank, kind="stable")
    reached = np.concatenate([[0.0], np.cumsum(gain[order])]) >= (gain * auto).sum() - 1e-9
    return float(np.argmax(reached)) / len(gain) if reached.any() else float("nan")


def _ratio_by_chance(
    gain: NDArray[np.float64], rank: NDArray[np.float64], auto: NDArray[np.bool_], draws: int = 2000
) -> list[float]:
    """The ratio to the least share where the gate's order is ideal: median, and the middle 95 % of `draws`.

    A query is worth less the later the gate makes it: the rates of queries that help and that harm fall with the rank
    (isotonic regressions on these rows). Each draw decides by them, anew for each row, what a query brings. What
    remains of the ratio is luck, which the least share chooses with hindsight.
    """
    rates = [
        IsotonicRegression(increasing=False, y_min=0.0, y_max=1.0).fit(rank, gain * sign > 0).predict(rank)
        for sign in (1, -1)
    ]
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(draws):
        drawn = rng.random(len(gain))
        outcome = (drawn < rates[0]).astype(float) - (drawn > 1.0 - rates[1])
        least = _least_share(outcome, rank, auto)
        ratios.append(0.0 if np.isnan(least) else auto.mean() / least if least else np.inf)  # 0: no share is as good
    return [float(x) for x in np.quantile(ratios, [0.5, 0.025, 0.975], method="nearest")]


def _rank(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The share of the rows that are asked before each."""
    rank = np.empty(len(values))
    rank[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return (rank + 0.5) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16: twice as fast on some CPUs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--skip-budgets", action="store_true", help="leave out the choice of training rows")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--output", type=Path, default=Path("docs/tradeoff.md"))
    args = parser.parse_args()
    transformers_logging.disable_progress_bar()
    args.cache.mkdir(parents=True, exist_ok=True)
    log = args.cache / "tradeoff.jsonl"
    done = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        entry = json.loads(line)
        done[tuple(entry["key"])] = entry["result"]
    embed = Embedder(args.encoder, args.cache, "cpu", args.bf16)
    for kind, measure in (("gates", gates), *([] if args.skip_budgets else [("budgets", budgets)])):
        for name in args.part:
            for seed in range(args.seeds):
                for fold in range(FOLDS):
                    key = (kind, Path(args.encoder).name, name, seed, fold)
                    if key in done:
                        continue
                    done[key] = measure(name, seed, fold, embed, args)
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"key": key, "result": done[key]}) + "\n")
                    print(*key, flush=True)
    from tradeoff_report import write

    write(done, args.output)


if __name__ == "__main__":
    main()
