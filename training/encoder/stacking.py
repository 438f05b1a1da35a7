"""The step of the recipe that stacks the TF-IDF head and the kernel head on the encoder's linear head."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..losses import log_loss, minimize
from .encoder_sources import Neighbours, Words, bags_of_words, fit_neighbours, fit_words

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState

FEWEST_ROWS = 100  # with fewer, the TF-IDF head and the kernel head were never better than the probe alone
LEAST_WEIGHT = 0.02


def stack_sources(state: "FitState") -> "FitState":
    """Fit the TF-IDF head, and the kernel head if the encoder is frozen; weight them by stacking out-of-fold logits."""
    if not state.options.extra_sources or len(state.texts) < FEWEST_ROWS:
        return state
    targets, folds, rows = state.targets, state.folds, torch.from_numpy(state.covered)
    others: list[Words | Neighbours] = []
    if state.frozen:
        own = state.embeddings[:, : state.config.hidden_size]
        others.append(fit_neighbours(own, targets, folds, state.num_labels, state.multi_label))
    bags, size = bags_of_words(state.encoder, state.texts)
    others.append(fit_words(bags, targets, folds, size, state.num_labels, state.multi_label))
    logits, weights = combine(state.model, state.encoder_logits, others, targets, rows)
    losses = {type(source).__name__.lower(): source.loss for source in others}
    losses["together"] = float(log_loss(logits[rows], targets[rows], state.multi_label).mean())
    rounded = {name: round(loss, 5) for name, loss in losses.items()}
    return replace(state.told(encoder_log_loss=rounded, encoder_weights=weights), encoder_logits=logits)


def stack(sources: list[torch.Tensor], labels: torch.Tensor, multi_label: bool) -> list[float]:
    """Fit non-negative weights for a sum of sources (Wolpert 1992, "Stacked generalization").

    Args:
        sources: Logits float32 `(n, K)`, out-of-fold.
        labels: int64 `(n,)` or float32 `(n, K)`.
        multi_label: Whether the classes are independent.
    """
    logits = torch.stack(sources)
    roots = torch.full((len(sources), 1, 1), len(sources) ** -0.5, requires_grad=True)

    def objective() -> torch.Tensor:
        prior = (roots.square() - 1 / len(sources)).square().sum()
        return log_loss((roots.square() * logits).sum(dim=0), labels, multi_label).mean() + 0.5 * prior / len(labels)

    minimize(objective, [roots])
    weights = roots.detach().square().flatten().tolist()
    return [w if w >= LEAST_WEIGHT else 0.0 for w in weights]


def combine(
    model: "LabelFusionForSequenceClassification",
    own_logits: torch.Tensor,
    others: list[Words | Neighbours],
    labels: torch.Tensor,
    rows: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Set the heads of the model to the weighted sum of its linear head and other sources.

    Args:
        model: Changed in place.
        own_logits: Out-of-sample logits float32 `(n, K)` of its linear head.
        others: The other sources.
        labels: int64 `(n,)` or float32 `(n, K)`.
        rows: bool `(n,)`: rows with known `own_logits`, on which the weights are fitted.

    Returns:
        Out-of-sample logits float32 `(n, K)` of the sum, and the weight of each source.
    """
    logits = [own_logits, *(source.out_of_fold_logits for source in others)]
    own, *weights = stack([x[rows] for x in logits], labels[rows], model.config.multi_label)
    chosen = [(w, source) for w, source in zip(weights, others, strict=True) if w]
    model.set_heads(
        lexical_size=sum(len(s.weight) - 1 for _, s in chosen if isinstance(s, Words)),
        kernel_size=sum(len(s.head.landmarks) for _, s in chosen if isinstance(s, Neighbours)),
    )
    with torch.no_grad():
        model.encoder_head.weight.mul_(own)
        model.encoder_head.bias.mul_(own)
        for w, source in chosen:
            model.encoder_head.bias.add_(w * source.bias.to(model.device))
            if isinstance(source, Words):
                assert model.lexical_head is not None
                model.lexical_head.weight.copy_(source.weight)
                model.lexical_head.weight[:, :-1].mul_(w)
            else:
                assert model.kernel_head is not None
                model.kernel_head.load_state_dict(source.head.state_dict())
                model.kernel_head.weight.mul_(w)
    total = torch.stack([w * x for w, x in zip([own, *weights], logits, strict=True)]).sum(dim=0)
    names = ["encoder", *(type(source).__name__.lower() for source in others)]
    return total, {name: round(w, 3) for name, w in zip(names, [own, *weights], strict=True)}
