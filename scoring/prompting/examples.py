"""Labelled examples for prompts: a balanced seeded choice, or the nearest neighbours of each text."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .prompts import Example

Pool = tuple[Sequence[str], Sequence[Any]]


def balanced_examples(pool: Pool, labels: Sequence[str], count: int, seed: int = 0) -> list[Example]:
    """Choose `count` distinct examples, as many of each class as possible, in an order that mixes the classes.

    Args:
        pool: Labelled `(texts, labels)`; a label is a class name or a list of them.
        labels: Class names.
        count: Examples wanted; fewer if the pool has no more.
        seed: Same seed, same pool: same examples.
    """
    order = list(range(len(pool[0])))
    rng = random.Random(seed)
    rng.shuffle(order)
    by_class: dict[str, list[int]] = {label: [] for label in labels}
    for i in order:
        for name in _names(pool[1][i]):
            by_class.setdefault(name, []).append(i)
    chosen: list[int] = []
    seen: set[str] = set()
    queues = [rows for rows in by_class.values() if rows]
    while queues and len(chosen) < count:
        for rows in list(queues):
            while rows and normalized(pool[0][rows[-1]]) in seen:
                rows.pop()
            if not rows:
                queues.remove(rows)
            elif len(chosen) < count:
                chosen.append(rows.pop())
                seen.add(normalized(pool[0][chosen[-1]]))
    rng.shuffle(chosen)
    return [_example(pool, i) for i in chosen]


class NearestExamples:
    """The labelled texts nearest to each queried text, most similar last (closest to the question).

    Method: KATE, Liu et al. 2022, "What Makes Good In-Context Examples for GPT-3?", arXiv:2101.06804.

    Args:
        pool: Labelled `(texts, labels)`; embedded once, at the first use.
        embed: `(list of n texts) -> float (n, d)`.
        count: Examples a text.
    """

    def __init__(self, pool: Pool, embed: Callable[[list[str]], Any], count: int) -> None:
        self.pool, self.embed, self.count = pool, embed, count
        self._vectors: NDArray[np.float32] | None = None
        self._normalized = np.asarray([normalized(t) for t in pool[0]], dtype=object)

    def __call__(self, texts: Sequence[str]) -> list[list[Example]]:
        """Examples for each of `texts`. A queried text and its duplicates are never among its own examples."""
        if self._vectors is None:
            self._vectors = _unit(self.embed(list(self.pool[0])), len(self.pool[0]))
        similarity = _unit(self.embed(list(texts)), len(texts)) @ self._vectors.T
        found = []
        for text, row in zip(texts, similarity, strict=True):
            row = np.where(self._normalized == normalized(text), -np.inf, row)
            chosen: list[int] = []
            seen: set[str] = set()
            for i in np.argsort(-row, kind="stable"):
                if len(chosen) == self.count or row[i] == -np.inf:
                    break
                if self._normalized[i] not in seen:  # the same example twice says nothing new
                    seen.add(self._normalized[i])
                    chosen.append(int(i))
            found.append([_example(self.pool, i) for i in reversed(chosen)])
        return found


def normalized(text: str) -> str:
    """`text` without differences of case and white space: equal for what counts as a duplicate."""
    return " ".join(text.casefold().split())


def _names(label: Any) -> list[str]:
    return [label] if isinstance(label, str) else list(label)


def _example(pool: Pool, i: int) -> Example:
    label = pool[1][i]
    return (
        {"text": pool[0][i], "label": label} if isinstance(label, str) else {"text": pool[0][i], "labels": list(label)}
    )


def _unit(vectors: Any, count: int) -> NDArray[np.float32]:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"`embed` returned shape {vectors.shape} for {count} texts; expected ({count}, d).")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
