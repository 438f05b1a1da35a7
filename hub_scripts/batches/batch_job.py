"""The state of a batch job, in the folder `OUT.batch`, and its steps: plan, submit, look, collect.

What is to be submitted is on disk before anything is, under a label that goes with the batch. A step looks for the
label among the provider's batches before it creates one. So the job may be killed anywhere, and no text is paid twice.
"""

import json
import math
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...scoring.batches.batch_api import (
    ENDED,
    FAILED,
    MOST_BYTES,
    MOST_LINES,
    BatchAPI,
    RemoteBatch,
    batch_api,
    find_or_create,
)
from ...scoring.batches.batch_questions import BatchQuestions, Collected
from ...scoring.score_batch import ScoringError

PLANNED, SUBMITTED, COLLECTED = "planned", "submitted", "collected"


@dataclass
class Part:
    """One batch of the job.

    Args:
        label: Its name among the provider's batches, and of its files here.
        provider: Number of the LLM.
        lines: Questions.
        state: `planned`, `submitted` or `collected`.
        batch: Its id at the provider's.
        answered: Answers in the store.
        estimated_usd: US dollars that it was expected to cost.
        cost_usd: US dollars that it has cost.
    """

    label: str
    provider: int
    lines: int
    state: str = PLANNED
    batch: str = ""
    answered: int = 0
    estimated_usd: float = 0.0
    cost_usd: float = 0.0


