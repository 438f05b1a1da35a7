"""LabelFusion model: a Transformer encoder fused with the per-class scores of LLMs."""

import inspect
import os
import re
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from ..configuration import LabelFusionConfig, LLMProvider
from .baselines import BaselineFusion
from .encoders import load_encoder, without_pooler
from .fusion import OLD_NAMES, ClassificationHead, FusionMLP, ScorePool, pool_features
from .heads import HEADS, KernelHead, LabelSetHead, LexicalHead, NoveltyHead, QuickHead
from .monotone import calibrated, map_scores
from .plain_state import PlainState
from .pretrained import LabelFusionOutput, LabelFusionPreTrainedModel


class LabelFusionForSequenceClassification(PlainState, LabelFusionPreTrainedModel):
    """Any Hugging Face encoder with a classification head, fused with LLM scores by a pool and a `FusionMLP`.

    `logits = ScorePool(encoder_logits, llm_scores) + FusionMLP([norm(embedding); llm_scores; mask])`. A text without
    scores gets exactly `encoder_logits`, so one checkpoint works with and without its LLMs. If a multi-label model has
    a `LabelSetHead`, it is applied last to both logits.

    Method: *LabelFusion: Learning to Fuse LLMs and Transformer Classifiers for Robust Text Classification*
    (arXiv:2512.10793); the pool in front of the MLP is a logarithmic opinion pool with learned weights (Genest and
    Zidek 1986).

    Args:
        config: The model's configuration. `config.encoder_config` may belong to any encoder that `AutoModel` supports.
    """

    # The loss is a mean over the batch. False makes the Trainer scale it for gradient accumulation.
    accepts_loss_kwargs = False

    def __init__(self, config: LabelFusionConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = without_pooler(AutoModel.from_config(config.encoder_config))
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.classifier = ClassificationHead(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.lexical_head: LexicalHead | None = None
        self.kernel_head: KernelHead | None = None
        self.novelty_head: NoveltyHead | None = None
        self.inner_novelty_head: NoveltyHead | None = None
        self.label_set_head: LabelSetHead | None = None
        self.quick_head: QuickHead | None = None
        self.set_heads(**{name: getattr(config, name) for name in HEADS})
        self._encoder_arguments = frozenset(inspect.signature(self.encoder.forward).parameters)
        self.register_load_state_dict_pre_hook(_with_new_names)
        self.post_init()

    @property
    def encoder_head(self) -> nn.Linear:
        """The linear head on the encoder's embedding."""
        return self.classifier.encoder_head

    @property
    def score_pool(self) -> ScorePool:
        """The pool of the encoder's logits and the LLM scores."""
        return self.classifier.score_pool

    @property
    def fusion_mlp(self) -> FusionMLP | None:
        """The MLP that corrects the pool, if there is one."""
        return self.classifier.fusion_mlp

    @property
    def baseline(self) -> BaselineFusion | None:
        """What combines the sources instead of the pool, if `config.fusion` names a baseline."""
        return self.classifier.baseline

    @classmethod
    def from_encoder_pretrained(
        cls,
        encoder_name_or_path: str | os.PathLike[str],
        labels: list[str] | None = None,
        num_labels: int | None = None,
        llm_providers: list[LLMProvider | str | dict[str, Any]] | None = None,
        multi_label: bool = False,
        encoder_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """Add a new fusion head to a pretrained encoder.

        Args:
            encoder_name_or_path: Hub id or folder of an encoder.
            labels: Class names, in the order of the logits.
            num_labels: Number of classes, if `labels` is not given.
            llm_providers: As in [`LabelFusionConfig`].
            multi_label: Whether a text may have several classes.
            encoder_kwargs: For `AutoModel.from_pretrained` (`revision`, `token`, `attn_implementation`, ...). The
                default `dtype` is float32, because half precision trains badly.
            **config_kwargs: For [`LabelFusionConfig`].

        Raises:
            ValueError: If neither `labels` nor `num_labels` is given, they contradict each other, weights are
                missing, or the model is not a text encoder.
        """
        if labels is None and num_labels is None:
            raise ValueError("Give `labels` (the class names) or `num_labels`.")
        if labels is not None:
            if num_labels not in (None, len(labels)):
                raise ValueError(f"`num_labels` is {num_labels} but `labels` names {len(labels)} classes.")
            config_kwargs["id2label"] = dict(enumerate(labels))
        else:
            config_kwargs["num_labels"] = num_labels
        encoder_kwargs = {"dtype": torch.float32, **(encoder_kwargs or {})}
        encoder = load_encoder(encoder_name_or_path, **encoder_kwargs)
        config = LabelFusionConfig(
            encoder_config=encoder.config,
            llm_providers=llm_providers,
            problem_type="multi_label_classification" if multi_label else "single_label_classification",
            **config_kwargs,
        )
        model = cls(config)
        model.encoder.load_state_dict(without_pooler(encoder).state_dict())
        return model.to(dtype=encoder.dtype)

    def set_pooling_layers(self, layers: list[int]) -> None:
        """Add inner layers to the input of the linear head. This creates a new head, all zeros."""
        self.config.pooling_layers = list(layers)
        head = nn.Linear(self.config.pooled_size, self.num_labels).to(self.encoder_head.weight)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.classifier.encoder_head = head

    def set_heads(self, **sizes: int) -> None:
        """Create additional heads, all zeros. Heads that are not named are kept.

        Args:
            **sizes: Config options `lexical_size`, `kernel_size`, `novelty_size`, `inner_novelty_size`,
                `label_set_size`, `quick_size`; 0 removes the head.
        """
        for name, size in sizes.items():
            head = HEADS[name](size, self.config.hidden_size, self.num_labels) if size else None
            setattr(self.config, name, size)
            setattr(self, name.replace("_size", "_head"), head if head is None else head.to(self.encoder_head.weight))
        for head_name in (name.replace("_size", "_head") for name in HEADS):
            if head_name in self._modules:  # the order of the parameters does not depend on what was created first
                self._modules[head_name] = self._modules.pop(head_name)

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embeddings."""
        self.encoder.set_input_embeddings(value)

    def encode(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        encoder: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        """Run the encoder.

        Args:
            input_ids: int64 `(batch, sequence)`.
            attention_mask: `(batch, sequence)`, 1 for tokens and 0 for padding.
            encoder: What is run in place of the encoder, such as an `OpenVinoEncoder`.
            **kwargs: Other inputs of the encoder. Inputs that it does not accept (`token_type_ids` for DistilBERT) are
                dropped.

        Returns:
            `(embedding, outputs)`: float `(batch, config.embedding_size)` and the encoder's own output. The embedding
            concatenates that of the encoder with, if the model has them, those of the `pooling_layers`, the logits of
            the lexical head and the out-of-distribution score.
        """
        inputs = {k: v for k, v in kwargs.items() if v is not None and k in self._encoder_arguments}
        for name in ("output_attentions", "output_hidden_states"):  # every encoder accepts them, most in **kwargs
            wanted = kwargs.get(name)
            inputs[name] = getattr(self.config, name) if wanted is None else wanted
        wanted, inner = inputs["output_hidden_states"], self.config.pooling_layers
        some = isinstance(wanted, list | tuple)  # numbers of layers
        inputs["output_hidden_states"] = [*wanted, *inner] if some else wanted or bool(inner)
        run = self.encoder if encoder is None else encoder
        outputs = run(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **inputs)
        layers = [outputs.hidden_states[i] for i in inner]
        if layers and some:
            shown = {i % len(outputs.hidden_states) for i in wanted}
            outputs.hidden_states = tuple(x if i in shown else None for i, x in enumerate(outputs.hidden_states))
        elif layers and not wanted:
            outputs.hidden_states = None
        embedding, *deeper = [self._pool(x, attention_mask) for x in (outputs.last_hidden_state, *layers)]
        parts = [embedding, *deeper]
        if self.lexical_head is not None:
            if input_ids is None:
                raise ValueError("This model reads words too: give `input_ids`, not `inputs_embeds`.")
            parts.append(self.lexical_head(input_ids, attention_mask).to(embedding))
        if self.novelty_head is not None:
            parts.append(self.novelty(torch.cat([embedding, *deeper], dim=1)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else embedding, outputs

    def novelty(self, pooled: torch.Tensor) -> torch.Tensor:
        """Out-of-distribution scores, float `(batch, 1)` in [0, 1]: the larger one of the two novelty heads.

        Args:
            pooled: float `(batch, config.pooled_size)`: the embeddings of the last layer and of the `pooling_layers`.
        """
        assert self.novelty_head is not None
        width = self.config.hidden_size
        score: torch.Tensor = self.novelty_head(pooled[:, :width])
        if self.inner_novelty_head is None:
            return score
        return torch.maximum(score, self.inner_novelty_head(pooled[:, -width:]))

    def _pool(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if self.config.pooling == "cls":
            return tokens[:, 0]
        if attention_mask is None:
            return tokens.mean(dim=1)
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)

    def fuse(
        self, embedding: torch.Tensor, llm_scores: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute logits from the encoder's embedding and the LLM scores: the cheap half of the forward pass.

        Args:
            embedding: float `(batch, config.embedding_size)` from `encode`.
            llm_scores: float `(batch, num_providers, num_labels)`, NaN for missing; `None`: all missing.

        Returns:
            `(logits, encoder_logits)`, both float `(batch, num_labels)`.

        Raises:
            ValueError: If `embedding` or `llm_scores` has the wrong shape.
        """
        if embedding.shape[1] != self.config.embedding_size:
            raise ValueError(
                f"`embedding` is {embedding.shape[1]} wide, expected {self.config.embedding_size}: take what `encode` "
                "of this model returns."
            )
        lexical_logits = embedding[:, self.config.pooled_size :][:, : self.num_labels]
        head_logits = self.encoder_head(self.dropout(embedding[:, : self.config.pooled_size]))
        embedding = embedding[:, : self.config.hidden_size]
        if self.lexical_head is not None:
            head_logits = head_logits + lexical_logits
        if self.kernel_head is not None:
            head_logits = head_logits + self.kernel_head(embedding)
        return self.fuse_head_logits(head_logits, embedding, llm_scores)

    def fuse_head_logits(
        self, head_logits: torch.Tensor, embedding: torch.Tensor, llm_scores: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute logits from the sum of the encoder's heads and the LLM scores: the last part of `fuse`.

        Args:
            head_logits: float `(batch, num_labels)`, before the encoder's temperature.
            embedding: float `(batch, hidden_size)`: the encoder's last layer.
            llm_scores: As for `fuse`.

        Returns:
            As `fuse`.

        Raises:
            ValueError: If `llm_scores` has the wrong shape.
        """
        encoder_logits = apart = head_logits / self.config.calibration["encoder_temperature"]
        if self.label_set_head is not None:
            encoder_logits = self.label_set_head(apart)
        if (
            llm_scores is None and self.training and self.classifier.fusion_parameters()
        ):  # so that every weight has a gradient
            llm_scores = embedding.new_full((len(embedding), self.config.num_providers, self.num_labels), float("nan"))
        if llm_scores is None:
            return encoder_logits, encoder_logits
        expected = (embedding.shape[0], self.config.num_providers, self.num_labels)
        if tuple(llm_scores.shape) != expected:
            raise ValueError(
                f"`llm_scores` has shape {tuple(llm_scores.shape)}, expected {expected}: (batch, num_providers, "
                "num_labels). The config declares the providers; fill a missing answer with NaN."
            )
        if self.config.num_providers == 0:
            return encoder_logits, encoder_logits
        llm_scores = llm_scores.to(embedding.device)
        if self.training and self.config.score_dropout > 0:
            hidden = torch.rand(expected[:2], device=embedding.device) < self.config.score_dropout
            llm_scores = llm_scores.masked_fill(hidden.unsqueeze(-1), float("nan"))
        if self.config.calibration.get("score_maps"):
            maps, floor = self.config.calibration["score_maps"], self.config.score_floor
            llm_scores = map_scores(llm_scores, maps, self.config.multi_label, floor)
        evidence, mask = pool_features(llm_scores, self.config.multi_label, self.config.score_floor)
        evidence, mask = evidence.to(embedding.dtype), mask.to(embedding.dtype)
        if self.baseline is not None:
            logits = self.baseline(encoder_logits, llm_scores.to(embedding.dtype))
        else:
            logits = self.score_pool(apart, evidence, mask)
            if self.fusion_mlp is not None:
                logits = logits + self.fusion_mlp(embedding, evidence, mask)
            if self.label_set_head is not None:  # last, so that LLM scores of one class inform related classes
                logits = self.label_set_head(logits)
        # A text without LLM answers keeps the encoder's logits and calibration.
        answered = mask.sum(dim=-1, keepdim=True) > 0
        logits = calibrated(logits, self.config.calibration, self.config.multi_label)
        logits = torch.where(answered, logits, encoder_logits)
        return logits, encoder_logits

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        llm_scores: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
        return_dict: bool | None = None,
    ) -> LabelFusionOutput | tuple[torch.Tensor, ...]:
        """Classify.

        Args:
            input_ids: int64 `(batch, sequence)`.
            attention_mask: `(batch, sequence)`, 1 for tokens and 0 for padding.
            token_type_ids: int64 `(batch, sequence)`, for encoders that use it.
            position_ids: int64 `(batch, sequence)`, for encoders that use it.
            inputs_embeds: float `(batch, sequence, hidden)` instead of `input_ids`.
            llm_scores: float `(batch, num_providers, num_labels)`: probabilities, NaN for a missing answer; `None`: all
                missing.
            labels: int64 `(batch,)` class indices, or float `(batch, num_labels)` 0/1 for multi-label.
            output_attentions: Whether to return the encoder's attentions.
            output_hidden_states: Whether to return the encoder's hidden states, or the numbers of those to return, with
                None for the others (from Transformers 5.24 on).
            return_dict: `False` for a tuple.

        Returns:
            [`LabelFusionOutput`].

        Raises:
            ValueError: If `llm_scores` or `labels` has the wrong shape.
        """
        embedding, outputs = self.encode(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        logits, encoder_logits = self.fuse(embedding, llm_scores)
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels)
            if self.config.encoder_loss_weight > 0:
                loss = loss + self.config.encoder_loss_weight * self._loss(encoder_logits, labels)
        output = LabelFusionOutput(
            loss=loss,
            logits=logits,
            encoder_logits=encoder_logits,
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if not self.config.multi_label:
            if labels.dim() != 1 or labels.dtype.is_floating_point:
                raise ValueError(
                    f"`labels` has shape {tuple(labels.shape)} and dtype {labels.dtype}; single-label classification "
                    "takes int64 class indices (batch,). For 0/1 vectors set problem_type='multi_label_classification'."
                )
            return F.cross_entropy(logits.float(), labels)
        if labels.shape != logits.shape:
            raise ValueError(
                f"`labels` has shape {tuple(labels.shape)}; multi-label classification takes 0/1 vectors "
                f"{tuple(logits.shape)}: (batch, num_labels)."
            )
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


def _with_new_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let `load_state_dict` take the names of weights from before the parts were inside `classifier`."""
    for name in [name for name in state_dict if name.startswith(prefix)]:
        new = name.removeprefix(prefix)
        for old, pattern in OLD_NAMES.items():
            new = re.sub(old, pattern, new)
        if prefix + new != name:
            state_dict[prefix + new] = state_dict.pop(name)
