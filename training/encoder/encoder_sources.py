"""Additional classifiers of the encoder's side: the TF-IDF head on its tokens, and the kernel head."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.heads import PAIR_BUCKETS, KernelHead, lexical_ids
from .probe import best_penalty, fit_probe, penalty_path

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from ...modeling_labelfusion.encoding import TextEncoder

# Penalties on the weights of words, from strong to weak; each fit starts from the previous one.
LEXICAL_PENALTIES = (0.3, 0.03, 0.01)
KERNEL_PENALTIES = (300.0, 30.0, 3.0)
LANDMARKS = 1000


@dataclass
class Source:
    """A classifier fitted on all rows, and its out-of-fold logits `(n, K)`."""

    out_of_fold_logits: torch.Tensor
    loss: float


@dataclass
class Words(Source):
    """The TF-IDF head: float32 `(lexical_size + 1, K + 1)` as in `LexicalHead`, and a bias `(K,)`."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass
class Neighbours(Source):
    """The kernel head, and a bias float32 `(K,)`."""

    head: KernelHead
    bias: torch.Tensor


def fit_neighbours(
    embeddings: torch.Tensor, labels: torch.Tensor, folds: NDArray[np.int64], num_labels: int, multi_label: bool
) -> Neighbours:
    """Fit the kernel head: a probe on kernel features of `LANDMARKS` random rows.

    Args:
        embeddings: float32 `(n, hidden)`.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)` from `assign_folds`.
        num_labels: K.
        multi_label: Whether the classes are independent.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(embeddings), generator=generator)[:LANDMARKS]
    head = KernelHead(embeddings.shape[1], len(rows), num_labels)
    with torch.no_grad():
        head.center.copy_(embeddings.mean(dim=0))
        head.landmarks.copy_(torch.nn.functional.normalize(embeddings[rows] - head.center, dim=-1))
        values, vectors = torch.linalg.eigh(head.similarity(embeddings[rows]))
        keep = values > 1e-4 * values.max()
        whiten = vectors[:, keep] / values[keep].sqrt()
        probe = fit_probe(
            head.similarity(embeddings) @ whiten, labels, folds, num_labels, multi_label, KERNEL_PENALTIES
        )
        head.weight.copy_(whiten @ probe.weight.T)
    return Neighbours(probe.out_of_fold_logits, probe.loss, head, probe.bias)


def fit_words(
    bags: list[NDArray[np.int64]],
    labels: torch.Tensor,
    folds: NDArray[np.int64],
    lexical_size: int,
    num_labels: int,
    multi_label: bool,
) -> Words:
    """Fit the TF-IDF head: a logistic regression on tf-idf of the words that occur in at least two texts.

    Args:
        bags: Rows of the TF-IDF head for each text, from `bags_of_words`.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)` from `assign_folds`.
        lexical_size: Number of rows of the TF-IDF head.
        num_labels: K.
        multi_label: Whether the classes are independent.
    """

    def unseen(fold: int) -> Iterator[torch.Tensor]:
        train, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        known, idf = _vocabulary([bags[i] for i in train], lexical_size)
        features = _tf_idf([bags[i] for i in train], known, idf)
        there = _tf_idf([bags[i] for i in held_out], known, idf)
        for w, b in _path(features, labels[train], num_labels, multi_label, LEXICAL_PENALTIES):
            yield torch.from_numpy(there @ w.numpy().T) + b

    logits, best, loss = best_penalty(unseen, labels, folds, num_labels, multi_label)
    known, idf = _vocabulary(bags, lexical_size)
    features = _tf_idf(bags, known, idf)
    *_, (w, b) = _path(features, labels, num_labels, multi_label, LEXICAL_PENALTIES[: best + 1])
    weight = torch.zeros(lexical_size + 1, num_labels + 1)
    columns = torch.from_numpy(np.flatnonzero(known >= 0))
    weight[columns] = torch.cat([w.T * idf[:, None], idf[:, None].square()], dim=1)
    return Words(logits, loss, weight, b)


def bags_of_words(encoder: "TextEncoder", texts: list[str]) -> tuple[list[NDArray[np.int64]], int]:
    """Compute the rows of the TF-IDF head for each text, and the size of that head."""
    size = len(encoder.model.get_input_embeddings().weight) + PAIR_BUCKETS  # type: ignore[arg-type]
    bags = []
    for batch in encoder.token_batches(texts):
        for ids in lexical_ids(batch["input_ids"], batch["attention_mask"], size).numpy():
            bags.append(ids[ids < size])
    return bags, size


def _vocabulary(bags: list[NDArray[np.int64]], lexical_size: int) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Column of each word, `(lexical_size,)`, -1 for words in fewer than two texts; and the idf of the columns."""
    texts_with = np.bincount(np.concatenate(bags), minlength=lexical_size)
    known = np.where(texts_with >= 2, np.cumsum(texts_with >= 2) - 1, -1)
    idf = np.log((1 + len(bags)) / (1 + texts_with[known >= 0])) + 1
    return known, torch.from_numpy(idf).float()


def _tf_idf(bags: list[NDArray[np.int64]], known: NDArray[np.int64], idf: torch.Tensor) -> "csr_array":
    """Sparse float32 `(n, words)`, rows of length 1."""
    from scipy.sparse import csr_array
    from sklearn.preprocessing import normalize

    columns = [known[bag][known[bag] >= 0] for bag in bags]
    place, ends = np.concatenate(columns), np.cumsum([0, *(len(c) for c in columns)])
    return normalize(csr_array((idf.numpy()[place], place, ends), shape=(len(bags), len(idf))), copy=False)


def _path(
    x: "csr_array", y: torch.Tensor, num_labels: int, multi_label: bool, penalties: tuple[float, ...]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    transposed = x.T.tocsr()

    class Product(torch.autograd.Function):  # SciPy's is about ten times faster than torch's sparse product
        @staticmethod
        def forward(ctx: Any, w: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(x @ w.numpy().T)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return torch.from_numpy(transposed @ grad.numpy()).T

    return penalty_path(Product.apply, x.shape[1], y, num_labels, multi_label, penalties, max_iter=40)
