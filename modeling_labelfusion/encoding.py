"""From texts to the encoder's embeddings: the expensive half of the model, run once for each distinct text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ..configuration import LabelFusionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .modeling_labelfusion import LabelFusionForSequenceClassification

DEFAULT_MAX_LENGTH = 512

# Encoders that number positions from `pad_token_id + 1`, so that this many of their positions are never used.
_ROBERTA_LIKE = (
    "camembert data2vec-text esm ibert layoutlmv3 lilt longformer luke markuplm mpnet roberta roberta-prelayernorm "
    "xlm-roberta xlm-roberta-xl xmod"
)
OFFSET_POSITIONS = frozenset(_ROBERTA_LIKE.split())


def max_length(
    model: "LabelFusionForSequenceClassification | LabelFusionConfig",
    tokenizer: "PreTrainedTokenizerBase",
    at_most: int | None = None,
) -> int:
    """The longest input, in tokens, that both the tokenizer and the encoder's position embeddings allow.

    Tokenizers that know no limit say 1e30, and RoBERTa's 514 positions hold only 512 tokens. Without any limit:
    `DEFAULT_MAX_LENGTH`; with `at_most`, no more than that.
    """
    config: Any = getattr(model, "config", model)
    encoder = config.encoder_config
    limits = [tokenizer.model_max_length]
    positions = getattr(encoder, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:  # XLNet says -1
        pad_token_id = 1 if encoder.model_type == "mpnet" else encoder.pad_token_id or 0  # MPNet takes no other
        limits.append(positions - (pad_token_id + 1 if encoder.model_type in OFFSET_POSITIONS else 0))
    limit = min(limits)
    limit = int(limit) if limit < 1e9 else DEFAULT_MAX_LENGTH
    return min(at_most or limit, limit)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into eval mode, and afterwards every module back into the mode that it had."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A model with its tokenizer, and how they encode texts: what travels together wherever texts are encoded.

    Args:
        model: The model; its mode is put back after each call.
        tokenizer: Its tokenizer.
        batch_size: Texts in one forward of the encoder.
        max_length: Tokens kept of a text. Default, and at most: as many as tokenizer and encoder allow.
        bf16: Compute in bfloat16 where that loses little (autocast): about twice as fast on CPUs that have it.
        progress: Show a progress bar.

    Raises:
        ValueError: If `batch_size` is not a positive integer.
    """

    model: "LabelFusionForSequenceClassification"
    tokenizer: "PreTrainedTokenizerBase"
    batch_size: int = 32
    max_length: int | None = None
    bf16: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.batch_size, int) and self.batch_size > 0):
            raise ValueError(f"`batch_size` must be a positive integer, got {self.batch_size!r}.")

    @property
    def limit(self) -> int:
        """Tokens that are kept of a text."""
        return max_length(self.model, self.tokenizer, self.max_length)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode texts in batches of similar length, in eval mode, each distinct text once.

        Args:
            texts: n texts. Longer ones are truncated.

        Returns:
            float32 `(n, embedding_size)` on the CPU, in the order of `texts`, for `model.fuse`.

        Raises:
            ValueError: If an item of `texts` is not a string, or the tokenizer is that of another model.
        """
        place: dict[str, int] = {}
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"`texts[{i}]` is {type(text).__name__}, expected a string; drop it or give ''.")
            place.setdefault(text, len(place))
        distinct, model = list(place), self.model
        # Characters stand for tokens: close enough to keep padding small. Longest first: memory runs out early.
        order = sorted(range(len(distinct)), key=lambda i: len(distinct[i]), reverse=True)
        limit = self.limit
        # Made outside of inference mode, so that training can use it.
        embeddings = torch.empty(len(distinct), model.config.embedding_size, dtype=torch.float32)
        with (
            evaluating(model),
            torch.inference_mode(),
            torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=self.bf16),
            tqdm(total=len(distinct), desc="Encoding", unit="text", disable=not self.progress) as bar,
        ):
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                batch = _on_device(model, self.tokenizer, [distinct[i] for i in rows], limit)
                embeddings[rows] = model.encode(**batch)[0].float().cpu()
                bar.update(len(rows))
        return embeddings if len(place) == len(texts) else embeddings[[place[text] for text in texts]]

    def token_batches(self, texts: Sequence[str], batch_size: int = 256) -> Iterator[Any]:
        """Padded batches of the texts, in their order, on the model's device, truncated as for the encoder."""
        limit = self.limit
        for start in range(0, len(texts), batch_size):
            yield _on_device(self.model, self.tokenizer, list(texts[start : start + batch_size]), limit)

    def complete(self, texts: Sequence[str], embeddings: torch.Tensor) -> torch.Tensor:
        """Complete embeddings that were computed before the model had all its heads.

        Args:
            texts: n texts.
            embeddings: float32 `(n, pooled_size)`.

        Returns:
            float32 `(n, embedding_size)`, as encoding the texts anew would give.
        """
        model, parts = self.model, [embeddings]
        with torch.no_grad():
            if model.lexical_head is not None:
                batches = self.token_batches(texts)
                logits = [model.lexical_head(x["input_ids"], x["attention_mask"]).float().cpu() for x in batches]
                parts.append(torch.cat(logits))
            if model.novelty_head is not None:
                own = embeddings[:, : model.config.hidden_size].to(model.device)
                parts.append(model.novelty_head(own).float().cpu())
        return torch.cat(parts, dim=1)


