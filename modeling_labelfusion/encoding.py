"""Encodes texts to embeddings: the expensive half of the model, run once per distinct text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..configuration import LabelFusionConfig
from ..configuration.freed_memory import FreedMemory
from ..configuration.progress_bar import progress_bar
from ..configuration.text_pair import TextPair
from .hardware import check_backend, check_bf16, resolved_bf16
from .openvino_encoder import openvino_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .modeling_labelfusion import LabelFusionForSequenceClassification

DEFAULT_MAX_LENGTH = 512

# Encoders that number positions from `pad_token_id + 1`, so that their first `pad_token_id + 1` positions are unused.
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

    Tokenizers without a limit report 1e30, and RoBERTa's 514 positions hold only 512 tokens. Without any limit, the
    result is `DEFAULT_MAX_LENGTH`. `at_most` is an additional upper limit.
    """
    config: Any = getattr(model, "config", model)
    encoder = config.encoder_config
    limits = [tokenizer.model_max_length]
    positions = getattr(encoder, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:  # XLNet has -1
        pad_token_id = 1 if encoder.model_type == "mpnet" else encoder.pad_token_id or 0  # MPNet always uses 1
        limits.append(positions - (pad_token_id + 1 if encoder.model_type in OFFSET_POSITIONS else 0))
    limit = min(limits)
    limit = int(limit) if limit < 1e9 else DEFAULT_MAX_LENGTH
    return min(at_most or limit, limit)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set `model` to eval mode, and restore the mode of every module afterwards."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A model with its tokenizer and the options for encoding texts.

    Args:
        model: The model. Its train or eval mode is restored after each call.
        tokenizer: Its tokenizer.
        batch_size: Texts per forward pass of the encoder.
        max_length: Longest input in tokens; longer texts are truncated. Default and maximum: the limit of tokenizer
            and encoder.
        bf16: Compute in bfloat16, which loses little accuracy and is about twice as fast on CPUs that support it, and
            much slower on others; `"auto"`: where it is faster here, see `hardware.resolved_bf16`.
        backend: `"torch"`, or `"openvino"` for CPUs, see `OpenVinoEncoder`.
        progress: Show a progress bar.

    Raises:
        ValueError: If `batch_size` is not a positive integer, or another option has an unknown value.
    """

    model: "LabelFusionForSequenceClassification"
    tokenizer: "PreTrainedTokenizerBase"
    batch_size: int = 32
    max_length: int | None = None
    bf16: bool | str = False
    progress: bool = False
    backend: str = "torch"
    _memory: FreedMemory = field(default_factory=FreedMemory, init=False, repr=False)

    def __post_init__(self) -> None:
        check_bf16(self.bf16)
        check_backend(self.backend)
        if not (isinstance(self.batch_size, int) and self.batch_size > 0):
            raise ValueError(f"`batch_size` must be a positive integer, got {self.batch_size!r}.")

    @property
    def limit(self) -> int:
        """Longest input in tokens."""
        return max_length(self.model, self.tokenizer, self.max_length)

    def __call__(self, texts: Sequence[str], quick: bool = False) -> torch.Tensor:
        """Encode each distinct text once, in eval mode and in batches of similar length.

        Args:
            texts: n texts. Longer ones are truncated.
            quick: Only run the model's `QuickHead`, which does not need the encoder.

        Returns:
            float32 `(n, embedding_size)` on the CPU, in the order of `texts`, for `model.fuse`; with `quick`, logits
            `(n, num_labels)`.

        Raises:
            ValueError: If an item of `texts` is not a string, or the tokenizer belongs to another model.
        """
        place: dict[str, int] = {}
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"`texts[{i}]` is {type(text).__name__}, expected a string; drop it or give ''.")
            place.setdefault(text, len(place))
        distinct, model = list(place), self.model
        # Character counts approximate token counts. Longest texts first, so that out-of-memory errors occur early.
        order = sorted(range(len(distinct)), key=lambda i: len(distinct[i]), reverse=True)
        limit, half = self.limit, not quick and resolved_bf16(self.bf16, model, self.backend)
        # Created outside inference mode, so that training can use it.
        width = model.config.num_labels if quick else model.config.embedding_size
        embeddings = torch.empty(len(distinct), width, dtype=torch.float32)
        with (
            evaluating(model),
            torch.inference_mode(),
            torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half and self.backend == "torch"),
            progress_bar(len(distinct), "Encoding", disable=quick or not self.progress) as bar,
        ):
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                batch = _on_device(model, self.tokenizer, [distinct[i] for i in rows], limit)
                if quick:
                    assert model.quick_head is not None
                    found = model.quick_head(batch["input_ids"], batch["attention_mask"])
                else:
                    found = model.encode(**batch, **self._run_by(batch, half))[0]
                embeddings[rows] = found.float().cpu()
                bar.update(len(rows))
                self._memory.after_batch()
        return embeddings if len(place) == len(texts) else embeddings[[place[text] for text in texts]]

    def _run_by(self, batch: Any, bf16: bool) -> dict[str, Any]:
        """What `encode` runs in place of the encoder."""
        return {} if self.backend == "torch" else {"encoder": openvino_encoder(self.model, batch, bf16)}

    def token_batches(self, texts: Sequence[str], batch_size: int = 256) -> Iterator[Any]:
        """Yield padded, truncated batches on the model's device, in the order of the texts."""
        limit = self.limit
        for start in range(0, len(texts), batch_size):
            yield _on_device(self.model, self.tokenizer, list(texts[start : start + batch_size]), limit)

    def complete(self, texts: Sequence[str], embeddings: torch.Tensor) -> torch.Tensor:
        """Add the parts of heads that the model got after `embeddings` were computed.

        Args:
            texts: n texts.
            embeddings: float32 `(n, pooled_size)`.

        Returns:
            float32 `(n, embedding_size)`, equal to the embeddings of a new encoding of the texts.
        """
        model, parts = self.model, [embeddings]
        with torch.no_grad():
            if model.lexical_head is not None:
                batches = self.token_batches(texts)
                logits = [model.lexical_head(x["input_ids"], x["attention_mask"]).float().cpu() for x in batches]
                parts.append(torch.cat(logits))
            if model.novelty_head is not None:
                parts.append(model.novelty(embeddings.to(model.device)).float().cpu())
        return torch.cat(parts, dim=1)


def encode_texts(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    **options: Any,
) -> torch.Tensor:
    """Encode texts to float32 `(n, embedding_size)` on the CPU. The options are those of `TextEncoder`."""
    return TextEncoder(model, tokenizer, **options)(texts)


def inner_layers(
    model: "LabelFusionForSequenceClassification", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> list[int]:
    """Select two layers from the upper half of the encoder for `pooling_layers`.

    The last layer is specialised for the pretraining task. A linear head is more accurate with inner layers in addition
    (for the information in inner layers see Tenney et al. 2019, arXiv:1905.05950). The list is empty if the encoder has
    fewer than four layers, or if its inner states differ from the last in shape or scale, which is tested on a few
    texts.
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
    """Tokenize one batch to tensors, right-padded and with an attention mask, whatever the tokenizer's defaults are.

    Left padding would shift BERT's positions. Without a mask, padding would count as tokens.
    """
    options = {"padding": True, "padding_side": "right", "return_attention_mask": True, "return_tensors": "pt"}
    paired = [isinstance(text, TextPair) for text in texts]
    if any(paired) and not all(paired):
        return tokenizer.pad(token_rows(tokenizer, texts, max_length), **options)  # type: ignore[arg-type]
    return tokenizer(*_columns(texts), truncation=True, max_length=max_length, **options)


def token_rows(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int) -> list[dict[str, Any]]:
    """Tokenize each text by itself, without padding. A pair is truncated where it is longest, see `TextPair`."""
    return [
        {k: v[0] for k, v in tokenizer(*_columns([text]), truncation=True, max_length=max_length).items()}
        for text in texts
    ]


def _columns(texts: Sequence[str]) -> list[list[str]]:
    """The texts, and the second texts if they are pairs, as arguments of a tokenizer."""
    columns = [[text.text if isinstance(text, TextPair) else text for text in texts]]
    if texts and isinstance(texts[0], TextPair):
        columns.append([text.text_pair for text in texts if isinstance(text, TextPair)])
    return [[without_surrogates(text) for text in column] for column in columns]


def _on_device(
    model: "LabelFusionForSequenceClassification", tokenizer: "PreTrainedTokenizerBase", texts: list[str], limit: int
) -> Any:
    """Tokenize a batch on the model's device, and check that the encoder has an embedding for every token."""
    batch = tokenize(tokenizer, texts, limit)
    if not hasattr(model, "encoder"):  # an exported model does not expose its embeddings
        if any(isinstance(text, TextPair) for text in texts):
            raise ValueError(
                "An exported ONNX model has no input for token types: pairs of texts need the model itself."
            )
        return batch.to(model.device)
    known = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if (found := int(batch["input_ids"].max())) >= known:
        raise ValueError(
            f"The tokenizer makes token {found} ({tokenizer.convert_ids_to_tokens(found)!r}), and the encoder has "
            f"{known} token embeddings: it is the tokenizer of another model, or `resize_token_embeddings` is missing."
        )
    return batch.to(model.device)


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, with U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
