"""The fusion of an encoder with LLM scores: a log-linear pool of the sources plus a small MLP on top, as one module."""

import torch
from torch import nn
from torch.nn import functional as F

from ..configuration import LabelFusionConfig
from .baselines import BASELINES, BaselineFusion

# Names of weights in files from before these modules were inside one.
OLD_NAMES = {r"^(encoder_head|score_pool|fusion_mlp|baseline)\.": r"classifier.\1."}


def pool_features(llm_scores: torch.Tensor, multi_label: bool, floor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert LLM scores to evidence that can be added to logits, and a mask of present answers.

    Single-label evidence is the log probability, centred over the classes. Multi-label evidence is the logit of each
    probability. Probabilities are clipped `floor` away from 0 (multi-label: also from 1). This is computed in float32
    or better, because in bfloat16 1 - floor rounds to 1, whose logit is infinite.

    Args:
        llm_scores: float `(batch, num_providers, num_labels)`, NaN where a provider has no answer.
        multi_label: Whether the classes are independent.
        floor: Smallest probability before the logarithm.

    Returns:
        `(evidence, mask)`: float `(batch, num_providers, num_labels)`, zero where an answer is missing, and float
        `(batch, num_providers)`, 1 where there is an answer.
    """
    llm_scores = llm_scores.to(torch.promote_types(llm_scores.dtype, torch.float32))
    present = ~torch.isnan(llm_scores).any(dim=-1)
    scores = torch.where(present.unsqueeze(-1), llm_scores, 0.5)
    if multi_label:
        evidence = torch.logit(scores.clamp(floor, 1.0 - floor))
    else:
        evidence = scores.clamp_min(floor).log()
        evidence = evidence - evidence.mean(dim=-1, keepdim=True)
    mask = present.to(evidence.dtype)
    return evidence * mask.unsqueeze(-1), mask


def pool_logits(
    encoder_logits: torch.Tensor,
    evidence: torch.Tensor,
    mask: torch.Tensor,
    encoder_shift: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """Compute `ScorePool` as a function. The tensors have the shapes of its parameters."""
    from_llms = torch.einsum("bpj,pjk->bk", evidence, weight) + mask @ bias
    return encoder_logits * (1.0 + mask @ encoder_shift) + from_llms


class ScorePool(nn.Module):
    """Log-linear pool of the encoder's logits and the evidence of the LLMs.

    If all scores are missing, the result is exactly the encoder's logits.

    Args:
        num_providers: Number of LLMs.
        num_labels: Number of classes.
    """

    def __init__(self, num_providers: int, num_labels: int) -> None:
        super().__init__()
        self.num_providers, self.num_labels = num_providers, num_labels
        # Change of the encoder's weight per present provider and class.
        self.encoder_shift = nn.Parameter(torch.empty(num_providers, num_labels))
        # Maps evidence for class j to the logit of class k. Off-diagonal entries correct confusions between classes.
        self.weight = nn.Parameter(torch.empty(num_providers, num_labels, num_labels))
        self.bias = nn.Parameter(torch.empty(num_providers, num_labels))
        # Change of the other providers' contributions (all of the above) per missing provider.
        self.missing_shift = nn.Parameter(torch.empty(num_providers, num_providers))
        self.requires_grad_(num_providers > 0)  # without any, training would wait for gradients of empty tensors
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise a plain pool: encoder weight unchanged, a total weight of one half split evenly over the LLMs."""
        self.encoder_shift.zero_()
        self.bias.zero_()
        self.missing_shift.zero_()
        self.weight.copy_(torch.eye(self.num_labels).expand_as(self.weight) * (0.5 / max(self.num_providers, 1)))

    def forward(self, encoder_logits: torch.Tensor, evidence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool.

        Args:
            encoder_logits: float `(batch, num_labels)`.
            evidence: float `(batch, num_providers, num_labels)` from `pool_features`.
            mask: float `(batch, num_providers)`.

        Returns:
            float `(batch, num_labels)`.
        """
        say = 1.0 + (1.0 - mask) @ self.missing_shift
        inputs = evidence * say.unsqueeze(-1), mask * say
        return pool_logits(encoder_logits, *inputs, self.encoder_shift, self.weight, self.bias)


class FusionMLP(nn.Module):
    """A compact MLP over the encoder's embedding concatenated with the per-class LLM scores.

    The last layer is initialised to zero, so the MLP adds nothing until training finds errors of the pool.

    Args:
        hidden_size: Width of the encoder's embedding.
        num_providers: Number of LLMs.
        num_labels: Number of classes.
        fusion_hidden_size: Width of the hidden layer.
        dropout: Dropout probability on the input and the hidden layer.
    """

    def __init__(
        self, hidden_size: int, num_providers: int, num_labels: int, fusion_hidden_size: int = 64, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.dense = nn.Linear(hidden_size + num_providers * (num_labels + 1), fusion_hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(fusion_hidden_size, num_labels)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)
        self.out_proj.starts_at_zero = True  # type: ignore[assignment]  # for `PreTrainedModel._init_weights`, which would overwrite it

    def forward(self, embedding: torch.Tensor, evidence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute the correction to the pooled logits.

        Args:
            embedding: float `(batch, hidden_size)`.
            evidence: float `(batch, num_providers, num_labels)` from `pool_features`.
            mask: float `(batch, num_providers)`.

        Returns:
            float `(batch, num_labels)`. It shrinks with the number of present answers, and is zero without any.
        """
        scores = torch.tanh(evidence / 4.0).flatten(1)  # bounded, so that one-hot and graded scores are similar
        features = torch.cat([self.norm(embedding), scores, mask], dim=-1)
        hidden = F.gelu(self.dense(self.dropout(features)))
        answered = mask.mean(dim=-1, keepdim=True).to(hidden.dtype)
        return self.out_proj(self.dropout(hidden)) * answered


class ClassificationHead(nn.Module):
    """Linear head of the encoder, and fusion. The model calls its parts.

    The model has it as `classifier`, a name that PEFT knows: for `TaskType.SEQ_CLS` it trains and saves all of it.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: LabelFusionConfig) -> None:
        super().__init__()
        providers, num_labels = config.num_providers, config.num_labels
        self.encoder_head = nn.Linear(config.pooled_size, num_labels)
        self.score_pool = ScorePool(providers, num_labels)
        self.fusion_mlp: FusionMLP | None = None
        self.baseline: BaselineFusion | None = None
        if config.fusion == "mlp" and providers > 0:
            width = config.fusion_hidden_size
            self.fusion_mlp = FusionMLP(config.hidden_size, providers, num_labels, width, config.fusion_dropout)
        if config.fusion in BASELINES:  # in the place of the pool
            self.baseline = BaselineFusion(config.fusion, providers, num_labels, config.multi_label)
            self.score_pool.requires_grad_(False)

    def fusion_parameters(self) -> list[nn.Parameter]:
        """Those of the fusion that are trained, without the encoder's head."""
        parts = (self.score_pool, self.fusion_mlp, self.baseline)
        return [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]
