"""Starting without labels: what the encoder learns from an LLM's labels, with 0, 20 and 100 gold rows.

    python benchmarks/unlabelled.py --data ../shared/data [--part ag_news] [--encoder FOLDER] [--write]
    python benchmarks/unlabelled.py --part movie_reviews --gold 0 --encoder-training full --folds 2 [--texts 4000]
    python benchmarks/unlabelled.py --label-models

Data and encoder outputs are those of `benchmarks/accuracy.py`, the LLM answers are recorded ones. Each data set is
split into five folds; each of the first `--folds` is the test set once. Of the other rows, up to `--texts` are texts
without labels, but for the gold rows. Compared on the test rows: the LLMs' labels (several LLMs: by the label model,
and by the mean of their log-probabilities), a fit on the gold rows alone with their LLM answers (encoder frozen), and
the fit on gold rows and texts: encoder alone, which asks no LLM, and fusion. A second table is for fits without gold
rows: the fusion where an LLM's answer counts for other odds than the default, and how often the encoder, out of fold,
gives the LLMs' label. Every result is kept in `--cache`; a run that was stopped goes on where it was.
"""

import argparse
import json
import time
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accuracy import FOLDS
from accuracy_data import PARTS, Embedder, load
from labelfusion.configuration import DecisionRule
from labelfusion.evaluation.metrics import is_right
from labelfusion.modeling_labelfusion.encoding import TextEncoder
from labelfusion.scoring.probabilities import to_probabilities
from labelfusion.training.data import LabelledTexts
from labelfusion.training.fit_options import FitOptions
from labelfusion.training.fit_state import FitState
from labelfusion.training.folds import assign_folds
from labelfusion.training.label_model import combine_answers
from labelfusion.training.recipe import fit
from labelfusion.training.unlabelled import LOG_ODDS, add_pseudo_labels
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

PAGE = Path(__file__).resolve().parent.parent / "docs" / "unlabelled.md"
START, END = "<!-- made by benchmarks/unlabelled.py -->\n", "<!-- end -->\n"
SETS = ("semeval_stance", "climate_stance", "ag_news", "movie_reviews", "reuters10")
GOLD = (0, 20, 100)
TRAININGS = ("probe", "contrastive", "lora", "full")
TEXTS = 1000
ODDS = (2.0, 3.0, 4.0, 5.0, 6.0)  # log-odds that an LLM's answer counts for without gold rows
SHOWN = ("mean of the LLMs", "LLMs' labels", "fit on gold alone", "encoder alone", "fusion")


