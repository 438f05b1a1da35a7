"""Contrastive training of the encoder for little data: embeddings of the same class attract, others repel.

The idea of learning from pairs before a head is fitted is SetFit's (Tunstall et al. 2022, arXiv:2209.11055); all pairs
of a batch at once, in the supervised contrastive loss, are Khosla et al.'s (2020, arXiv:2004.11362).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ...modeling_labelfusion.encoding import max_length as length_limit
from ...modeling_labelfusion.encoding import tokenize
from ...modeling_labelfusion.hardware import fast_bf16
from ..fit_options import ContrastiveOptions

if TYPE_CHECKING:
    from ...modeling_labelfusion.encoding import TextEncoder

TEXTS_A_CLASS = 4  # texts per class in a batch
IGNORED = -1e4  # similarity of a pair that does not count
PADDED_APART = 4  # parts of a batch, by length, that are encoded one after the other: half of the tokens were padding


def contrastive_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    texts: torch.Tensor | None = None,
    row_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Supervised contrastive loss, a scalar. Multi-label texts attract each other in proportion to shared classes.

    Args:
        embeddings: float `(batch, hidden)`; they are normalised here.
        labels: float 0/1 `(batch, K)`. The weight of a pair is the Jaccard index of its label sets.
        temperature: Of the cosine similarities.
        texts: int64 `(batch,)`: the number of each row's text. Rows of one text do not repel each other, whatever
            their labels.
        row_weights: float `(batch,)`: what the loss of each row counts for.
    """
    unit = F.normalize(embeddings.float(), dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    shared = labels @ labels.T
    sizes = labels.sum(dim=1)
    union = sizes[:, None] + sizes - shared
    weights = torch.where(union > 0, shared / union.clamp_min(1), 1.0).masked_fill(itself, 0.0)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    if texts is not None:  # finite, because a row may have no other pairs
        similarity = similarity.masked_fill((texts[:, None] == texts) & (weights == 0) & ~itself, IGNORED)
    log_share = similarity.log_softmax(dim=-1)
    total = weights.sum(dim=1)
    losses = -(weights * log_share.masked_fill(itself, 0.0)).sum(dim=1) / total.clamp_min(1e-6)
    if row_weights is None:
        return losses[total > 0].sum() / max(int((total > 0).sum()), 1)
    return (row_weights * losses)[total > 0].sum() / row_weights[total > 0].sum().clamp_min(1e-6)


def batches(labels: NDArray[np.float32], batch_size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield endless batches of row numbers, with several texts of each of some classes, which take turns.

    The text of a class with only one text occurs twice: dropout makes its two embeddings a pair (Gao et al. 2021,
    arXiv:2104.08821).
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(column) for column in labels.T] + [np.flatnonzero(~labels.any(axis=1))]
    groups = [group for group in groups if len(group)]
    queues: list[list[int]] = [[] for _ in groups]
    turn: list[int] = []
    count = max(2, min(len(groups), batch_size // TEXTS_A_CLASS))
    sizes = [batch_size // count + (i < batch_size % count) for i in range(count)]
    while True:
        batch: list[int] = []
        for size in sizes:
            turn = turn or rng.permutation(len(groups)).tolist()
            g = turn.pop()
            for _ in range(size):
                queues[g] = queues[g] or rng.permutation(groups[g]).tolist()
                batch.append(queues[g].pop())
        yield np.array(batch, dtype=np.int64)


def contrast(
    encoder: "TextEncoder",
    texts: list[str],
    labels: NDArray[Any],
    options: ContrastiveOptions,
    *,
    steps: int | None = None,
    weights: NDArray[np.float32] | None = None,
    on_step: Callable[[int], object] | None = None,
) -> None:
    """Train the upper layers of the encoder, in place.

    Args:
        encoder: A model without lexical head, with its tokenizer.
        texts: n texts.
        labels: int64 `(n,)` or float32 `(n, K)`.
        options: How.
        steps: Steps of the schedule. Default: `options.steps(n)`.
        weights: float32 `(n,)`: weights of the rows; `None`: all are 1.
        on_step: Called after each step with its number, from 1.
    """
    model, tokenizer, steps = encoder.model, encoder.tokenizer, steps or options.steps(len(texts))
    limit = length_limit(model, tokenizer, options.max_length)
    sets = labels if labels.ndim == 2 else np.eye(model.config.num_labels, dtype=np.float32)[labels]
    bf16 = fast_bf16(model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), upper_layers(model.encoder, options.trained_layers) as parameters:
        torch.manual_seed(options.seed)
        small = sum(p.numel() for p in model.encoder.parameters()) < 50e6
        rate = options.learning_rate or (2e-4 if small else 4e-5)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        warm_up = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / warm_up, (steps - s) / max(1, steps - warm_up))
        )
        rows, lengths = batches(sets, options.batch_size, options.seed), np.array([len(text) for text in texts])
        text_of = np.unique(np.asarray(texts, dtype=object), return_inverse=True)[1]
        for step in range(1, steps + 1):
            batch = next(rows)
            batch = batch[np.argsort(lengths[batch], kind="stable")]
            model.encoder.train()
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
                encoded = [
                    model.encode(**tokenize(tokenizer, [texts[i] for i in part], limit).to(model.device))[0]
                    for part in np.array_split(batch, min(PADDED_APART, len(batch)))
                ]
            embeddings = torch.cat(encoded)[:, : model.config.hidden_size]
            answers, same = (torch.from_numpy(x[batch]).to(model.device) for x in (sets, text_of))
            by_row = None if weights is None else torch.from_numpy(weights[batch]).to(model.device)
            loss = contrastive_loss(embeddings, answers, options.temperature, same, by_row)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            model.eval()
            if on_step is not None:
                on_step(step)


@contextmanager
def upper_layers(encoder: nn.Module, share: float) -> Iterator[list[nn.Parameter]]:
    """Make only the upper `share` of the encoder's layers trainable, and yield their parameters.

    Lower layers then need no backward pass. If no stack of layers is found, as in ALBERT, which shares one layer, all
    parameters are trained.
    """
    stack = layer_stack(encoder)
    top: nn.Module = encoder if stack is None else stack[len(stack) - max(1, round(share * len(stack))) :]
    before = [(p, p.requires_grad) for p in encoder.parameters()]
    chosen = {id(p) for p in top.parameters()}
    try:
        for p, _ in before:
            p.requires_grad_(id(p) in chosen)
        yield [p for p, _ in before if p.requires_grad]
    finally:
        for p, wanted in before:
            p.requires_grad_(wanted)


def changing_weights(model: nn.Module, share: float) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers of a model but those of the encoder's layers below the upper `share`.

    The word embeddings, which are most of a small encoder, are then not held twice. A share of 1: a copy of all.
    """
    with nullcontext() if share >= 1 else upper_layers(cast(Any, model).encoder, share):
        names = {name for name, p in model.named_parameters() if p.requires_grad}
    names |= {name for name, _ in model.named_buffers()}
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name in names}


def layer_stack(encoder: nn.Module) -> nn.ModuleList | None:
    """Find the encoder's layers, from the lowest: its longest module list."""
    stacks = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    return max(stacks, key=lambda m: sum(p.numel() for p in m.parameters()), default=None)
