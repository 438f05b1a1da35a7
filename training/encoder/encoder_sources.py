"""The step of the recipe that stacks more classifiers on the encoder's linear head: a TF-IDF head and a kernel head."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...configuration import Task
from ...modeling_labelfusion.heads import PAIR_BUCKETS, KernelHead, lexical_ids
from ..losses import Targets, log_loss, minimize
from .penalty_path import Features, cross_fit, penalty_path
from .probe import fit_probe

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ...modeling_labelfusion.encoding import TextEncoder
    from ..fit_state import FitState

FEWEST_ROWS = 100  # with fewer, the TF-IDF head and the kernel head were never better than the probe alone
LEAST_WEIGHT = 0.02
# Penalties on the weights of words, from strong to weak; each fit starts from the previous one.
LEXICAL_PENALTIES = (0.3, 0.03, 0.01)
LEXICAL_TOLERANCE = 0.01  # finer weights of rare words take long, and were no better on held-out rows
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


def stack_sources(state: "FitState") -> "FitState":
    """Fit the TF-IDF head, and the kernel head if the encoder is frozen; weight them by stacking out-of-fold logits."""
    if not state.options.extra_sources or len(state.texts) < FEWEST_ROWS:
        return state
    targets, folds, rows = state.targets, state.folds, torch.from_numpy(state.covered)
    others: list[Words | Neighbours] = []
    if state.frozen:
        own = state.embeddings[:, : state.config.hidden_size]
        others.append(fit_neighbours(own, targets, folds, state.task))
    bags, size = bags_of_words(state.encoder, state.texts)
    words = fit_words(bags, targets, folds, size, state.task)
    others.append(words)
    logits, weights = combine(state.model, state.encoder_logits, others, targets, rows)
    losses = {type(source).__name__.lower(): source.loss for source in others}
    losses["together"] = float(log_loss(logits[rows], targets[rows], state.task.multi_label).mean())
    rounded = {name: round(loss, 5) for name, loss in losses.items()}
    return replace(state.told(encoder_log_loss=rounded, encoder_weights=weights), encoder_logits=logits, words=words)


def stack(sources: list[torch.Tensor], labels: Targets, multi_label: bool) -> list[float]:
    """Fit non-negative weights for a sum of sources (Wolpert 1992, "Stacked generalization").

    Args:
        sources: Logits float32 `(n, K)`, out-of-fold.
        labels: int64 `(n,)` or float32 `(n, K)`.
        multi_label: Whether the classes are independent.
    """
    logits = torch.stack(sources)
    roots = torch.full((len(sources), 1, 1), len(sources) ** -0.5, requires_grad=True)

    def objective() -> torch.Tensor:
        prior = (roots.square() - 1 / len(sources)).square().sum()
        return log_loss((roots.square() * logits).sum(dim=0), labels, multi_label).mean() + 0.5 * prior / len(labels)

    minimize(objective, [roots])
    weights = roots.detach().square().flatten().tolist()
    return [w if w >= LEAST_WEIGHT else 0.0 for w in weights]


def combine(
    model: "LabelFusionForSequenceClassification",
    own_logits: torch.Tensor,
    others: list[Words | Neighbours],
    labels: Targets,
    rows: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Set the heads of the model to the weighted sum of its linear head and other sources.

    Args:
        model: Changed in place.
        own_logits: Out-of-sample logits float32 `(n, K)` of its linear head.
        others: The other sources.
        labels: int64 `(n,)` or float32 `(n, K)`.
        rows: bool `(n,)`: rows with known `own_logits`, on which the weights are fitted.

    Returns:
        Out-of-sample logits float32 `(n, K)` of the sum, and the weight of each source.
    """
    logits = [own_logits, *(source.out_of_fold_logits for source in others)]
    own, *weights = stack([x[rows] for x in logits], labels[rows], model.config.multi_label)
    chosen = [(w, source) for w, source in zip(weights, others, strict=True) if w]
    model.set_heads(
        lexical_size=sum(len(s.weight) - 1 for _, s in chosen if isinstance(s, Words)),
        kernel_size=sum(len(s.head.landmarks) for _, s in chosen if isinstance(s, Neighbours)),
    )
    with torch.no_grad():
        model.encoder_head.weight.mul_(own)
        model.encoder_head.bias.mul_(own)
        for w, source in chosen:
            model.encoder_head.bias.add_(w * source.bias.to(model.device))
            if isinstance(source, Words):
                assert model.lexical_head is not None
                model.lexical_head.weight.copy_(source.weight)
                model.lexical_head.weight[:, :-1].mul_(w)
            else:
                assert model.kernel_head is not None
                model.kernel_head.load_state_dict(source.head.state_dict())
                model.kernel_head.weight.mul_(w)
    total = torch.stack([w * x for w, x in zip([own, *weights], logits, strict=True)]).sum(dim=0)
    names = ["encoder", *(type(source).__name__.lower() for source in others)]
    return total, {name: round(w, 3) for name, w in zip(names, [own, *weights], strict=True)}


