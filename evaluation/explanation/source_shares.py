"""What each source adds to the logits of a text: exact Shapley values over the sources."""

from math import factorial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.encoding import TextEncoder, evaluating
from ...pipelines.formatting import source_names
from .head_parts import head_parts, part_names

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification

PRIOR = "prior"
MOST_SOURCES = 16  # the model is computed for each of 2^S subsets, about 2 s for 16


def share_names(model: "LabelFusionForSequenceClassification") -> list[str]:
    """Names of the rows of `source_shares`: the prior, the parts of the encoder's side, the LLMs."""
    return [PRIOR, *part_names(model), *source_names(model.config)]


def source_shares(
    encoder: TextEncoder, embedding: torch.Tensor, llm_scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Divide the logits of one text among the sources.

    Each share is a Shapley value (Shapley 1953; for models: Lundberg and Lee 2017, arXiv:1705.07874): the mean change
    of the logit as the source joins the others, over all orders. Sources are few, so it is computed exactly, with the
    model itself: the shares of a pool, its MLP, a label-set head and calibration maps add up alike.

    A source that has not joined is what the model knows as its absence. An LLM without an answer is masked. A layer or
    head of the encoder has its mean share over the training texts, which `fit` stores in
    `config.fusion_report["mean_parts"]`; in a model without it, that of an empty text. The prior is the logit with no
    source at all.

    Args:
        encoder: The model with its tokenizer.
        embedding: float32 `(embedding_size,)` of the text.
        llm_scores: float `(P, K)`, NaN for a missing answer.

    Returns:
        float64 `(1 + H + P, K)`, in the order of `share_names`. The sum over the first axis is the logits, up to
        float32 rounding; an LLM without an answer has 0.

    Raises:
        ValueError: For more than `MOST_SOURCES` sources.
    """
    model = encoder.model
    with evaluating(model), torch.inference_mode():
        own = embedding[None].to(model.device, model.dtype)
        parts = head_parts(model, own)[0]
        absent = _absent_parts(encoder).to(parts)
        scores = torch.from_numpy(np.asarray(llm_scores, dtype=np.float32)).to(model.device)
        answered = (~torch.isnan(scores).any(dim=-1)).nonzero().flatten()
        count = len(parts) + len(answered)
        if count > MOST_SOURCES:
            raise ValueError(
                f"The text has {count} sources ({len(parts)} of the encoder's side, {len(answered)} LLMs); the exact "
                f"shares of {MOST_SOURCES} at most can be computed. Give `llm_scores` of fewer LLMs, NaN for the rest."
            )
        joined = ((torch.arange(2**count)[:, None] >> torch.arange(count)) & 1).bool().to(model.device)
        chosen = torch.where(joined[:, : len(parts), None], parts, absent)
        last = own[:, : model.config.hidden_size]
        embeddings = torch.where(joined[:, :1], last, _absent_embedding(model).to(last))
        subsets = scores.expand(len(joined), *scores.shape).clone()
        for i, p in enumerate(answered):
            subsets[~joined[:, len(parts) + i], p] = float("nan")
        logits, _ = model.fuse_head_logits(chosen.sum(dim=1) + model.encoder_head.bias, embeddings, subsets)
    values = shapley_values(logits.double().cpu().numpy())
    shares = np.zeros((1 + len(parts) + len(scores), model.config.num_labels))
    shares[0] = logits[0].double().cpu().numpy()
    shares[1 : 1 + len(parts)] = values[: len(parts)]
    shares[1 + len(parts) + answered.cpu().numpy()] = values[len(parts) :]
    return shares


def shapley_values(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shapley values of S players.

    Args:
        values: float `(2^S, K)`: K outcomes of each set of players; player i is in the set of row r if bit i of r is 1.

    Returns:
        float64 `(S, K)`. Their sum is `values[-1] - values[0]`.
    """
    count = len(values).bit_length() - 1
    sets = np.arange(len(values))
    sizes = ((sets[:, None] >> np.arange(count)) & 1).sum(axis=1)
    weights = np.array([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])
    out = np.zeros((count, values.shape[1]))
    for i in range(count):
        before = sets[(sets >> i) & 1 == 0]
        out[i] = weights[sizes[before]] @ (values[before | (1 << i)].astype(np.float64) - values[before])
    return out


def _absent_parts(encoder: TextEncoder) -> torch.Tensor:
    """float `(H, K)`: what the parts add where they have not joined."""
    model = encoder.model
    known = (model.config.fusion_report or {}).get("mean_parts")
    names = part_names(model)
    if isinstance(known, dict) and list(known) == names:
        means = torch.tensor([known[name] for name in names])
        if means.shape == (len(names), model.config.num_labels):
            return means
    return head_parts(model, encoder([""]).to(model.device, model.dtype))[0]


def _absent_embedding(model: "LabelFusionForSequenceClassification") -> torch.Tensor:
    """float `(hidden_size,)`: the embedding that the MLP sees where the encoder's last layer has not joined."""
    head = model.novelty_head or model.kernel_head
    # Without a stored mean: zeros, which the layer norm in front of the MLP maps to its bias.
    return model.encoder_head.weight.new_zeros(model.config.hidden_size) if head is None else head.center