class Rows:
    """The texts and the test rows of a fold."""

    def __init__(self, name: str, fold: int, embed: Embedder, folder: Path, texts: int, training: str) -> None:
        self.part, self.embed, self.fold, self.training = PARTS[name], embed, fold, training
        self.data = load(folder, name, embed.cache).scored
        assert self.data.labels is not None
        assert self.data.llm_scores is not None
        self.labels, self.scores = self.data.labels, self.data.llm_scores
        self.embeddings = embed(self.data.texts, self.part.max_length, f"{name}/{self.part.scored}")
        answered = ~np.isnan(self.scores).any(axis=(1, 2))
        held_out = assign_folds(self.labels, FOLDS, self.data.texts, seed=100) == fold
        self.test = np.flatnonzero(held_out & answered)
        self.train = np.random.default_rng(fold).permutation(np.flatnonzero(~held_out & answered))[:texts]
        self.multi_label = self.labels.ndim == 2

    def right(self, probs: NDArray[np.floating], rule: DecisionRule | None = None) -> float:
        """Accuracy on the test rows, in percent; several labels: exact match."""
        rule = rule or DecisionRule([0.5] * probs.shape[1] if self.multi_label else None, 0)
        return 100 * float(is_right(probs, self.labels[self.test], rule).mean())

    def llms(self, method: str) -> float:
        """Accuracy of the LLMs' labels, which are found without any label of people."""
        rows = np.concatenate([self.train, self.test])
        logits, _ = combine_answers(self.scores[rows], self.multi_label, method)
        return self.right(to_probabilities(logits[len(self.train) :], self.multi_label))

    def fitted(self, gold: int, with_texts: bool, training: str) -> dict[str, Any]:
        """Accuracies of the encoder alone and of the fusion, and what the fit took."""
        some, rest, classes = self.train[:gold], self.train[gold:], self.data.classes
        texts = self.data.texts
        data = LabelledTexts([texts[i] for i in some], self.labels[some], self.scores[some], classes)
        labels, scores, by_row, mask = self.labels[some], self.scores[some], np.ones(gold), None
        rows = some
        if with_texts:
            # The place of each row beside its text, so that rows which the label model repeats find their embeddings.
            others = LabelledTexts([texts[i] for i in rest], None, self.scores[rest], classes)
            data, scores, by_row, mask, _ = add_pseudo_labels(data, scores, others, self.scores[rest])
            assert data.labels is not None
            place = {text: i for i, text in zip(self.train, [texts[i] for i in self.train], strict=True)}
            labels, rows = data.labels, np.array([place[text] for text in data.texts])
        model = self.embed.model([str(c) for c in classes], scores.shape[1], self.multi_label)
        options = FitOptions(encoder_training=training)
        options.finetune.max_length = self.part.max_length
        weights = None if np.ptp(by_row) == 0 else (by_row / by_row.mean()).astype(np.float32)
        settings = (options, self.embeddings[rows], weights, mask)
        began = time.process_time()
        state = fit(FitState.start(model, self.embed.tokenizer, data.texts, labels, scores, *settings))
        found: dict[str, Any] = {"cpu s": round(time.process_time() - began, 1)}
        encoder = TextEncoder(model, self.embed.tokenizer, max_length=self.part.max_length)
        chosen, answers = [texts[i] for i in self.test], torch.from_numpy(self.scores[self.test])
        whole = encoder.complete(chosen, self.embeddings[self.test]) if state.frozen else encoder(chosen)

        def accuracies() -> list[float]:
            with torch.no_grad():
                fused, alone = model.fuse(whole, answers)
            probs = [to_probabilities(x.float().cpu().numpy(), self.multi_label) for x in (alone, fused)]
            return [self.right(x, model.config.decision_rule) for x in probs]

        found["encoder alone"], found["fusion"] = accuracies()
        if not gold:
            found["agreement"] = 100 * state.report["agreement_with_llms"]
            fixed = model.score_pool.weight.detach().clone()
            for odds in ODDS:
                with torch.no_grad():
                    model.score_pool.weight.copy_(fixed * odds / LOG_ODDS)
                found[f"odds {odds:g}"] = accuracies()[1]
        return found

    def measure(self, gold: int) -> dict[str, Any]:
        """The figures with so many gold rows."""
        found: dict[str, Any] = {"texts": float(len(self.train))}
        found |= {"mean of the LLMs": self.llms("mean"), "LLMs' labels": self.llms("auto")}
        if gold and self.training == "probe":
            found["fit on gold alone"] = self.fitted(gold, False, "probe")["fusion"]
        return found | self.fitted(gold, True, self.training)


