"""A causal LM run by Transformers: log-likelihoods of many continuations of many prompts, in one forward a batch.

All prompts of a text are `prefix + text + branch + word`. The prefix (guidelines, examples) is the same for all texts:
its keys and values are computed once. The branches (the ends of several prompt templates) and the words (several a
class, of one token or more) form a tree whose tokens follow the text side by side; a mask lets each of them see the
prefix, the text and its own ancestors only, and its position is that which it would have alone. So the text is read
once, whatever the number of templates, classes and words. (Tree attention, as in SpecInfer, Miao et al. 2024,
arXiv:2305.09781, serves the same end there.)
"""

import copy
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..prompting.defuse import quote

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class PromptTree:
    """The continuations of a text as a tree of tokens.

    Args:
        tokens: int64 `(T,)`: the token of each node, parents before children.
        depth: int64 `(T,)`: tokens between the text and the node.
        visible: bool `(T, T)`: `[i, j]` is True where node `i` sees node `j`: its ancestors and itself.
        reads: int64 `(R,)`: the nodes whose next-token distribution is needed.
        terms: int64 `(3, M)`: leaf, index into `reads`, token. The log-likelihood of a leaf is the sum of its terms.
        ends: For each branch, the index into `reads` of its last node, after which the words begin.
        num_leaves: Number of (branch, word) pairs, counted branch by branch.
    """

    tokens: Tensor
    depth: Tensor
    visible: Tensor
    reads: Tensor
    terms: Tensor
    ends: list[int]
    num_leaves: int

    @classmethod
    def build(cls, branches: Sequence[Sequence[int]], words: Sequence[Sequence[Sequence[int]]]) -> "PromptTree":
        """Make the tree.

        Args:
            branches: Tokens between the text and the word, one list a template, none empty.
            words: For each branch, the tokens of each word to score, none empty.
        """
        nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node
        parents: list[int] = []

        def grow(parent: int, token: int) -> int:
            if (parent, token) not in nodes:
                nodes[parent, token] = len(parents)
                parents.append(parent)
            return nodes[parent, token]

        reads: dict[int, int] = {}
        terms: list[tuple[int, int, int]] = []
        leaf, ends = 0, []
        for branch, continuations in zip(branches, words, strict=True):
            end = -1
            for token in branch:
                end = grow(end, token)
            ends.append(reads.setdefault(end, len(reads)))
            for word in continuations:
                node = end
                for i, token in enumerate(word):
                    terms.append((leaf, reads.setdefault(node, len(reads)), token))
                    if i + 1 < len(word):
                        node = grow(node, token)
                leaf += 1
        visible = torch.eye(len(parents), dtype=torch.bool)
        for node, parent in enumerate(parents):
            if parent >= 0:
                visible[node] |= visible[parent]
        return cls(
            tokens=torch.tensor([token for _, token in nodes]),
            depth=visible.sum(1) - 1,
            visible=visible,
            reads=torch.tensor(list(reads)),
            terms=torch.tensor(terms).T.contiguous(),
            ends=ends,
            num_leaves=leaf,
        )


@dataclass(frozen=True)
class Prefix:
    """Tokens in front of every text, with their keys and values."""

    tokens: Sequence[int] = ()
    cache: Any = None


