"""Advice where a model is weak. Each piece rests on a fact that was measured in the same run."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...routing.decisions import widen
from ..comparison import Source
from ..statistics import mcnemar
from .confusions import confused_pairs
from .measurement import ENCODER, Measurement
from .suspects import suspects
from .threshold_gain import decided_by_f1, mean_f1

GOOD_F1 = 0.5
LEAST_GAIN = 0.01  # of macro F1, for advice
FEWEST_CONFUSED, CONFUSED_SHARE = 5, 0.2  # rows, and share of the rarer class
# Multi-label: times as often as if what is missed and what is given in a wrong row were independent. A class that is
# given wherever the model finds nothing is not confused with the others.
LEAST_LIFT = 1.5
MOST_NAMED = 8  # classes named in one sentence
MOST_PAIRS = 3


@dataclass(frozen=True)
class Advice:
    """One piece of advice.

    Args:
        kind: What it is about: `more_rows`, `unknown_class`, `thresholds`, `class_weight`, `confused`, `llm_policy`,
            `labels` or `calibration`.
        classes: The classes that it is about.
        fact: What was measured.
        advice: What to do.
        rows: Rows of this run that it concerns; advice is sorted by it.
    """

    kind: str
    classes: list[str]
    fact: str
    advice: str
    rows: int


def advise(measured: Measurement) -> list[dict[str, Any]]:
    """Advice for a model, as dicts of [`Advice`], that which concerns most rows first; empty if nothing stands out."""
    steps = (_unknown_classes, _more_rows, _decisions, _confused, _not_asked, _wrong_labels, _confidence)
    found = [piece for step in steps for piece in step(measured)]
    return [asdict(piece) for piece in sorted(found, key=lambda piece: -piece.rows)]


def _unknown_classes(measured: Measurement) -> Iterator[Advice]:
    names = measured.table.unseen
    if names:
        rows = int(measured.truth[:, -len(names) :].any(axis=1).sum())
        yield Advice(
            "unknown_class",
            list(names),
            f"{_rows(rows)} {_have(rows)} a class that the model does not know: {_listed(names)}.",
            "Every answer to them is wrong. Add rows of these classes and fit again, or leave them out.",
            rows,
        )


def _more_rows(measured: Measurement) -> Iterator[Advice]:
    """Weak classes with few training rows, and how many rows were enough for the other classes."""
    rows, f1, support = measured.class_rows, _f1(measured), measured.truth.sum(axis=0)
    if rows is None:
        return
    known = np.arange(len(f1)) < measured.config.num_labels
    weak = np.flatnonzero((f1 < GOOD_F1) & (support > 0) & known)
    if not len(weak):
        return
    enough = _enough_rows(rows[known & (support > 0)], f1[known & (support > 0)])
    few = [int(k) for k in weak[np.argsort(rows[weak], kind="stable")] if enough is None or rows[k] < enough]
    if not few:
        return
    zero = sum(f1[k] == 0 for k in weak)
    fact = f"{len(weak)} of {int((support > 0).sum())} classes have an F1 below {GOOD_F1}, {zero} of them 0. "
    fact += f"{len(few)} of them had {rows[few].min()} to {rows[few].max()} training rows each"
    if enough is None:
        fact += f"; no number of training rows was enough here (median of all classes: {int(np.median(rows[known]))})."
        more = [f"{_name(measured, k)} (+{max(rows[k], 10)})" for k in few]
        advice = f"Label twice as many rows of each, and 10 at least: {_listed(more)}. Then measure again."
    else:
        better = known & (rows >= enough) & (support > 0)
        fact += f"; of the {int(better.sum())} classes with {enough} or more, {int((f1[better] >= GOOD_F1).sum())} are "
        fact += "better than that."
        more = [f"{_name(measured, k)} (+{enough - rows[k]})" for k in few]
        advice = f"Label more rows, up to {enough} of a class: {_listed(more)}."
    if measured.config.num_providers:
        missing = [measured.classes[k] for k in few if measured.classes[k] not in measured.config.class_descriptions]
        if missing:
            advice += f" Without rows, an LLM can carry a class: give `class_descriptions` of {_listed(missing)}."
    else:
        advice += " Or add an LLM, which needs no rows of a class: `llm=` with `class_descriptions`."
    yield Advice("more_rows", [_name(measured, k) for k in few], fact, advice, int(measured.truth[:, few].sum()))


def _enough_rows(rows: Any, f1: Any) -> int | None:
    """The fewest training rows of a good class from which on two thirds of the classes, and two at least, are good."""
    for n in sorted(set(rows[f1 >= GOOD_F1].tolist())):
        there = rows >= n
        if there.sum() >= 2 and (f1[there] >= GOOD_F1).mean() >= 2 / 3:
            return int(n)
    return None


def _decisions(measured: Measurement) -> Iterator[Advice]:
    """What another decision rule would change, for rare classes."""
    fusion, truth, size = measured.sources[0], measured.truth, measured.config.num_labels
    now, right = mean_f1(fusion.decided, truth), float(fusion.right(truth).mean())
    probs, rows = fusion.probabilities[:, :size], measured.class_rows
    if measured.config.multi_label:
        if len(truth) < 50:
            return
        other = widen(decided_by_f1(probs, truth[:, :size], measured.config.min_labels), truth.shape[1])
        how = "With a threshold chosen for macro F1 on the other rows,"
        kind, option = "thresholds", 'Fit with `threshold_metric="macro_f1"` if rare classes matter to you'
    elif rows is not None and rows[:size].min() > 0 and rows[:size].max() > 1.5 * rows[:size].min():
        other = Source.make("", probs / rows[:size], False).decided
        other = widen(other, truth.shape[1])
        how = "Judged as if all classes were equally frequent,"
        kind, option = "class_weight", 'Fit with `class_weight="balanced"` if rare classes matter to you'
    else:
        return
    then, exact = mean_f1(other, truth), float((other == truth).all(axis=1).mean())
    if then < now + LEAST_GAIN:
        return
    metric = "exact match" if measured.config.multi_label else "accuracy"
    gained = np.flatnonzero((2 * (other & truth).sum(0) > 0) & ((fusion.decided & truth).sum(0) == 0))
    fact = f"{how} macro F1 would be {then:.3f} instead of {now:.3f}, and {metric} {exact:.1%} instead of {right:.1%}."
    names = [_name(measured, k) for k in gained]
    if names:
        fact += f" Classes found that are never found now: {_listed(names)}."
    price = f": {metric} pays for it." if exact < right else "."
    yield Advice(kind, names, fact, option + price, int((other != fusion.decided).any(axis=1).sum()))


def _confused(measured: Measurement) -> Iterator[Advice]:
    """Pairs of classes, all known to the model, that are often taken for each other."""
    known = measured.config.num_labels  # the classes that it does not know come last
    support, errors = measured.truth.sum(axis=0), int(measured.wrong.sum())
    counts = confused_pairs(measured.truth, measured.sources[0].decided)
    both = np.triu(counts + counts.T, 1)
    both[:, known:] = 0  # a class that the model does not know cannot be told apart, nor merged
    descriptions, found = measured.config.class_descriptions, 0
    decided = measured.sources[0].decided
    missed, given = (measured.truth & ~decided).sum(axis=0), (decided & ~measured.truth).sum(axis=0)
    for i, j in (divmod(int(x), len(both)) for x in np.argsort(-both, axis=None, kind="stable")):
        rows, least = int(both[i, j]), min(support[i], support[j])
        if rows < FEWEST_CONFUSED or found == MOST_PAIRS:
            return
        chance = (missed[i] * given[j] + missed[j] * given[i]) / max(errors, 1)
        if rows < CONFUSED_SHARE * least or (measured.config.multi_label and rows < LEAST_LIFT * chance):
            continue
        found += 1
        a, b = measured.classes[i], measured.classes[j]
        fact = f"{a} and {b} are taken for each other in {rows} of {errors} wrong rows: {counts[i, j]} of {support[i]} "
        fact += f"rows of {a} got {b} instead, {counts[j, i]} of {support[j]} of {b} got {a}."
        for source in measured.sources[2:]:
            same = confused_pairs(measured.truth[source.answered], source.decided[source.answered])
            fact += f" {source.name} takes them for each other in {same[i, j] + same[j, i]} rows."
        advice = f"If the difference does not matter, merge {a} and {b}."
        if not measured.config.multi_label:
            merged = float(1 - (errors - rows) / len(measured))
            advice += f" On these rows, accuracy would be {merged:.1%} instead of {1 - errors / len(measured):.1%}."
        if measured.config.num_providers and not (a in descriptions and b in descriptions):
            advice += " If it matters, say what it is: `class_descriptions` of both, which the LLM reads."
        else:
            advice += " If it matters, label more rows of both, and check that their labels follow one rule."
        yield Advice("confused", [a, b], fact, advice, rows)


def _not_asked(measured: Measurement) -> Iterator[Advice]:
    """Errors on rows that no LLM was asked about, where LLM answers help on the others."""
    result, config = measured.result, measured.config
    heard = result.answered.any(axis=1)
    if not config.num_providers or heard.all() or heard.sum() < 30:
        return
    missed = int((measured.wrong & ~heard).sum())
    encoder = next(s for s in measured.sources if s.name == ENCODER)
    fixed, broken, p = mcnemar(~measured.wrong[heard], encoder.right(measured.truth)[heard])
    if fixed <= broken or p > 0.05 or not missed:
        return
    yield Advice(
        "llm_policy",
        [],
        f"{missed} of {int(measured.wrong.sum())} errors are on the {_rows(int((~heard).sum()))} without an LLM's "
        f"answer. Where one answered, it corrected {fixed} errors of the encoder and caused {broken} (p {p:.3f}).",
        f"Query more texts: `llm_policy` was {measured.routing.name!r}.",
        missed,
    )


def _wrong_labels(measured: Measurement) -> Iterator[Advice]:
    found = suspects(measured)
    if found and len(found) >= max(3, 0.01 * len(measured)):
        who = (
            "encoder and LLM agree" if measured.config.num_providers else "the encoder is sure, by confident learning,"
        )
        yield Advice(
            "labels",
            [],
            f"In {_rows(len(found))} {who} on other classes than the label.",
            "Look at these labels before you change the model: those of this data, then those of the training data "
            "(`suspected_labels()` after `fit`, `labelfusion train --review FILE`).",
            len(found),
        )


def _confidence(measured: Measurement) -> Iterator[Advice]:
    """Whether the fusion is surer, or less sure, than it is right."""
    fusion, n = measured.sources[0], len(measured)
    if measured.config.multi_label:
        sure, right = float(fusion.probabilities.sum(axis=1).mean()), float(measured.truth.sum(axis=1).mean())
        error = float((measured.truth.sum(axis=1) - fusion.probabilities.sum(axis=1)).std()) / n**0.5
        what = f"The probabilities of a text's classes sum to {sure:.2f} on average; a text has {right:.2f} classes."
        far = abs(sure - right) > max(3 * error, 0.1 * right)
    else:
        sure, right = float(fusion.probabilities.max(axis=1).mean()), float(1 - measured.wrong.mean())
        error = float(((~measured.wrong) - fusion.probabilities.max(axis=1)).std()) / n**0.5
        what = f"The mean probability of the predicted class is {sure:.1%}, and {right:.1%} of the answers are right."
        far = abs(sure - right) > max(3 * error, 0.03)
    if far:
        yield Advice(
            "calibration",
            [],
            what,
            "Add more labelled rows from the same source (not these test rows), and fit again: calibration is learnt "
            "from them. Until then, "
            f"probabilities, `llm_policy='auto'` and `max_risk` are too {'sure' if sure > right else 'careful'}.",
            int(measured.wrong.sum()),
        )


def _f1(measured: Measurement) -> Any:
    decided, truth = measured.sources[0].decided, measured.truth
    return 2 * (decided & truth).sum(axis=0) / np.maximum(decided.sum(axis=0) + truth.sum(axis=0), 1)


def _name(measured: Measurement, k: Any) -> str:
    return measured.classes[int(k)]


def _rows(count: int) -> str:
    return f"{count} row" + ("" if count == 1 else "s")


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_NAMED])
    return shown + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
