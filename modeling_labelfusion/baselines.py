"""Baselines for the fusion: weighted average, majority vote, class routing."""

import torch
from torch import nn
from torch.nn import functional as F

BASELINES = ("weighted", "vote", "routing")


class BaselineFusion(nn.Module):
    """Combine the sources' probabilities without the embedding.

    * `"weighted"`: weighted arithmetic mean (a linear opinion pool), one weight per source.
    * `"vote"`: each source votes for its classes; the mean probability breaks ties.
    * `"routing"`: the answer of the source that is most reliable for the class that it predicts. Multi-label: for each
      class, the answer of the source that is most reliable for it.

    Args:
        method: One of `BASELINES`.
        num_providers: Number of LLMs.
        num_labels: Number of classes.
        multi_label: Whether the classes are independent.
    """

    def __init__(self, method: str, num_providers: int, num_labels: int, multi_label: bool) -> None:
        super().__init__()
        self.method, self.multi_label = method, multi_label
        # Reliability of each source for each class, encoder first; not used by "vote". "routing" only compares them.
        self.weight = nn.Parameter(torch.ones(1 + num_providers, num_labels), requires_grad=method == "weighted")

    def forward(self, encoder_logits: torch.Tensor, llm_scores: torch.Tensor) -> torch.Tensor:
        """Combine.

        Args:
            encoder_logits: float `(batch, num_labels)`.
            llm_scores: float `(batch, num_providers, num_labels)`, NaN for missing.

        Returns:
            float `(batch, num_labels)`: logits of the combined probabilities.
        """
        own = encoder_logits.sigmoid() if self.multi_label else encoder_logits.softmax(dim=-1)
        present = ~torch.isnan(llm_scores).any(dim=-1)
        probs = torch.cat([own.unsqueeze(1), torch.where(present.unsqueeze(-1), llm_scores, 0.0)], dim=1)
        mask = F.pad(present, (1, 0), value=True).to(probs.dtype).unsqueeze(-1)  # (batch, sources, 1)
        if self.method == "weighted":
            weight = self.weight * mask
            combined = (weight * probs).sum(dim=1) / weight.sum(dim=1)
        elif self.method == "vote":
            share = (self._votes(probs) * mask).sum(dim=1) / mask.sum(dim=1)
            mean = (probs * mask).sum(dim=1) / mask.sum(dim=1)
            combined = 0.99 * share + 0.01 * mean
        else:
            combined = self._routed(probs, mask)
        combined = combined.clamp(1e-4, 1 - 1e-4)
        return combined.logit() if self.multi_label else combined.log()

    def _votes(self, probs: torch.Tensor) -> torch.Tensor:
        if self.multi_label:
            return (probs >= 0.5).to(probs.dtype)
        return F.one_hot(probs.argmax(dim=-1), probs.shape[-1]).to(probs.dtype)

    def _routed(self, probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        absent = torch.where(mask > 0, 0.0, float("-inf"))
        if self.multi_label:
            source = (self.weight + absent).argmax(dim=1, keepdim=True)  # (batch, 1, num_labels)
            return probs.gather(1, source).squeeze(1)
        trust = (self.weight * self._votes(probs)).sum(dim=-1, keepdim=True) + absent
        source = trust.argmax(dim=1, keepdim=True).expand(-1, 1, probs.shape[-1])
        return probs.gather(1, source).squeeze(1)