class CausalLM:
    """A causal LM with its tokenizer. Thread-safe: one forward at a time, so that threads do not fight for the cores.

    Args:
        model: A `PreTrainedModel` with a language-modelling head.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._lock, self._tokenizing = threading.Lock(), threading.Lock()
        # Transformers 5.24 has renamed the argument in some models.
        self._cache = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        plain, marked = self._encode(["a"])[0], list(tokenizer("a").input_ids)
        # What the tokenizer puts in front of every sequence, such as <bos>.
        self.start: list[int] = marked[: marked.index(plain[0])] if plain and plain[0] in marked else []
        self._reach = self._branch_reach(plain)
        self._control = _control_tokens(tokenizer)

    @property
    def context(self) -> int:
        """Number of tokens that the model was made for."""
        return context_length(self.model)

    def encode(
        self, texts: Sequence[str], after: str = "", max_tokens: int | None = None, template: bool = False
    ) -> list[list[int]]:
        """Tokens of each text as it continues `after`, without special tokens; at most its first `max_tokens`.

        Only a `template` has control tokens, as has `after`, a part of one; in a text their spelling is plain text.
        """
        if not texts:
            return []
        anchor = self._encode([after])[0] if after else []
        ids = self._encode([after + text for text in texts])
        if not all(row[: len(anchor)] == anchor for row in ids):  # a token that spans the border
            anchor, ids = [], self._encode(list(texts))
        ids = [row[len(anchor) :] for row in ids]
        for i, row in enumerate(ids if not template else ()):
            if not self._control.keys().isdisjoint(row):
                ids[i] = self._encode([texts[i]], split_special_tokens=True)[0]
                if not self._control.keys().isdisjoint(ids[i]):  # a tokenizer that does not know how
                    ids[i] = self._encode([self.plain(texts[i])])[0]
        return [row[:max_tokens] for row in ids]

    def plain(self, text: str) -> str:
        """`text`, with a word joiner inside whatever the tokenizer would make one of its control tokens of."""
        for spelling in self._control.values():
            text = text.replace(spelling, f"{spelling[0]}\u2060{spelling[1:]}")
        return text

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """Run the tokens in front of every text once."""
        if not tokens or not self._reach:
            return Prefix(tokens)
        from transformers import DynamicCache

        ids, cache = torch.tensor([list(tokens)], device=self.model.device), DynamicCache()
        with self._lock, torch.inference_mode():
            self.model(input_ids=ids, **{self._cache: cache}, use_cache=True, logits_to_keep=1)
        return Prefix(tokens, cache)

    def log_likelihoods(
        self,
        texts: Sequence[Sequence[int]],
        tree: PromptTree,
        prefix: Prefix | None = None,
        batch_size: int = 16,
        on_batch: Callable[[int], Any] | None = None,
    ) -> Tensor:
        """Log-likelihood of each leaf of `tree` after each text.

        Args:
            texts: Tokens of each text, none empty.
            tree: The continuations.
            prefix: What stands in front of every text.
            batch_size: Texts in one forward.
            on_batch: Called after each forward with the number of texts in it.

        Returns:
            float32 `(len(texts), tree.num_leaves)` on the CPU, in nats.
        """
        out = torch.empty(len(texts), tree.num_leaves)
        leaf, read, token = tree.terms
        for rows, logp in self._batches(texts, tree, prefix or Prefix(), batch_size):
            terms = logp[:, read, token]
            out[rows] = terms.new_zeros(len(rows), tree.num_leaves).index_add_(1, leaf.to(terms.device), terms).cpu()
            if on_batch is not None:
                on_batch(len(rows))
        return out

    def next_tokens(
        self,
        texts: Sequence[Sequence[int]],
        tree: PromptTree,
        tokens: Sequence[int],
        prefix: Prefix | None = None,
        batch_size: int = 16,
    ) -> Tensor:
        """Log-likelihood of single tokens after each text, averaged over the branches.

        Returns:
            float32 `(len(texts), len(tokens))` on the CPU, in nats.
        """
        out = torch.empty(len(texts), len(tokens))
        for rows, logp in self._batches(texts, tree, prefix or Prefix(), batch_size):
            out[rows] = logp[:, tree.ends][:, :, list(tokens)].mean(1).cpu()
        return out

    def whole_words(self) -> dict[int, str]:
        """`{token: word}` of the tokens that begin a word of at least three letters."""
        pieces = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        return {
            i: piece[1:]
            for i, piece in enumerate(pieces)
            if piece and piece[0] in "Ġ▁" and len(piece) > 3 and piece[1:].isalpha() and piece[1:].isascii()
        }

    def _batches(
        self, texts: Sequence[Sequence[int]], tree: PromptTree, prefix: Prefix, batch_size: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Rows of each batch, and float32 `(rows, R, vocabulary)`: log-probabilities after each of `tree.reads`."""
        beside = len(prefix.tokens) + int(tree.depth.max()) + 1
        # Texts of one length share a batch: little padding. The longest first: too little memory shows at once.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            fits = beside + len(texts[rows[0]]) <= self._reach
            forward = self._forward if fits else self._forward_plain
            yield rows, torch.log_softmax(forward([texts[i] for i in rows], tree, prefix).float(), dim=-1)

    def _encode(self, texts: list[str], **options: Any) -> list[list[int]]:
        with self._tokenizing:  # an option stays set until the next call
            return [list(row) for row in self.tokenizer(texts, add_special_tokens=False, **options).input_ids]

    @torch.inference_mode()
    def _forward(self, texts: Sequence[Sequence[int]], tree: PromptTree, prefix: Prefix) -> Tensor:
        """Logits `(len(texts), R, vocabulary)` after each of `tree.reads`, in one forward."""
        device, dtype = self.model.device, self.model.dtype
        rows, past = len(texts), len(prefix.tokens)
        lengths = torch.tensor([len(text) for text in texts])
        width, size = int(lengths.max()), len(tree.tokens)
        # Columns: the text, padded on the right, then the tree.
        ids = torch.zeros(rows, width + size, dtype=torch.long)
        for i, text in enumerate(texts):
            ids[i, : len(text)] = torch.tensor(text)
        ids[:, width:] = tree.tokens
        positions = torch.arange(width + size).repeat(rows, 1)
        positions[:, width:] = lengths[:, None] + tree.depth
        sees = torch.ones(rows, width + size, past + width + size, dtype=torch.bool)  # (row, query, key)
        sees[:, :width, past : past + width] = torch.ones(width, width, dtype=torch.bool).tril()
        sees[:, :width, past + width :] = False
        sees[:, width:, past : past + width] = (torch.arange(width) < lengths[:, None])[:, None]
        sees[:, width:, past + width :] = tree.visible
        mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
        cache = copy.deepcopy(prefix.cache)
        if cache is not None:
            cache.batch_repeat_interleave(rows)
        with self._lock:
            return self.model(
                input_ids=ids.to(device),
                attention_mask=mask[:, None].to(device),
                position_ids=(past + positions).to(device),
                **{self._cache: cache},
                use_cache=cache is not None,
                logits_to_keep=(width + tree.reads).to(device),
            ).logits

    @torch.inference_mode()
    def _forward_plain(self, texts: Sequence[Sequence[int]], tree: PromptTree, prefix: Prefix) -> Tensor:
        """As `_forward`, each prompt by itself: for models without branches, such as Mamba or BLOOM."""
        out = []
        for text in texts:
            for node in tree.reads:
                ids = [*prefix.tokens, *text, *tree.tokens[tree.visible[node]].tolist()]
                with self._lock:
                    out.append(self.model(input_ids=torch.tensor([ids], device=self.model.device)).logits[0, -1])
        return torch.stack(out).unflatten(0, (len(texts), len(tree.reads)))

    def _branch_reach(self, tokens: list[int]) -> float:
        """Length up to which branches side by side score as they do alone in this architecture; 0: they do not."""
        config = self.model.config.get_text_config()
        layers = set(getattr(config, "layer_types", None) or ())
        alibi = getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
        if alibi or getattr(self.model, "_is_stateful", False) or any("attention" not in kind for kind in layers):
            return 0  # it counts positions by column, or carries a state from column to column
        # Some trial, for what is not known here: a small tree against its prompts one by one.
        a, b = tokens[0], tokens[-1] + 1
        tree = PromptTree.build([[a, b], [b, b, a]], [[[a], [b, a]]] * 2)
        texts = [[a, b, a], [b, a]]
        try:
            one = self._forward(texts, tree, Prefix()).float().log_softmax(-1)
        except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError):
            return 0
        alone = self._forward_plain(texts, tree, Prefix()).float().log_softmax(-1)
        # Far less than the prompts differ from each other, and more than bfloat16 rounds.
        if one.shape != alone.shape or bool((one - alone).abs().mean() > 0.2 * alone.std(dim=1).mean()):
            return 0
        windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        return min((float(w) for w in windows if w), default=float("inf"))


