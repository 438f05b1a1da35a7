"""Additional heads: TF-IDF (lexical), kernel, out-of-distribution score (novelty), label sets, and the quick head."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

PAIR_BUCKETS = 2**15  # hash buckets for pairs of tokens
PAIR_PRIME = 1_000_003


def lexical_ids(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, lexical_size: int) -> torch.Tensor:
    """Map each text to the rows of the lexical head for its distinct tokens and pairs of adjacent tokens.

    Args:
        input_ids: int64 `(batch, sequence)`.
        attention_mask: `(batch, sequence)`, 1 for tokens; `None`: no padding.
        lexical_size: Number of rows: one per token of the vocabulary, then `PAIR_BUCKETS` for pairs.

    Returns:
        int64 `(batch, 2 * sequence - 1)`, sorted, with `lexical_size` for padding and repetitions.
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
    """A linear classifier on tokens and hashed token pairs, each counted once per text and weighted by idf.

    `logits = sum_t idf_t w_t / sqrt(sum_t idf_t^2)`. Words carry topic information that a compact embedding loses. With
    a few hundred training texts or more, the errors of this head differ from those of the encoder (Wang and Manning
    2012, "Baselines and Bigrams"; feature hashing: Weinberger et al. 2009, arXiv:0902.2206).

    Args:
        lexical_size: Tokens of the vocabulary and `PAIR_BUCKETS`.
        num_labels: K.
    """

    def __init__(self, lexical_size: int, num_labels: int) -> None:
        super().__init__()
        self.lexical_size = lexical_size
        # Columns: `idf w` of each class, then `idf^2`. The last row is for padding and repetitions.
        self.weight = nn.Parameter(torch.zeros(lexical_size + 1, num_labels + 1), requires_grad=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map int64 `(batch, sequence)` token ids to float `(batch, num_labels)` logits."""
        ids = lexical_ids(input_ids, attention_mask, self.lexical_size)
        total = F.embedding(ids, self.weight).sum(dim=1)
        return total[:, :-1] / total[:, -1:].clamp_min(1e-6).sqrt()


class KernelHead(nn.Module):
    """A classifier on the similarity of an embedding to labelled embeddings, the landmarks.

    `logits = k(embedding, landmarks) weight` with a Gaussian kernel on directions from the centre. Labelled neighbours
    vote, and near ones count most (Nystroem's approximation: Williams and Seeger 2001).

    Args:
        hidden_size: Width of the embedding.
        num_landmarks: Number of training embeddings that are kept.
        num_labels: K.
    """

    def __init__(self, hidden_size: int, num_landmarks: int, num_labels: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        self.landmarks = nn.Parameter(torch.zeros(num_landmarks, hidden_size), requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(num_landmarks, num_labels), requires_grad=False)

    def similarity(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map float `(batch, hidden_size)` embeddings to kernel values, float `(batch, num_landmarks)` in (0, 1]."""
        directions = F.normalize(embedding - self.center, dim=-1)
        return torch.exp(2 * (directions @ self.landmarks.T - 1))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Logits, float `(batch, num_labels)`."""
        return self.similarity(embedding) @ self.weight


class NoveltyHead(nn.Module):
    """Out-of-distribution score of an embedding: 0 if it is like the training texts, 1 if it is beyond all of them.

    `clip(scale |z|^2 - |directions z|^2 - offset, 0, 1)` with `z = embedding - center`: a Mahalanobis distance (Lee et
    al. 2018, arXiv:1807.03888) without classes. Its covariance has principal components, and the same variance in all
    other directions (Tipping and Bishop 1999). The part of `z` in these other directions is what the training texts do
    not have.

    Args:
        hidden_size: Width of the embedding.
        num_directions: Number of principal components.
    """

    def __init__(self, hidden_size: int, num_directions: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        self.directions = nn.Parameter(torch.zeros(num_directions, hidden_size), requires_grad=False)
        self.scale = nn.Parameter(torch.zeros(2), requires_grad=False)  # scale and offset

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map float `(batch, hidden_size)` embeddings to scores, float `(batch, 1)` in [0, 1]."""
        z = embedding.float() - self.center.float()  # half precision cancels in the difference of squares
        with torch.autocast(z.device.type, enabled=False):
            along = (z @ self.directions.float().T).square().sum(dim=1, keepdim=True)
        scale, offset = self.scale.float()
        return (scale * z.square().sum(dim=1, keepdim=True) - along - offset).clamp(0.0, 1.0).to(embedding)


class LabelSetHead(nn.Module):
    """Models which classes occur together or exclude each other, in multi-label classification.

    Each label set of the training texts gets the score `sets @ (scale * logits) + bias`. A softmax over the sets gives
    their probabilities, and the probability of a class is the sum over the sets that contain it. This is a conditional
    random field with exact inference (Ghamrawi and McCallum 2005, "Collective multi-label classification", with
    supported inference).

    Args:
        num_sets: Number of label sets.
        num_labels: K.
    """

    def __init__(self, num_sets: int, num_labels: int) -> None:
        super().__init__()
        self.sets = nn.Parameter(torch.zeros(num_sets, num_labels), requires_grad=False)
        self.scale = nn.Parameter(torch.zeros(num_labels), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(num_sets), requires_grad=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Map independent per-class logits to joint ones, both float `(batch, num_labels)`."""
        sets = self.sets.float()
        shares = torch.addmm(self.bias.float(), logits.float() * self.scale.float(), sets.T).softmax(dim=-1)
        known = (shares @ torch.cat([sets, 1.0 - sets], dim=1)).clamp_min(1e-9).log()
        with_class, without = known.chunk(2, dim=1)
        return (with_class - without).to(logits)


class QuickHead(nn.Module):
    """A classifier of token ids that needs no encoder: it answers easy texts in its place, see `routing.speed`.

    `logits = mean_t static_t + words + bias`: a linear classifier on the mean of the encoder's token embeddings (Iyyer
    et al. 2015, "Deep unordered composition rivals syntactic methods"), multiplied out to a table with a row for each
    token, and a `LexicalHead`. A text costs as many look-ups as it has tokens.

    Args:
        lexical_size: Tokens of the vocabulary and `PAIR_BUCKETS`.
        num_labels: K.
    """

    def __init__(self, lexical_size: int, num_labels: int) -> None:
        super().__init__()
        rows = max(lexical_size - PAIR_BUCKETS, 0) + 1  # the last one is for padding
        self.static = nn.Parameter(torch.zeros(rows, num_labels), requires_grad=False)
        self.words = LexicalHead(lexical_size, num_labels)
        self.bias = nn.Parameter(torch.zeros(num_labels), requires_grad=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map int64 `(batch, sequence)` token ids to float `(batch, num_labels)` logits, calibrated."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ids = torch.where(mask > 0, input_ids, len(self.static) - 1).clamp(max=len(self.static) - 1)
        mean = F.embedding(ids, self.static).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        return mean + self.words(input_ids, attention_mask) + self.bias


# Keys are the size options of the config. Arguments: that size, the width of the embedding, the number of classes.
HEADS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "lexical_size": lambda size, hidden_size, num_labels: LexicalHead(size, num_labels),
    "kernel_size": lambda size, hidden_size, num_labels: KernelHead(hidden_size, size, num_labels),
    "novelty_size": lambda size, hidden_size, num_labels: NoveltyHead(hidden_size, size),
    "inner_novelty_size": lambda size, hidden_size, num_labels: NoveltyHead(hidden_size, size),
    "label_set_size": lambda size, hidden_size, num_labels: LabelSetHead(size, num_labels),
    "quick_size": lambda size, hidden_size, num_labels: QuickHead(size, num_labels),
}
FITTED_HEADS = (
    LexicalHead,
    KernelHead,
    NoveltyHead,
    LabelSetHead,
    QuickHead,
)  # no gradient trains them; all zeros if new