def encode_texts(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    **options: Any,
) -> torch.Tensor:
    """Encode texts: float32 `(n, embedding_size)` on the CPU. The options are those of `TextEncoder`."""
    return TextEncoder(model, tokenizer, **options)(texts)


def inner_layers(
    model: "LabelFusionForSequenceClassification", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> list[int]:
    """Two layers from the upper half of the encoder, for `pooling_layers`: what the last one has already given up.

    A last layer is bent towards its pretraining task; a linear head does better with inner ones beside it (Tenney et
    al. 2019, arXiv:1905.05950, for what they know). None where the encoder has fewer than four layers, or its inner
    states are of another shape or scale than the last, which is found out with a few texts.
    """
    depth = getattr(model.config.encoder_config, "num_hidden_layers", 0)
    if not isinstance(depth, int) or depth < 4 or not texts:
        return []
    layers = [round(depth * 5 / 6), round(depth * 7 / 12)]
    batch = _on_device(model, tokenizer, list(texts[:16]), max_length(model, tokenizer, 64))
    with evaluating(model), torch.inference_mode():
        outputs = model.encode(**batch, output_hidden_states=True)[1]
    states, last = getattr(outputs, "hidden_states", None) or (), outputs.last_hidden_state
    if len(states) != depth + 1 or any(states[i].shape != last.shape for i in layers):
        return []
    ratios = [float(states[i].float().std() / last.float().std().clamp_min(1e-9)) for i in layers]
    return layers if all(1 / 3 < r < 3 for r in ratios) else []


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: list[str], max_length: int) -> Any:
    """One batch of tensors, padded on the right and with a mask, whatever the tokenizer does by default.

    BERT counts positions from the left, padding included; without a mask, padding would count as words.
    """
    texts = [without_surrogates(text) for text in texts]
    options = {"padding_side": "right", "return_attention_mask": True, "return_tensors": "pt"}
    return tokenizer(texts, padding=True, truncation=True, max_length=max_length, **options)


def _on_device(
    model: "LabelFusionForSequenceClassification", tokenizer: "PreTrainedTokenizerBase", texts: list[str], limit: int
) -> Any:
    """A batch of `tokenize` on the model's device, with tokens that the encoder knows."""
    batch = tokenize(tokenizer, texts, limit)
    if not hasattr(model, "encoder"):  # an exported model has no embeddings to look at
        return batch.to(model.device)
    known = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if (found := int(batch["input_ids"].max())) >= known:
        raise ValueError(
            f"The tokenizer makes token {found} ({tokenizer.convert_ids_to_tokens(found)!r}), and the encoder has "
            f"{known} token embeddings: it is the tokenizer of another model, or `resize_token_embeddings` is missing."
        )
    return batch.to(model.device)


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which no tokenizer accepts."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
