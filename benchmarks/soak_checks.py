"""What must hold after a scenario of the fault suite, and the counting of what does not."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from soak_world import CANARIES, MARK, NAMES, ROOT, Done, World

from ledger_server import FINAL, Asked  # isort: skip
from llm_server import truth  # isort: skip

assert ROOT
CLOSE = 2e-4
STATUS = {0, 1, 2, 129, 130, 143}
DATA_FILES = re.compile(r"^(in|out)\d*\.(csv|jsonl|parquet)(\.tmp)?$")
Pair = tuple[str, str]  # model, text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a data file."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def right(text: str, method: str) -> NDArray[np.float64]:
    """What the server's model says about a text, asked by a method."""
    scores = np.array(truth(text, NAMES))
    return np.eye(len(NAMES))[scores.argmax()] if method == "vote" else scores


def check_table(world: World, rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Whether the output has all rows of the input, in order, unchanged. Returns: its rows."""
    if not path.exists():
        world.tally.add(texts_lost=len(rows))
        world.problem(f"{path.name} is not there at the end")
        return []
    found = read_rows(path)
    world.tally.add(rows=len(rows))
    wanted = [(str(row["id"]), row["text"]) for row in rows]
    got = [(str(row["id"]), row["text"]) for row in found]
    if wanted != got:
        lost = len(set(wanted) - set(got)) or abs(len(wanted) - len(got)) or 1
        world.tally.add(texts_lost=lost)
        world.problem(f"{path.name}: {len(got)} rows for {len(wanted)}, {lost} lost, changed or in another place")
        return []
    return found


def check_scores(
    world: World, found: list[dict[str, Any]], models: Sequence[str], method: str, column: str = "llm_scores"
) -> None:
    """Whether every score is the server's own for that text, and every missing one has a cause."""
    final = {(asked.model, text) for asked in world.server.ledger if asked.fault in (*FINAL, "usage", "digits", "deep")
             for text in asked.texts}  # fmt: skip
    wrong: list[str] = []
    for row in found:
        scores = json.loads(row[column]) if isinstance(row[column], str) else row[column]
        for model, said in zip(models, scores if scores is not None else [None] * len(models), strict=True):
            if said is None:
                world.tally.add(without=1)
                if row["text"].strip() and (model, row["text"]) not in final:
                    world.tally.add(texts_lost=1)
                    world.problem(f"{model} has no score for row {row['id']}, and gave no cause")
            else:
                world.tally.add(scores=1)
                if np.abs(np.array(said) - right(row["text"], method)).max() > CLOSE:
                    wrong.append(f"{model} in row {row['id']}")
    if wrong:
        world.tally.add(wrong=len(wrong))
        world.problem(f"{len(wrong)} wrong scores, the first of {wrong[0]}")


def stored(world: World, texts: Sequence[str]) -> set[Pair] | None:
    """What is in the score store, found by its scores; None if it cannot be read."""
    from labelfusion.scoring.store.score_store import ScoreStore

    if not world.store.exists():
        return set()
    try:
        store = ScoreStore(world.store)
        records = list(store.export())
        store.close()
    except Exception as error:
        world.problem(f"the store cannot be read: {type(error).__name__}: {str(error)[:200]}")
        return None
    all_ = np.array([truth(text, NAMES) for text in texts])
    found = set()
    for record in records:
        gap = np.abs(all_ - np.array(record["scores"])).max(axis=1)
        nearest = int(gap.argmin())
        if gap[nearest] > CLOSE:
            world.tally.add(wrong=1)
            world.problem("the store holds scores that belong to no text")
        found.add((record["model"], texts[nearest]))
    return found


def check_store(world: World, texts: Sequence[str], done: Sequence[Done]) -> None:
    """Whether the answers that came to `done` are stored, less those that were on the wire when one was killed."""
    kept = stored(world, texts)
    if kept is None:
        return
    hard = {ended.key for ended in done if ended.hard}
    keys = {ended.key for ended in done}
    missing: dict[str, set[Pair]] = defaultdict(set)
    sent_at: dict[str, list[float]] = defaultdict(list)
    for asked in list(world.server.ledger):
        if asked.run in keys and asked.delivered and asked not in world.wire:
            lost_here = {(asked.model, text) for text in asked.texts} - kept
            missing[asked.run] |= lost_here
            if lost_here:
                sent_at[asked.run].append(asked.ended or 0.0)
    for ended in done:
        if lost := len(missing[ended.key]):
            world.tally.add(answers_lost=lost)
            how = (
                f"a kill, sent {ended.killed_at - max(sent_at[ended.key]):.2f} s before and earlier"
                if ended.key in hard
                else f"status {ended.status}" + (f" and signal {ended.signalled}" if ended.signalled else "")
            )
            world.problem(f"{lost} answers arrived and are not stored after {how}")


def check_bill(world: World, since: int = 0) -> None:
    """Count what was paid twice, and why."""
    good: dict[Pair, list[Asked]] = defaultdict(list)
    broken: dict[Pair, int] = defaultdict(int)
    ledger = sorted(world.server.ledger[since:], key=lambda asked: asked.began)
    for asked in ledger:
        for text in asked.texts:
            if asked.good:
                good[asked.model, text].append(asked)
            elif asked.dollars and asked.fault not in FINAL:
                broken[asked.model, text] += 1
    unexplained = 0
    for pair, answers in good.items():
        for before in answers[:-1]:
            at_kill, left = before in world.wire, not (before.reached and not before.unread)
            unexplained += not at_kill and not left
            world.tally.add(twice=1, twice_at_kill=int(at_kill), twice_left=int(left and not at_kill))
        world.tally.add(paid=1, unusable=broken[pair])
    if unexplained:
        world.tally.add(twice_unexplained=unexplained)
        world.problem(f"{unexplained} answers were paid again though they had arrived")


def check_limit(world: World, limit: float, done: Sequence[Done], since: int = 0) -> None:
    """Whether `done` have cost no more than the limit and one request."""
    keys = {ended.key for ended in done}
    asked = [one for one in world.server.ledger[since:] if one.run in keys]
    spent, dearest = sum(one.dollars for one in asked), max((one.dollars for one in asked), default=0.0)
    if not dearest:
        return
    over = (spent - limit) / dearest
    unknown = sum(one.dollars for one in asked if one in world.wire) / dearest
    world.tally.add(limits=1)
    world.tally.peak("requests over the limit, not killed" if not unknown else "requests over the limit, killed", over)
    world.tally.peak("requests over the limit, less what was on the wire at kills", over - unknown)
    if over - unknown > 1:
        world.problem(f"${spent:.5f} for a limit of ${limit:.5f}: {over:.1f} requests over, {unknown:.1f} at kills")


def check_end(world: World, ended: Done, allowed: set[int] = STATUS) -> None:
    """Whether a child ended as it should."""
    lines = [line for line in re.split(r"[\r\n]+", ended.err) if line.strip()]
    if ended.hard:
        return
    if ended.signalled and ended.status == -ended.signalled and not world.count(ended.key):
        return  # Python was still starting
    if ended.status not in allowed:
        world.problem(f"status {ended.status}: {' / '.join(lines[-2:])[:300]}")
    if "Traceback (most recent call last)" in ended.err:
        world.tally.add(tracebacks=1)
        world.problem(f"a traceback, ending in: {lines[-1][:200]}")
    if ended.status and not lines:
        world.problem(f"status {ended.status}, and not a word about it")


def check_secrets(world: World) -> None:
    """Whether a secret is in any file, or a text in one that is no data file."""
    for path in sorted(p for p in world.folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if any(canary.encode() in content for canary in CANARIES):
            world.tally.add(secrets=1)
            world.problem(f"a secret is in {path.relative_to(world.folder)}")
        if MARK.encode() in content and not DATA_FILES.match(path.name) and "model" not in path.parts:
            world.tally.add(texts_kept=1)
            world.problem(f"a text is in {path.relative_to(world.folder)}")