def label_models(folder: Path, cache: Path) -> None:
    """Print how right the labels of five LLMs are by each label model, also where the classes are unequal."""
    data, rng = load(folder, "semeval_stance", cache).scored, np.random.default_rng(0)
    assert data.labels is not None
    assert data.llm_scores is not None
    truth, scores = data.labels, data.llm_scores
    measured = (scores.argmax(axis=2) == truth[:, None]).mean(axis=0).round(3)
    print("Accuracies", measured.tolist(), "estimated", np.round(combine_answers(scores, False)[1] or [], 3).tolist())
    for shares in ((1, 1, 1), *permutations((6, 3, 1))):
        right: dict[str, list[float]] = {"mean": [], "dawid_skene": []}
        for _ in range(20):
            most = np.bincount(truth).min()
            rows = np.concatenate(
                [rng.permutation(np.flatnonzero(truth == k))[: most * s // max(shares)] for k, s in enumerate(shares)]
            )
            for method, found in right.items():
                logits, _ = combine_answers(scores[rows], False, method)
                found.append(100 * float((logits.argmax(axis=1) == truth[rows]).mean()))
        print(shares, {method: round(float(np.mean(found)), 1) for method, found in right.items()}, flush=True)


def table(results: list[dict[str, Any]]) -> list[str]:
    """Markdown: means over the folds, and the standard errors of the differences that matter."""
    names = ["encoder", "data set", "training", "gold rows", "texts", "folds", *SHOWN]
    names += ["encoder - labels", "fusion - labels", "cpu s"]
    lines = ["| " + " | ".join(names) + " |", "| --- | --- | --- " + "| ---: " * (len(names) - 3) + "|"]
    frame = pd.DataFrame(results)
    for name in ("encoder alone", "fusion"):
        frame[f"{name.split()[0]} - labels"] = frame[name] - frame["LLMs' labels"]
    for (encoder, part, training, gold, _), rows in frame.groupby(
        ["encoder", "part", "training", "gold", "limit"], sort=False
    ):
        cells = [str(encoder), str(part), str(training), str(gold), f"{rows.texts.mean():.0f}", str(len(rows))]
        cells += ["" if rows[name].isna().all() else f"{rows[name].mean():.1f}" for name in SHOWN]
        for name in names[-3:-1]:
            error = f" ± {rows[name].std() / len(rows) ** 0.5:.1f}" if len(rows) > 1 else ""
            cells.append(f"{rows[name].mean():+.1f}{error}")
        lines.append("| " + " | ".join([*cells, f"{rows['cpu s'].median():.0f}"]) + " |")
    return lines


def odds_table(results: list[dict[str, Any]]) -> list[str]:
    """Markdown: the fusion without gold rows, by the log-odds of an LLM's answer, as differences from the labels."""
    names = ["encoder", "data set", "agreement", "encoder - labels", *(f"{odds:g}" for odds in ODDS)]
    lines = ["| " + " | ".join(names) + " |", "| --- | --- " + "| ---: " * (len(names) - 2) + "|"]
    frame = pd.DataFrame([r for r in results if r["gold"] == 0 and r["limit"] == TEXTS and r["training"] == "probe"])
    if frame.empty:
        return []
    for (encoder, part), rows in frame.groupby(["encoder", "part"], sort=False):
        cells = [str(encoder), str(part), f"{rows.agreement.mean():.1f}"]
        for name in ("encoder alone", *(f"odds {odds:g}" for odds in ODDS)):
            cells.append(f"{(rows[name] - rows[SHOWN[1]]).mean():+.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return ["", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with one folder a data set")
    parser.add_argument("--part", nargs="*", default=list(SETS), choices=list(SETS), help="data sets")
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--gold", nargs="*", type=int, default=list(GOLD), help="numbers of gold rows")
    parser.add_argument("--encoder-training", nargs="*", default=["probe"], choices=list(TRAININGS))
    parser.add_argument("--texts", type=int, default=TEXTS, help="texts without labels, at most")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the five folds are a test set")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--write", action="store_true", help="write all results in the cache into docs/unlabelled.md")
    parser.add_argument("--label-models", action="store_true", help="compare the label models alone, and stop")
    args = parser.parse_args()
    if args.label_models:
        return label_models(args.data, args.cache)
    transformers_logging.set_verbosity_error()
    args.cache.mkdir(parents=True, exist_ok=True)
    log = args.cache / "unlabelled.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    embed, name = Embedder(args.encoder, args.cache, args.device, args.bf16), Path(args.encoder).name
    runs = product(args.part, args.encoder_training, range(min(args.folds, FOLDS)))
    for part, training, fold in runs:
        rows = None
        for gold in args.gold:
            key = {"encoder": name, "part": part, "training": training, "limit": args.texts, "gold": gold, "fold": fold}
            if any(key.items() <= result.items() for result in done):
                continue
            rows = rows or Rows(part, fold, embed, args.data, args.texts, training)
            done.append(key | rows.measure(gold))
            with log.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print({k: round(v, 1) if isinstance(v, float) else v for k, v in done[-1].items()}, flush=True)
    order = {name: i for i, name in enumerate([*SETS, *TRAININGS])}
    columns = ("encoder", "part", "training", "gold", "limit", "fold")
    done.sort(key=lambda r: [order.get(r[column], r[column]) for column in columns])
    lines = table(done) + odds_table(done)
    print("\n".join(lines))
    if args.write:
        before, rest = PAGE.read_text().split(START)
        PAGE.write_text(before + START + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
