"""Loads pretrained encoders completely or fails, and checks them before training or paid LLM requests."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from .pretrained import check_complete
from .tokenizer_files import check_present

_MOVED = 0.05  # largest change by padding, relative to the scale of the embedding


def load_encoder(source: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load an encoder with `AutoModel.from_pretrained`.

    Args:
        source: Hub id or folder.
        **kwargs: For `from_pretrained`.

    Raises:
        OSError: If there are no weights.
        ValueError: If weights are missing or have wrong shapes, the folder holds an adapter or a model of another
            library, or the model does not turn tokens into embeddings.
    """
    _check_folder(Path(source))
    try:
        encoder, info = AutoModel.from_pretrained(source, output_loading_info=True, **kwargs)
    except OSError as error:
        check_present(str(source), error)
        raise
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"The weights of {str(source)!r} have other shapes than its config.json says: one of the two files is of "
            "another model."
        ) from None
    check_complete(encoder, info, str(source))
    check_encoder(encoder, str(source))
    return encoder


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{str(folder)!r} holds a PEFT adapter, not a whole encoder. Merge it first: "
            "`AutoPeftModelForFeatureExtraction.from_pretrained(folder).merge_and_unload().save_pretrained(new)`, "
            "and save the tokenizer there, too."
        )
    modules = folder / "modules.json"
    if modules.is_file() and not (folder / "config.json").is_file():  # old sentence-transformers format
        try:
            inner = folder / str(json.loads(modules.read_text(encoding="utf-8"))[0]["path"])
        except (OSError, ValueError, LookupError, TypeError):
            return
        raise ValueError(f"The encoder in {str(folder)!r} lies in a folder of its own: give {str(inner)!r}.")


def check_encoder(encoder: Any, source: str) -> None:
    """Run four tokens through the encoder, alone and padded.

    Warns if padding changes the embeddings (FNet, YOSO, CANINE), because predictions then depend on the other texts in
    the batch.

    Raises:
        ValueError: If the encoder does not return one embedding per token.
    """
    kind = encoder.config.model_type
    tokens = torch.ones(1, 4, dtype=torch.long, device=encoder.device)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            alone = encoder(input_ids=tokens, attention_mask=tokens, return_dict=True).last_hidden_state
            mask = torch.cat([tokens, torch.zeros_like(tokens)], dim=1)
            padded = encoder(input_ids=mask, attention_mask=mask, return_dict=True).last_hidden_state
        if alone.shape[:2] != (1, 4):
            raise ValueError(f"it makes {tuple(alone.shape)} of (1, 4) tokens")
    except Exception as error:  # models of other kinds raise anything
        raise ValueError(
            f"{source!r} (a {kind!r}) cannot be the encoder: it must make an embedding for each token from `input_ids` "
            f"and `attention_mask` alone. It raised {type(error).__name__}: {str(error)[:200]}"
        ) from None
    finally:
        encoder.train(was_training)
    moved = (padded[:, :4] - alone).abs().max() / alone.abs().max().clamp_min(1e-6)
    if not moved <= _MOVED:
        logging.getLogger(__name__).warning(
            "%s (a %r) lets padding change the embedding of a text: its answer depends on the texts beside it. With "
            "`batch_size=1` it does not.",
            source,
            kind,
        )


def without_pooler(encoder: Any) -> Any:
    """Remove the encoder's pooling layer, which is never trained here.

    It is replaced by the identity, not None, because some encoders (SqueezeBERT, LayoutLM) always call it.
    """
    if isinstance(getattr(encoder, "pooler", None), nn.Module):
        encoder.pooler = nn.Identity()
    return encoder
