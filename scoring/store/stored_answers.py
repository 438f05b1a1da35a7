"""What a score store holds: answers under the hash of their question, and the interface of every store."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

METHOD_S = 7 * 86400.0  # for how long the choice of `auto` is remembered
RECORD = ("key", "model", "method", "scores", "prompt_tokens", "completion_tokens", "cost_usd", "created")
Record = tuple[bytes, str, str, bytes, int, int, float, float]  # in this order; scores as bytes of float32


@dataclass(frozen=True)
class Answer:
    """One text's answer as it is stored.

    Args:
        key: Hash of the question, 32 bytes.
        scores: float32 `(K,)`.
        model: Model name, for `labelfusion cache info`.
        method: How it was obtained.
        prompt_tokens: Share of the request's tokens.
        completion_tokens: Likewise.
        cost_usd: Likewise, US dollars.
    """

    key: bytes
    scores: NDArray[np.float32]
    model: str
    method: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


@dataclass
class Look:
    """What is known about some questions.

    Args:
        found: Scores, float32 `(K,)`, of those that are stored.
        free: Keys that are not claimed; after `ScoreStore.claim`, those that are claimed now.
        taken: Keys that other processes have claimed.
    """

    found: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    free: set[bytes] = field(default_factory=set)
    taken: set[bytes] = field(default_factory=set)


def question_key(question: Mapping[str, Any]) -> bytes:
    """SHA-256 of everything that the answer depends on."""
    return hashlib.sha256(json.dumps(question, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).digest()


class StoreBusyError(Exception):
    """Another writer is in the way, or the store is not to be waited for here."""


def sound_scores(
    rows: Sequence[tuple[Any, Any]], num_labels: int | None = None, sums_to_one: bool = False
) -> dict[bytes, NDArray[np.float32]]:
    """`{key: scores}` of the rows `(key, bytes)` that can be right.

    Args:
        rows: Keys and scores as a store holds them.
        num_labels: K, where it is known.
        sums_to_one: Whether the scores of a text must sum to 1.
    """
    size = 4 * num_labels if num_labels else len(rows[0][1]) if rows and isinstance(rows[0][1], bytes) else 0
    sound = {
        key: blob for key, blob in rows if isinstance(blob, bytes) and blob and len(blob) % 4 == 0
        and (num_labels is None or len(blob) == size)
    }  # fmt: skip
    if not all(len(blob) == size for blob in sound.values()) or not sound:
        tables = {key: np.frombuffer(blob, dtype=np.float32) for key, blob in sound.items()}
        return {key: row for key, row in tables.items() if ((row >= 0) & (row <= 1 + 1e-6)).all()}
    table = np.frombuffer(b"".join(sound.values()), dtype=np.float32).reshape(len(sound), -1)
    right = np.asarray(((table >= 0) & (table <= 1 + 1e-6)).all(axis=1))  # False for NaN
    if sums_to_one:
        right &= np.abs(table.sum(axis=1) - 1) < 1e-3
    return {key: row for key, row, good in zip(sound, table, right.tolist(), strict=True) if good}


def as_records(answers: Iterable[Answer], created: float) -> list[Record]:
    """Answers as a store holds them."""
    return [
        (a.key, a.model, a.method, np.asarray(a.scores, dtype=np.float32).tobytes(),
         a.prompt_tokens, a.completion_tokens, a.cost_usd, created)
        for a in answers
    ]  # fmt: skip


@runtime_checkable
class Store(Protocol):
    """A score store. Every method may raise a `ScoringError` that names the store, without a password.

    A method that takes `wait` raises `StoreBusyError` instead of waiting, unless it is to `wait`.

    `path` names the store for people, `identity` tells stores apart within a process, and `written` counts the answers
    that this process has stored, by path.
    """

    path: str
    written: ClassVar[Counter[str]]

    @property
    def identity(self) -> object: ...  # noqa: D102

    def get_many(
        self, keys: Sequence[bytes], num_labels: int | None = None, sums_to_one: bool = False
    ) -> dict[bytes, NDArray[np.float32]]:
        """Scores, float32 `(K,)`, of the keys that are stored. Damaged ones count as not stored."""
        ...

    def look(self, keys: Sequence[bytes], owner: str, num_labels: int | None = None, sums_to_one: bool = False) -> Look:
        """What is known about `keys`; what `owner` has claimed is free for it."""
        ...

    def claim(
        self,
        keys: Sequence[bytes],
        owner: str,
        num_labels: int | None = None,
        sums_to_one: bool = False,
        wait: bool = True,
    ) -> Look:
        """`look`, and claim what is free, at one moment. A claim ends with the answer, `release`, or its time."""
        ...

    def extend(self, keys: Iterable[bytes], owner: str, wait: bool = True) -> None:
        """The claims of a living owner last longer."""
        ...

    def release(self, keys: Iterable[bytes], owner: str, wait: bool = True) -> None:
        """End claims without an answer."""
        ...

    def put_many(self, answers: Iterable[Answer], owner: str = "", wait: bool = True) -> None:
        """Store `answers` and end the claims of `owner` on them. They survive the death of the process from then on."""
        ...

    def records(self) -> Iterator[list[Record]]:
        """All answers, some thousand at a time, in order of their keys. Damaged ones are left out."""
        ...

    def add_records(self, records: Sequence[Record]) -> int:
        """Add answers of another store; those that are there stay. Returns: how many were added."""
        ...

    def get_method(self, key: bytes) -> str | None:
        """The method that `auto` found for a model within the last days; servers change."""
        ...

    def put_method(self, key: bytes, model: str, method: str) -> None:
        """Remember what `auto` found for a model."""
        ...

    def methods(self) -> list[dict[str, Any]]:
        """What `auto` has found: model, method, and when."""
        ...

    def forget_methods(self, key: bytes | None = None) -> int:
        """Forget what `auto` has found: of one model, or all. Returns: how many choices that were."""
        ...

    def info(self) -> list[dict[str, Any]]:
        """For each model and method: answers, tokens, dollars, time of the first and the last."""
        ...

    def clear(self, model: str | None = None, before: float | None = None) -> int:
        """Delete answers, of one `model` or older than the time `before` if given, what `auto` remembers, and claims.

        Returns:
            The number of answers deleted.
        """
        ...

    def close(self) -> None:
        """Close it."""
        ...


def exported(records: Iterable[list[Record]]) -> Iterator[dict[str, Any]]:
    """Answers as plain dicts; `key` in hexadecimal."""
    for batch in records:
        for row in batch:
            record: dict[str, Any] = dict(zip(RECORD, row, strict=True))
            record["key"] = row[0].hex()
            record["scores"] = [round(float(score), 6) for score in np.frombuffer(row[3], dtype=np.float32)]
            yield record
