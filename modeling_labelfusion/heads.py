"""What stands beside and after the linear head on the encoder's side: words, labelled and known texts, label sets."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

PAIR_BUCKETS = 2**15  # rows that pairs of tokens are hashed into
PAIR_PRIME = 1_000_003


def lexical_ids(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, lexical_size: int) -> torch.Tensor:
    """The distinct tokens and pairs of neighbouring tokens of each text, as rows of the lexical head.

    Args:
        input_ids: int64 `(batch, sequence)`.
        attention_mask: `(batch, sequence)`, 1 for tokens; `None`: all are.
        lexical_size: Rows: one for each token of the vocabulary, then `PAIR_BUCKETS` for pairs.

    Returns:
        int64 `(batch, 2 * sequence - 1)`, sorted, `lexical_size` where there is nothing or a repetition.
    """
    valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    pairs = input_ids[:, :-1] * PAIR_PRIME + input_ids[:, 1:]
    pairs = lexical_size - PAIR_BUCKETS + pairs % PAIR_BUCKETS
    ids = torch.cat([input_ids, pairs], dim=1)
    there = torch.cat([valid, valid[:, :-1] * valid[:, 1:]], dim=1) > 0
    ids = torch.where(there, ids, lexical_size).sort(dim=1).values
    repeated = F.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
    return torch.where(repeated, lexical_size, ids)


class LexicalHead(nn.Module):
    """A linear classifier on the words of a text: tokens and hashed token pairs, each counted once, weighted by idf.

    `logits = sum_t idf_t w_t / sqrt(sum_t idf_t^2)`. Topics show in words that a compact embedding forgets; with some
    hundred texts or more this is a source that errs elsewhere than the encoder (Wang and Manning 2012, "Baselines and
    Bigrams"; feature hashing: Weinberger et al. 2009, arXiv:0902.2206).

    Args:
        lexical_size: Tokens of the vocabulary and `PAIR_BUCKETS`.
        num_labels: K.
    """

    def __init__(self, lexical_size: int, num_labels: int) -> None:
        super().__init__()
        self.lexical_size = lexical_size
        # `idf w` of each class and, in the last column, `idf^2`; the last row stands for nothing.
        self.weight = nn.Parameter(torch.zeros(lexical_size + 1, num_labels + 1), requires_grad=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits, float `(batch, num_labels)`, of int64 `(batch, sequence)` token ids."""
        ids = lexical_ids(input_ids, attention_mask, self.lexical_size)
        total = F.embedding(ids, self.weight).sum(dim=1)
        return total[:, :-1] / total[:, -1:].clamp_min(1e-6).sqrt()


class KernelHead(nn.Module):
    """A classifier on the nearness of an embedding to some labelled ones, its landmarks.

    `logits = k(embedding, landmarks) weight` with a Gaussian kernel on directions from the centre: the labelled
    neighbours vote, those nearby count most (Nystroem's approximation: Williams and Seeger 2001).

    Args:
        hidden_size: Width of the embedding.
        num_landmarks: Embeddings of training texts that are kept.
        num_labels: K.
    """

    def __init__(self, hidden_size: int, num_landmarks: int, num_labels: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        self.landmarks = nn.Parameter(torch.zeros(num_landmarks, hidden_size), requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(num_landmarks, num_labels), requires_grad=False)

    def similarity(self, embedding: torch.Tensor) -> torch.Tensor:
        """The kernel, float `(batch, num_landmarks)` in (0, 1], of float `(batch, hidden_size)` embeddings."""
        directions = F.normalize(embedding - self.center, dim=-1)
        return torch.exp(2 * (directions @ self.landmarks.T - 1))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Logits, float `(batch, num_labels)`."""
        return self.similarity(embedding) @ self.weight


class NoveltyHead(nn.Module):
    """How far an embedding lies from those of the training texts: 0 for one like them, 1 for one beyond them all.

    `clip(scale |z|^2 - |directions z|^2 - offset, 0, 1)` with `z = embedding - center`: a Mahalanobis distance (Lee et
    al. 2018, arXiv:1807.03888) without classes, its covariance one of principal components and a rest that has the same
    variance in all other directions (Tipping and Bishop 1999). What lies in that rest is what the texts have that the
    training texts have not.

    Args:
        hidden_size: Width of the embedding.
        num_directions: Principal components that are kept.
    """

    def __init__(self, hidden_size: int, num_directions: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        self.directions = nn.Parameter(torch.zeros(num_directions, hidden_size), requires_grad=False)
        self.scale = nn.Parameter(torch.zeros(2), requires_grad=False)  # of the distance; then the offset

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """float `(batch, 1)` in [0, 1], of float `(batch, hidden_size)` embeddings."""
        z = embedding.float() - self.center.float()  # a difference of squares: half precision would lose it
        with torch.autocast(z.device.type, enabled=False):
            along = (z @ self.directions.float().T).square().sum(dim=1, keepdim=True)
        scale, offset = self.scale.float()
        return (scale * z.square().sum(dim=1, keepdim=True) - along - offset).clamp(0.0, 1.0).to(embedding)


class LabelSetHead(nn.Module):
    """What classes that come together, or exclude each other, say of one another, in multi-label classification.

    Each set of labels that the training texts have gets the score `sets @ (scale * logits) + bias`, a softmax over the
    sets makes probabilities of them, and a class has the sum of those of its sets: a conditional random field in which
    inference is exact (Ghamrawi and McCallum 2005, "Collective multi-label classification", with supported inference).

    Args:
        num_sets: Sets of labels.
        num_labels: K.
    """

    def __init__(self, num_sets: int, num_labels: int) -> None:
        super().__init__()
        self.sets = nn.Parameter(torch.zeros(num_sets, num_labels), requires_grad=False)
        self.scale = nn.Parameter(torch.zeros(num_labels), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(num_sets), requires_grad=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits, float `(batch, num_labels)`, of such logits that were found class by class."""
        sets = self.sets.float()
        shares = torch.addmm(self.bias.float(), logits.float() * self.scale.float(), sets.T).softmax(dim=-1)
        known = (shares @ torch.cat([sets, 1.0 - sets], dim=1)).clamp_min(1e-9).log()
        with_class, without = known.chunk(2, dim=1)
        return (with_class - without).to(logits)


# By the name of their size in the config; from that size, the width of the embedding and the number of classes.
HEADS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "lexical_size": lambda size, hidden_size, num_labels: LexicalHead(size, num_labels),
    "kernel_size": lambda size, hidden_size, num_labels: KernelHead(hidden_size, size, num_labels),
    "novelty_size": lambda size, hidden_size, num_labels: NoveltyHead(hidden_size, size),
    "label_set_size": lambda size, hidden_size, num_labels: LabelSetHead(size, num_labels),
}
