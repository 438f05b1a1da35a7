"""The first step of the recipe: the embeddings of the pretrained encoder."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ...modeling_labelfusion.encoding import inner_layers
from ...modeling_labelfusion.heads import HEADS

if TYPE_CHECKING:
    from ...modeling_labelfusion.encoding import TextEncoder
    from ..fit_state import FitState


def encode(state: "FitState") -> "FitState":
    """Compute the embeddings of all texts, unless they are given."""
    if len(state.embeddings):
        return state
    return replace(state, embeddings=encode_training_texts(state.encoder, state.texts, state.options.extra_sources))


def encode_training_texts(encoder: "TextEncoder", texts: list[str], extra_sources: bool) -> torch.Tensor:
    """Set `pooling_layers`, remove extra heads, and encode the training texts to float32 `(n, pooled_size)`.

    Args:
        encoder: The model, changed in place, with its tokenizer.
        texts: n texts.
        extra_sources: Whether inner layers are pooled too.
    """
    model = encoder.model
    model.set_heads(**dict.fromkeys(HEADS, 0))
    model.set_pooling_layers(inner_layers(model, encoder.tokenizer, texts) if extra_sources else [])
    return encoder(texts)