def _control_tokens(tokenizer: Any) -> dict[int, str]:
    """`{token: spelling}` of the tokens that steer a model, such as those of its chat template, the longest first."""
    unknown = getattr(tokenizer, "unk_token_id", None)  # stands for characters, too
    found = {
        int(i): str(token.content)
        for i, token in tokenizer.added_tokens_decoder.items()
        if i != unknown
        and len(str(token.content)) > 1
        and (token.special or quote(str(token.content)) != token.content)
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def context_length(model: Any) -> int:
    """Number of tokens that a model was made for."""
    config = model.config.get_text_config()
    sizes = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((int(size) for size in sizes if size), 2048)


_loaded: "weakref.WeakValueDictionary[tuple[str, str, str], CausalLM]" = weakref.WeakValueDictionary()
_loading = threading.Lock()


def load_causal_lm(
    path: str | Path,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    use_safetensors: bool | None = None,
) -> CausalLM:
    """Load a causal LM, or return the one that is in use already: its weights are shared within the process.

    Args:
        path: Folder or Hub id.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`. Default: bfloat16 where the device is fast in it, else float32.
        device: Torch device. Default: a GPU if there is one, else the CPU.
        use_safetensors: Whether weights are read from safetensors alone. Default: preferably.

    Raises:
        ValueError: If it is a model of another kind, such as an encoder.
    """
    device, kind = pick_dtype(dtype, device)
    key = (str(path), str(kind), str(device))
    with _loading:
        lm = _loaded.get(key)
        if lm is None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            options: dict[str, Any] = {"dtype": kind, "use_safetensors": use_safetensors}
            loaded: Any = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
            model, info = loaded
            if absent := sorted(info["missing_keys"]):
                raise ValueError(
                    f"{str(path)!r} is no causal language model: it has no weights {absent[0]!r}. Is it an encoder? "
                    "As `llm`, give a model that generates text; see docs/llm-providers.md."
                )
            lm = _loaded[key] = CausalLM(model.to(device), AutoTokenizer.from_pretrained(path))
        return lm


def pick_dtype(dtype: str | None, device: str | torch.device | None) -> tuple[torch.device, torch.dtype]:
    """The device and number type of a local model: what is given, else what `load_causal_lm` says.

    Raises:
        ValueError: For an unknown `dtype`.
    """
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device(device or "cpu")
    if dtype is None:
        from ...modeling_labelfusion.hardware import fast_bf16

        dtype = "bfloat16" if fast_bf16(device) else "float32"
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    return device, DTYPES[dtype]
