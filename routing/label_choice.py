"""Selects the texts that are worth labelling next: doubtful ones that stand for others, or typical ones."""

import numpy as np
from numpy.typing import NDArray

from .gate import expected_error, uncertainty
from .out_of_distribution import doubted

CANDIDATES = 10_000  # most doubtful texts that are compared with each other
SHARPNESS = 2.0  # of the kernel between two directions
NEIGHBOURS = 20  # nearest texts of a cluster by which a text counts as typical
MOST_CLUSTERED = 20_000  # texts that are clustered; of more, a random sample


def directions(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Centre embeddings and scale them to length 1. Embeddings share a large part, which makes all texts look alike.

    Args:
        embeddings: float `(n, hidden_size)`.

    Returns:
        float32 `(n, hidden_size)`.
    """
    points = np.asarray(embeddings, dtype=np.float32)
    points = points - points.mean(axis=0)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-9), dtype=np.float32)


def doubt(
    probs: NDArray[np.floating],
    sources: NDArray[np.floating],
    novelty: NDArray[np.floating] | None,
    multi_label: bool,
) -> NDArray[np.float64]:
    """How doubtful the answer about each text is.

    The mean of two doubts: that of the fusion, whose probabilities are shrunk for out-of-distribution texts, and, where
    two sources or more have answered, that of the mean of all sources, which is high where they disagree (query by
    committee: Seung et al. 1992; its soft form: McCallum and Nigam 1998).

    Args:
        probs: float `(n, K)` of the fusion.
        sources: float `(n, S, K)` of encoder and LLMs, NaN for a source without an answer.
        novelty: float `(n,)`, see `doubted`.
        multi_label: Whether the classes are independent.

    Returns:
        float64 `(n,)` in [0, 1]. Single-label: 1 minus the margin between the two best classes; multi-label: the
        probability that a class is wrong.
    """
    measure = expected_error if multi_label else uncertainty
    own = measure(doubted(probs, novelty, multi_label), multi_label)
    answered = ~np.isnan(sources).any(axis=2)
    count = answered.sum(axis=1)
    mean = np.where(answered[..., None], sources, 0.0).sum(axis=1) / np.maximum(count, 1)[:, None]
    together = np.where(count > 1, measure(mean, multi_label), own)
    return np.asarray((own + together) / 2)


def informative(
    points: NDArray[np.float32],
    doubts: NDArray[np.float64],
    n: int,
    labelled: NDArray[np.float32] | None = None,
) -> NDArray[np.int64]:
    """Choose doubtful texts that stand for many others, and not for the same ones.

    Greedy maximisation of facility location, which reaches at least 1 - 1/e of the best value (Nemhauser et al. 1978),
    with gains weighted by doubt; for batches to label see Wei, Iyer and Bilmes 2015, "Submodularity in data subset
    selection and active learning". The gain of a text is its squared doubt times its coverage: the sum over all texts
    of how much more similar it is to them than what is chosen or labelled so far.

    Args:
        points: float32 `(N, d)`: see `directions`.
        doubts: float64 `(N,)`: see `doubt`.
        n: Number of texts to choose, at most N.
        labelled: float32 `(L, d)`: texts that are labelled already.

    Returns:
        int64 `(n,)`: rows, the best first.
    """
    rows = np.argsort(-doubts, kind="stable")[: max(CANDIDATES, n)]
    candidates, weight = points[rows], np.maximum(doubts[rows].astype(np.float32), 1e-6) ** 2
    covered = np.zeros(len(rows), dtype=np.float32)
    for part in _parts(np.zeros((0, points.shape[1]), dtype=np.float32) if labelled is None else labelled):
        covered = np.maximum(covered, _kernel(candidates, part).max(axis=1))
    chosen: list[int] = []
    gains = weight * np.concatenate([_coverage(part, candidates, covered) for part in _parts(candidates)])
    while len(chosen) < n:
        # Coverage only falls while texts are chosen: the best text is one whose gain stays the largest when updated.
        while True:
            best = int(gains.argmax())
            gains[best] = weight[best] * _coverage(candidates[best : best + 1], candidates, covered)[0]
            if gains[best] >= gains.max():
                break
        chosen.append(best)
        covered = np.maximum(covered, _kernel(candidates, candidates[best : best + 1])[:, 0])
        gains[best] = -1.0
    return rows[chosen]


def typical(
    points: NDArray[np.float32], n: int, labelled: NDArray[np.float32] | None = None, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose typical texts of all kinds, for a first set of labels: TypiClust (Hacohen et al. 2022, arXiv:2202.02794).

    k-means makes as many clusters as there are texts to choose and labelled ones. From the largest clusters without a
    labelled text, the text that is nearest to its neighbours is chosen.

    Args:
        points: float32 `(N, d)`: see `directions`.
        n: Number of texts to choose, at most N.
        labelled: float32 `(L, d)`: texts that are labelled already.
        seed: Seed of k-means.

    Returns:
        int64 `(n,)`: rows, those of the largest clusters first; int64 `(n,)`: sizes of their clusters, among the texts
        that were clustered.
    """
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(seed)
    rows = np.arange(len(points))
    if len(rows) > max(MOST_CLUSTERED, n):
        rows = np.sort(rng.permutation(len(rows))[: max(MOST_CLUSTERED, n)])
    known = np.zeros((0, points.shape[1]), dtype=np.float32) if labelled is None else labelled
    together = np.concatenate([points[rows], known])
    count = min(n + len(known), len(np.unique(together, axis=0)))
    cluster = KMeans(count, n_init=1, random_state=seed).fit(together).labels_
    own, taken = cluster[: len(rows)], np.bincount(cluster[len(rows) :], minlength=count)
    size = np.bincount(own, minlength=count)
    chosen: list[int] = []
    left = np.ones(len(rows), dtype=bool)
    while len(chosen) < n:
        for k in np.lexsort((-size, taken)):
            members = np.flatnonzero((own == k) & left)
            if len(members) and len(chosen) < n:
                chosen.append(int(members[_most_typical(points[rows[members]])]))
                left[chosen[-1]] = False
    return rows[chosen], size[own[chosen]]


def _most_typical(points: NDArray[np.float32]) -> int:
    """The point with the smallest mean distance to its nearest neighbours."""
    sample = points[:: max(1, len(points) // 1000)]
    distances = np.sqrt(np.maximum(2.0 - 2.0 * points @ sample.T, 0.0))
    near = np.sort(distances, axis=1)[:, : NEIGHBOURS + 1]
    return int(near.mean(axis=1).argmin())


def _parts(points: NDArray[np.float32], size: int = 512) -> list[NDArray[np.float32]]:
    return [points[start : start + size] for start in range(0, len(points), size)]


def _kernel(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 `(n, m)` in (0, 1]: similarity of directions `(n, d)` and `(m, d)`."""
    return np.asarray(np.exp(SHARPNESS * (a @ b.T - 1.0)))


def _coverage(
    some: NDArray[np.float32], candidates: NDArray[np.float32], covered: NDArray[np.float32]
) -> NDArray[np.float32]:
    """float32 `(m,)`: how much more similar to the candidates each of m texts is than what covers them."""
    return np.asarray(np.maximum(_kernel(some, candidates) - covered, 0.0).sum(axis=1))
