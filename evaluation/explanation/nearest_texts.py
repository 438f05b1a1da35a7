"""The labelled texts nearest to a text, by the encoder's embedding."""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ...modeling_labelfusion.encoding import TextEncoder

if TYPE_CHECKING:
    from ...training.data import LabelledTexts


def nearest_texts(
    encoder: TextEncoder, embeddings: torch.Tensor, examples: "LabelledTexts", count: int, texts: list[str]
) -> list[list[dict[str, Any]]]:
    """Find the nearest labelled texts: cosine of the last layer's embeddings, from the mean of the examples.

    This is the similarity of the kernel head. A model keeps no text, so that the examples come from the user.

    Args:
        encoder: The model with its tokenizer.
        embeddings: float32 `(n, embedding_size)` of the texts.
        examples: Labelled texts, such as the training data.
        count: Number of texts to find for each text.
        texts: The n texts; an example with the same text is left out.

    Returns:
        For each text, the nearest first: `row` (index in the examples), `label`, `similarity` in [-1, 1] and `text`.
    """
    size, names = encoder.model.config.hidden_size, examples.names()
    known = encoder(examples.texts)[:, :size]
    center = known.mean(dim=0)
    similar = F.normalize(embeddings[:, :size] - center, dim=-1) @ F.normalize(known - center, dim=-1).T
    found = []
    for text, row in zip(texts, similar, strict=True):
        nearest = [i for i in row.argsort(descending=True).tolist() if examples.texts[i] != text][:count]
        place = range(len(names)) if examples.rows is None else examples.rows.tolist()
        found.append(
            [
                {"row": place[i], "label": names[i], "similarity": float(row[i]), "text": examples.texts[i]}
                for i in nearest
            ]
        )
    return found