def fit_neighbours(embeddings: torch.Tensor, labels: Targets, folds: NDArray[np.int64], task: Task) -> Neighbours:
    """Fit the kernel head: a probe on kernel features of `LANDMARKS` random rows.

    Args:
        embeddings: float32 `(n, hidden)`.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)` from `assign_folds`.
        task: The K classes.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(embeddings), generator=generator)[:LANDMARKS]
    head = KernelHead(embeddings.shape[1], len(rows), task.num_labels)
    with torch.no_grad():
        head.center.copy_(embeddings.mean(dim=0))
        head.landmarks.copy_(torch.nn.functional.normalize(embeddings[rows] - head.center, dim=-1))
        values, vectors = torch.linalg.eigh(head.similarity(embeddings[rows]))
        keep = values > 1e-4 * values.max()
        whiten = vectors[:, keep] / values[keep].sqrt()
        probe = fit_probe(head.similarity(embeddings) @ whiten, labels, folds, task, KERNEL_PENALTIES)
        head.weight.copy_(whiten @ probe.weight.T)
    return Neighbours(probe.out_of_fold_logits, probe.loss, head, probe.bias)


def fit_words(
    bags: list[NDArray[np.int64]],
    labels: Targets,
    folds: NDArray[np.int64],
    lexical_size: int,
    task: Task,
) -> Words:
    """Fit the TF-IDF head: a logistic regression on tf-idf of the words that occur in at least two texts.

    Args:
        bags: Rows of the TF-IDF head for each text, from `bags_of_words`.
        labels: int64 `(n,)` or float32 `(n, K)`.
        folds: int64 `(n,)` from `assign_folds`.
        lexical_size: Number of rows of the TF-IDF head.
        task: The K classes.
    """

    from scipy.sparse import csr_array

    ends = np.cumsum([0, *(len(bag) for bag in bags)])
    there = np.concatenate(bags)
    columns = np.flatnonzero(np.bincount(there, minlength=lexical_size) >= 2)
    place = np.full(lexical_size, -1, dtype=np.int64)
    place[columns] = np.arange(len(columns))
    used = place[there] >= 0
    ends = np.concatenate([[0], np.cumsum(used)])[ends]
    counts = csr_array((np.ones(ends[-1], dtype=np.float32), place[there[used]], ends), shape=(len(bags), len(columns)))

    def without(group: list[int]) -> Features:
        return _tf_idf(counts, torch.from_numpy(folds[:, None] != np.array(group)))

    found = cross_fit(without, labels, folds, task, LEXICAL_PENALTIES, LEXICAL_TOLERANCE)
    seen, penalty = torch.ones(len(bags), 1, dtype=torch.bool), LEXICAL_PENALTIES[found.best]
    features = _tf_idf(counts, seen)
    *_, (w, _) = penalty_path(features, labels, seen, task, (penalty,), LEXICAL_TOLERANCE, found.weights)
    idf = _idf(counts, seen)
    weight = torch.zeros(lexical_size + 1, task.num_labels + 1)
    weight[torch.from_numpy(columns)] = torch.cat([w[:-1, 0] * idf, idf.square()], dim=1)
    return Words(found.logits, found.loss, weight, w[-1, 0])


def bags_of_words(encoder: "TextEncoder", texts: list[str]) -> tuple[list[NDArray[np.int64]], int]:
    """Compute the rows of the TF-IDF head for each text, and the size of that head."""
    size = len(encoder.model.get_input_embeddings().weight) + PAIR_BUCKETS  # type: ignore[arg-type]
    bags = []
    for batch in encoder.token_batches(texts):
        for ids in lexical_ids(batch["input_ids"], batch["attention_mask"], size).numpy():
            bags.append(ids[ids < size])
    return bags, size


def _idf(counts: "csr_array", seen: torch.Tensor) -> torch.Tensor:
    """float32 `(words, fits)`: idf among the rows of each fit, 0 for words in fewer than two of them."""
    texts_with = torch.from_numpy(counts.T @ seen.float().numpy())
    return torch.where(texts_with >= 2, ((1 + seen.sum(dim=0)) / (1 + texts_with)).log() + 1, 0.0)


def _tf_idf(counts: "csr_array", seen: torch.Tensor) -> Features:
    """Rows of length 1, for fits on the rows `seen`, bool `(n, fits)`; `counts` `(n, words)` has zeros and ones."""
    transposed, idf = counts.T.tocsr(), _idf(counts, seen)
    # SciPy's sparse product is about ten times faster than torch's.
    lengths = torch.from_numpy(counts @ idf.square().numpy())
    norms = torch.where(lengths > 0, lengths.rsqrt(), 0.0)

    def product(matrix: "csr_array", x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(matrix @ x.reshape(len(x), -1).numpy()).view(-1, *x.shape[1:])

    def forward(weights: torch.Tensor) -> torch.Tensor:
        return norms[:, :, None] * product(counts, idf[:, :, None] * weights)

    def backward(errors: torch.Tensor) -> torch.Tensor:
        return idf[:, :, None] * product(transposed, norms[:, :, None] * errors)

    squares = idf.square() * torch.from_numpy(transposed @ (norms.square() * seen).numpy())
    return Features(forward, backward, squares / seen.sum(dim=0))
