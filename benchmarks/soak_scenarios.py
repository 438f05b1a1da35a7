"""The scenarios of the fault suite: what a user runs, with faults, signals and kills, until it is done."""

import csv
import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soak_checks import check_bill, check_end, check_limit, check_scores, check_secrets, check_store, check_table
from soak_disk import disturb, fill_up, hold_lock
from soak_push import push
from soak_world import CHILD, MARK, NAMES, Done, Kill, World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGKILL)
ROUNDS = 9  # runs of the same command with faults; then it must end without them
STRIKES = 4  # errors in a row after which a command is given up
METHODS = ("json", "json", "json", "logprob", "decision", "vote")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A data file."""
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def make_rows(world: World, count: int) -> list[dict[str, Any]]:
    """Rows, a few of them with the same text."""
    rows = [{"id": f"r{i}", "text": world.text(i), "label": NAMES[i % len(NAMES)]} for i in range(count)]
    for _ in range(count // 20):
        rows[world.rng.randrange(count)]["text"] = rows[world.rng.randrange(count)]["text"]
    return rows


def plan(world: World, requests: int, most: int = 4) -> list[Kill]:
    """Signals for the next runs, at random points of each."""
    kills = []
    for _ in range(world.rng.randint(0, most)):
        number = world.rng.choice(SIGNALS)
        frozen = world.rng.choice([0.0, 0.0, 0.0, 0.5, 1.0])
        again = None if number == signal.SIGKILL else world.rng.choice([None, None, 0.0, 0.2])
        if world.rng.random() < 0.1:
            kills.append(Kill(signal.SIGCONT, requests=world.rng.randint(1, max(2, requests)), frozen_s=1.0))
        elif world.rng.random() < 0.15:
            kills.append(Kill(number, seconds=world.rng.uniform(0.0, 3.0), again_s=again))
        else:
            point = world.rng.randint(1, max(2, requests // 2))
            kills.append(Kill(number, requests=point, frozen_s=frozen, again_s=again))
    return kills


def trouble(world: World) -> Callable[[], None] | None:
    """Perhaps an outage, or a time in which the server loads its model, while the children run."""
    kind = world.rng.choice([None, None, None, "down", "loading"])
    wait, seconds = world.rng.uniform(0.5, 2.5), world.rng.uniform(0.2, 1.2)
    if kind is None:
        return None

    def happen() -> None:
        world.pause(wait)
        if kind == "down":
            world.server.outage()
            world.pause(seconds)
            world.server.recover()
        else:
            world.server.loading = True
            world.pause(seconds)
            world.server.loading = False

    return happen


def until_done(
    world: World,
    commands: list[list[str]],
    check: Callable[[list[Done]], None],
    kills: list[Kill],
    between: Callable[[], None] | None = None,
    rounds: int = ROUNDS,
) -> bool:
    """Run commands again and again until each has ended with status 0. Returns: whether they did."""
    left, strikes = list(commands), 0
    for number in range(rounds + 2):
        if number >= rounds:
            world.server.faults = {}
        stop = [kills.pop(0) if kills and world.rng.random() < 0.8 else None for _ in left]
        done = world.run(*left, kills=stop, during=trouble(world) if number < rounds else None)
        for ended in done:
            check_end(world, ended)
        check(done)
        over = {tuple(ended.command) for ended in done if ended.status == 0}
        left = [command for command in left if tuple(command) not in over]
        if not left:
            return True
        strikes = (
            strikes + 1 if all(ended.status in (1, 2) and "may still get" not in ended.err for ended in done) else 0
        )
        if strikes == STRIKES:  # it will not be done
            break
        if between is not None:
            between()
    last = world.done[-1]
    world.problem(f"{left[0][0]} was not done after {number + 1} runs, status {last.status}: {last.err[-300:]}")
    return False


def score(world: World, quick: bool = False) -> None:
    """`labelfusion score`: several methods, kinds of files, LLMs and processes, with signals and disk faults."""
    rng, method = world.rng, world.rng.choice(METHODS)
    concurrency = rng.choice([1, 4, 16, 32, 64, 128])
    size = 10 if method == "json" and rng.random() < 0.4 else 1
    count = rng.randint(300, 900) if size == 1 else rng.randint(1500, 3000)
    count = 60 if quick else count // {1: 10, 4: 3}.get(concurrency, 1)
    models = ["m"] if rng.random() < 0.7 else ["m", "m2"]
    several = 1 if quick or rng.random() < 0.75 else rng.choice([2, 3, 6])
    llms = [world.llm(model=model, method=method, texts_per_request=size, max_concurrency=concurrency, votes=3)
            for model in models]  # fmt: skip
    rows = make_rows(world, count)
    kinds = rng.choices([".csv", ".jsonl", ".parquet"], k=2)
    source = write_rows(world.folder / f"in{kinds[0]}", rows)
    outs = [world.folder / f"out{i}{kinds[1]}" for i in range(several)]
    chunk = rng.choice([count, count // 3, count // 8])
    commands = [_score_command(source, out, llms, chunk) for out in outs]
    texts, disk = [row["text"] for row in rows], rng.choice([None, None, "full", "lock", "journal", "leftovers"])

    world.what = f"{method}, {count} rows, {size} in a request, {concurrency} at once, {several} processes, {disk}"

    def check(done: list[Done]) -> None:
        if method != "vote":
            check_store(world, texts, done)

    if several > 1:
        world.tally.add(shared_stores=1)
    elif disk == "full" and size == 1 and method != "vote":
        fill_up(world, commands[0], check, texts, concurrency * len(models))
    elif disk == "lock":
        hold_lock(world, commands[0], check)
    between = (lambda: disturb(world, outs)) if disk in ("journal", "leftovers") else None
    if until_done(
        world, commands, check, plan(world, count // size, 2 if quick else 4), between, 3 if quick else ROUNDS
    ):
        for out in outs:
            check_scores(world, check_table(world, rows, out), models, method)
            if out.with_name(out.name + ".journal").exists():
                world.problem("a journal is left of a run that is done")
    check_bill(world)


def _score_command(source: Path, out: Path, llms: list[dict[str, Any]], chunk: int, *more: str) -> list[str]:
    given = [part for llm in llms for part in ("--llm", json.dumps(llm))]
    return ["score", str(source), str(out), *given, "--labels", ",".join(NAMES), "--chunk-size", str(chunk), *more]


def budget(world: World, quick: bool = False) -> None:
    """`labelfusion score --max-cost-usd`, stopped and continued; then the rest with more money."""
    rng, size = world.rng, world.rng.choice([1, 1, 10])
    world.server.reasoning = rng.choice([0, 50, 500])
    count = 60 if quick else 300 * (1 if size == 1 else 5)
    llm = world.llm(method="json", texts_per_request=size, max_concurrency=rng.choice([1, 8, 32, 128]))
    rows = make_rows(world, count)
    source, out = write_rows(world.folder / "in.jsonl", rows), world.folder / "out.jsonl"
    each = (700 * size**0.7 * 1.0 + (45 * size + world.server.reasoning / 2) * 4.0) / 1e6
    limit = each * count / size * rng.choice([0.02, 0.1, 0.3, 0.6])
    command = _score_command(source, out, [llm], rng.choice([count, count // 4]), "--max-cost-usd")
    texts = [row["text"] for row in rows]
    kills = plan(world, count // size // 4, 2 if quick else 3)
    world.what = f"{count} rows, {size} in a request, {llm['max_concurrency']} at once, ${limit:.4f}"
    spent: list[Done] = []
    for _ in range(len(kills) + 2):
        done = world.run([*command, f"{limit:.6f}"], kills=[kills.pop(0) if kills else None], during=trouble(world))
        spent += done
        for ended in done:
            check_end(world, ended)
        check_store(world, texts, done)
    check_limit(world, limit, spent)
    if until_done(world, [[*command, "1000"]], lambda done: check_store(world, texts, done), []):
        check_scores(world, check_table(world, rows, out), ["m"], "json")
    check_bill(world)


def model_at(world: World, **fields: Any) -> Path:
    """A copy of the tiny model whose LLM is the scenario's server."""
    folder = world.folder / "model"
    shutil.copytree(world.template / "model", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["llm_providers"] = [world.llm(method="json", **fields)]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def predict(world: World, quick: bool = False) -> None:
    """`labelfusion predict` with a tiny random model, with and without a limit."""
    rng, count = world.rng, 60 if quick else world.rng.randint(300, 1200)
    model = model_at(world, max_concurrency=rng.choice([4, 16, 64]), texts_per_request=rng.choice([1, 1, 10]))
    rows, kind = make_rows(world, count), rng.choice([".csv", ".jsonl", ".parquet"])
    source, out = write_rows(world.folder / f"in{kind}", rows), world.folder / "out.jsonl"
    command = ["predict", str(model), str(source), str(out), "--with-sources"]
    limit = None if rng.random() < 0.5 else count * 5e-5 * rng.random()
    command += [] if limit is None else ["--max-cost-usd", f"{limit:.6f}"]
    texts = [row["text"] for row in rows]

    def check(done: list[Done]) -> None:
        check_store(world, texts, done)

    # A journal that is cut off would forget what was spent.
    between = (lambda: disturb(world, [out])) if limit is None else None
    if until_done(world, [command], check, plan(world, count, 2), between, rounds=3):
        found = check_table(world, rows, out)
        for row in found:
            said = row["sources"]["m"]
            row["llm_scores"] = [None if said is None else [said[name] for name in NAMES]]
            if said is None and not row["llm_missing"]:
                world.tally.add(texts_lost=1)
                world.problem(f"row {row['id']} has no score of the LLM, and no reason")
        check_scores(world, [row for row in found if row["llm_scores"][0]], ["m"], "json")
    if limit is not None:
        check_limit(world, limit, world.done)
    check_bill(world)


def train(world: World, quick: bool = False) -> None:
    """`labelfusion train` that asks an LLM about some rows."""
    rows, most = make_rows(world, 60), world.rng.choice([20, 40])
    source, out = write_rows(world.folder / "in.csv", rows), world.folder / "model"
    llm = world.llm(method="json", max_concurrency=world.rng.choice([2, 8, 32]))
    command = ["train", str(source), "--output-dir", str(out), "--encoder", str(world.template / "encoder")]
    command += ["--llm", json.dumps(llm), "--max-scored-rows", str(most), "--encoder-training", "probe"]
    command += ["--no-extra-sources", "--fusion", "pool"]
    texts = [row["text"] for row in rows]

    def check(done: list[Done]) -> None:
        check_store(world, texts, done)

    if until_done(world, [command], check, plan(world, most, 2), rounds=3):
        for name in ("model.safetensors", "config.json", "training_report.md", "README.md"):
            if not (out / name).exists():
                world.problem(f"the trained model has no {name}")
    asked = {text for one in world.server.ledger for text in one.texts}
    if len(asked) > most:
        world.problem(f"{len(asked)} rows were asked about, at most {most} were allowed")
    check_bill(world)


def pipeline(world: World, quick: bool = False) -> None:
    """The pipeline over a stream, killed and started anew."""
    model = model_at(world, max_concurrency=world.rng.choice([4, 32]))
    rows = make_rows(world, 60 if quick else 250)
    source, out = write_rows(world.folder / "in.jsonl", rows), world.folder / "out.jsonl"
    command = [str(CHILD), "pipeline", str(model), str(source), str(out)]
    _driven(world, command, rows, out, lambda row: _from_pipeline(row))


def _from_pipeline(row: dict[str, Any]) -> list[list[float] | None]:
    said = row["answer"]["sources"].get("m")
    if said is None:
        return [None]
    named = {one["label"]: one["score"] for one in said} if isinstance(said, list) else said
    return [[named[name] for name in NAMES]]


def threads(world: World, quick: bool = False) -> None:
    """Threads with a scorer each on one store, killed and started anew."""
    rows = [{"id": f"r{i}", "text": world.text(i)} for i in range(60 if quick else 150)]
    source, out = write_rows(world.folder / "in.jsonl", rows), world.folder / "out.jsonl"
    number = world.rng.choice([2, 4, 8])
    llm = world.llm(method="json", max_concurrency=world.rng.choice([4, 32]))
    given = json.dumps({"provider": llm, "labels": NAMES, "threads": number})
    _driven(world, [str(CHILD), "threads", given, str(source), str(out)], rows, out, None, number)


def _driven(
    world: World,
    command: list[str],
    rows: list[dict[str, Any]],
    out: Path,
    scores: Callable[[dict[str, Any]], Any] | None,
    models: int = 1,
) -> None:
    """A program of a user's own, which has no journal: only the store keeps what is paid."""
    texts = [row["text"] for row in rows]
    kills: Sequence[Kill] = plan(world, len(rows), 2)
    for kill in kills:  # no program ends at SIGTERM or SIGHUP but by dying, if it has not said otherwise
        kill.hard, kill.again_s = kill.signal in (signal.SIGTERM, signal.SIGHUP), None
        kill.signal = signal.SIGKILL if models > 1 and kill.signal == signal.SIGINT else kill.signal
    for number in range(len(kills) + 2):
        if number == len(kills) + 1:
            world.server.faults = {}
        stop = kills[number] if number < len(kills) else None
        done = world.run(command, kills=[stop], during=trouble(world) if number <= len(kills) else None)
        for ended in done:
            if ended.signalled is None:
                check_end(world, ended)
        check_store(world, texts, done)
    found = check_table(world, rows, out)
    for row in found if scores is not None else []:
        row["llm_scores"] = scores(row) if scores is not None else None
    check_scores(world, found, ["m"] * models, "json")
    check_bill(world)


SCENARIOS: dict[str, tuple[Callable[..., None], int]] = {  # and how often each comes
    "score": (score, 52),
    "budget": (budget, 20),
    "predict": (predict, 9),
    "threads": (threads, 7),
    "pipeline": (pipeline, 4),
    "train": (train, 4),
    "push": (push, 4),
}


def run(world: World, name: str, quick: bool = False) -> None:
    """Run a scenario, and check what holds for all of them."""
    SCENARIOS[name][0](world, quick)
    check_secrets(world)


__all__ = ["MARK", "SCENARIOS", "run"]