@dataclass
class Job:
    """The job of one output.

    Args:
        folder: Where its state is.
        settings: What must match for it to go on.
        name: Unlike those of all other jobs.
        parts: Its batches.
    """

    folder: Path
    settings: dict[str, Any]
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    parts: list[Part] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any] | None = None) -> "Job":
        """The job in `folder`, begun if there is none and `settings` are given.

        Raises:
            ValueError: If it has other settings, or cannot be read, or is not there.
        """
        path = folder / "job.json"
        if not path.exists():
            if settings is None:
                raise ValueError(f"There is no batch job {str(folder)!r}: submit one first.")
            job = cls(folder, settings)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            job.save()
            return job
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            parts = [Part(**part) for part in data.pop("parts")]
            job = cls(folder, parts=parts, **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no batch job ({type(error).__name__}).") from None
        if settings is not None and json.loads(json.dumps(settings)) != job.settings:
            changed = ", ".join(
                sorted(k for k in {**settings, **job.settings} if settings.get(k) != job.settings.get(k))
            )
            raise ValueError(
                f"{folder} is a batch job with other settings ({changed}). Repeat it with its settings, or give "
                "another OUT; answers that were collected stay in the score store."
            )
        return job

    def save(self) -> None:
        """Write the state; a kill leaves the old one or the new one."""
        data = {k: v for k, v in asdict(self).items() if k != "folder"}
        _write(self.folder / "job.json", json.dumps(data).encode())

    def remove(self) -> None:
        """Delete the state."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def requests_file(self, part: Part) -> Path:
        """The lines of a part; deleted once it is submitted, as it holds the texts."""
        return self.folder / f"labelfusion-{part.label}.jsonl"

    def keys(self, part: Part) -> set[str]:
        """The keys of a part, in hexadecimal."""
        return set((self.folder / f"{part.label}.keys").read_text(encoding="ascii").split())

    def final(self, provider: int) -> dict[str, str]:
        """`{key in hexadecimal: reason}` of the questions that were asked in vain."""
        path = self.folder / f"final-{provider}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @property
    def is_open(self) -> bool:
        """Whether something is planned, or submitted and not collected."""
        return any(part.state != COLLECTED for part in self.parts)

    def cost_usd(self, expected: bool = False) -> float:
        """US dollars of all that is collected; with `expected`, also what the rest is expected to cost."""
        rest = sum(part.estimated_usd for part in self.parts if part.state != COLLECTED)
        return sum(part.cost_usd for part in self.parts) + (rest if expected else 0.0)

    def plan(
        self, provider: int, questions: BatchQuestions, texts: Iterable[list[str]], limit: float | None = None
    ) -> int:
        """Write the files of the questions that are still to be asked. Returns: how many these are.

        Args:
            provider: Number of the LLM.
            questions: Its questions.
            texts: The texts, some thousand at a time.
            limit: US dollars that all of the job may cost, by estimate; the questions beyond it are left out.
        """
        known = set(self.final(provider))
        for part in self.parts:
            if part.provider == provider and part.state != COLLECTED:
                known |= self.keys(part)
        left = math.inf if limit is None else limit - self.cost_usd(expected=True)
        count = 0
        writer = _Files(self, provider)
        for chunk in texts:
            asked = {key: text for key, text in zip(questions.keys(chunk), chunk, strict=True) if text.strip()}
            new = [key for key in asked if key.hex() not in known]
            stored = questions.store.get_many(new)
            for key in new:
                if key in stored:
                    continue
                line = questions.line(key, asked[key])
                cost = questions.estimated_cost(line)
                if cost > left:
                    continue
                left -= cost
                known.add(key.hex())
                writer.add(key.hex(), line, cost)
                count += 1
        self.parts += writer.close()
        self.save()
        return count

    def submit(self, apis: dict[int, BatchAPI]) -> None:
        """Submit what is planned.

        Raises:
            ScoringError: If it cannot be; the same step goes on.
        """
        for part in self.parts:
            if part.state == PLANNED:
                found = find_or_create(apis[part.provider], part.label, self.requests_file(part))
                part.batch, part.state = found.id, SUBMITTED
                self.save()
            if part.state == SUBMITTED:
                self.requests_file(part).unlink(missing_ok=True)

    def look(self, apis: dict[int, BatchAPI]) -> Iterator[tuple[Part, RemoteBatch]]:
        """How the submitted parts are getting on.

        Raises:
            ScoringError: If the provider does not say.
        """
        for part in self.parts:
            if part.state == SUBMITTED:
                yield part, _asked(apis[part.provider], lambda api, part=part: api.retrieve(part.batch))

    def collect(self, apis: dict[int, BatchAPI], questions: dict[int, BatchQuestions]) -> Collected:
        """Store the answers of the parts that have ended.

        Raises:
            ScoringError: If the provider does not give them; the same step goes on.
        """
        told = Collected()
        for part, remote in self.look(apis):
            if remote.status == FAILED:
                part.state = COLLECTED
                told.open[f"batch failed: {remote.error}"] += part.lines
            elif remote.status in ENDED:
                one = _asked(
                    apis[part.provider],
                    lambda api, part=part, remote=remote: questions[part.provider].collect(
                        (line for name in remote.files for line in api.lines(name)), self.keys(part)
                    ),
                )
                final = {**self.final(part.provider), **one.final}
                _write(self.folder / f"final-{part.provider}.json", json.dumps(final).encode())
                part.state, part.answered, part.cost_usd = COLLECTED, one.answered, one.usage.cost_usd
                told.answered += one.answered
                told.usage += one.usage
                told.final |= one.final
                told.open += one.open
            else:
                continue
            self.save()
            (self.folder / f"{part.label}.keys").unlink(missing_ok=True)
        return told


class _Files:
    """Writes the lines of a provider into as few files as its API allows."""

    def __init__(self, job: Job, provider: int) -> None:
        self.job, self.provider = job, provider
        self.parts: list[Part] = []
        self._lines: list[bytes] = []
        self._keys: list[str] = []
        self._size, self._cost = 0, 0.0

    def add(self, key: str, line: bytes, cost: float) -> None:
        """Add a line."""
        if len(self._keys) == MOST_LINES or self._size + len(line) > MOST_BYTES:
            self._end()
        self._lines.append(line)
        self._keys.append(key)
        self._size += len(line)
        self._cost += cost

    def close(self) -> list[Part]:
        """The parts of all lines."""
        self._end()
        return self.parts

    def _end(self) -> None:
        if not self._keys:
            return
        part = Part(f"{self.job.name}-{len(self.job.parts) + len(self.parts)}", self.provider, len(self._keys))
        _write(self.job.requests_file(part), b"".join(self._lines))
        _write(self.job.folder / f"{part.label}.keys", "\n".join(self._keys).encode())
        part.estimated_usd = self._cost
        self.parts.append(part)
        self._lines, self._keys, self._size, self._cost = [], [], 0, 0.0


def apis_of(scorers: list[Any]) -> dict[int, BatchAPI]:
    """The batch API of each scorer.

    Raises:
        ScoringError: If one has none, or its key is missing.
    """
    return {number: batch_api(scorer.endpoint) for number, scorer in enumerate(scorers)}


def reasons_told(told: Collected) -> str:
    """Why questions have no answer, for people."""
    counts = Counter(told.final.values()) + told.open
    return "".join(f"\n    {count:,} x {reason}" for reason, count in counts.most_common(5))


def _asked(api: BatchAPI, question: Any) -> Any:
    try:
        return question(api)
    except Exception as error:
        if (reason := api.explain(error)) is None:
            raise
        raise ScoringError(f"The batch API does not answer ({reason}): the same command goes on.") from None


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
