"""The parts of the encoder's side: what each layer and each head adds to the logits."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification


def part_names(model: "LabelFusionForSequenceClassification") -> list[str]:
    """Names of the H parts of `head_parts`."""
    config = model.config
    depth = getattr(config.encoder_config, "num_hidden_layers", None)
    layers = [depth if isinstance(depth, int) else "last", *config.pooling_layers]
    heads = {"TF-IDF head": model.lexical_head, "kernel head": model.kernel_head}
    return [*(f"encoder layer {n}" for n in layers), *(name for name, head in heads.items() if head is not None)]


def head_parts(model: "LabelFusionForSequenceClassification", embedding: torch.Tensor) -> torch.Tensor:
    """What each part adds to the logits of the encoder's side.

    Their sum and the bias of `model.encoder_head` are the `head_logits` of `model.fuse_head_logits`.

    Args:
        model: The model, in eval mode.
        embedding: float `(batch, config.embedding_size)` from `model.encode`, on the model's device.

    Returns:
        float `(batch, H, num_labels)`: the linear head on the last layer and on each of the `pooling_layers`, then the
        TF-IDF head and the kernel head, if the model has them.
    """
    config, size = model.config, model.config.hidden_size
    pooled = embedding[:, : config.pooled_size].unflatten(1, (-1, size))
    weight = model.encoder_head.weight.unflatten(1, (-1, size))  # (num_labels, layers, hidden_size)
    parts = [torch.einsum("bld,kld->blk", pooled, weight)]
    if model.lexical_head is not None:
        parts.append(embedding[:, config.pooled_size :][:, None, : model.num_labels])
    if model.kernel_head is not None:
        parts.append(model.kernel_head(embedding[:, :size]).unsqueeze(1))
    return torch.cat(parts, dim=1)
