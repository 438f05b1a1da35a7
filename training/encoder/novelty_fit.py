"""Fits the novelty heads, which compute out-of-distribution scores from the encoder's embeddings."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...modeling_labelfusion.heads import NoveltyHead

if TYPE_CHECKING:
    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ..fit_state import FitState

DIRECTIONS = 32  # principal components; 16 or 64 separate the benchmark's data sets equally well
FEWEST_ROWS = 20
MOST_ENCODED = 2000  # rows that a trained encoder encodes again
BEGIN, WIDTH = 0.99, 0.3  # scores rise from 0 at this quantile of the training distances to 1 at this share beyond


def measure_novelty(state: "FitState") -> "FitState":
    """Give the model an out-of-distribution score, measured out-of-fold for the training texts."""
    if state.frozen:
        return replace(state, novelty=fit_novelty(state.model, state.embeddings, state.folds))
    if not state.config.num_providers:
        return state
    # A trained encoder needs new embeddings, of the fused rows first, then of others up to the limit.
    needed = state.scored & state.covered
    others = np.random.default_rng(state.options.seed).permutation(np.flatnonzero(~needed))
    rows = np.sort(np.concatenate([np.flatnonzero(needed), others[: max(0, MOST_ENCODED - int(needed.sum()))]]))
    embeddings = state.encoder([state.texts[i] for i in rows])
    novelty = state.novelty.copy()
    novelty[rows] = fit_novelty(state.model, embeddings, state.folds[rows])
    return replace(state, novelty=novelty)


def fit_novelty(
    model: "LabelFusionForSequenceClassification", embeddings: torch.Tensor, folds: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Fit the novelty heads of `model`, or none if it has no LLM to query, or rows are too few or identical.

    One head sees the last layer, which tells other topics; the other one, if there are `pooling_layers`, the last of
    these, which tells other styles: in the last layer of gte-small, single sentences from reports on the climate lie
    among the briefs of AG News. The higher score counts.

    Args:
        model: The model; changed in place.
        embeddings: float32 `(n, pooled_size)` of its encoder, or wider.
        folds: int64 `(n,)`: the distance of a row is measured without its fold.

    Returns:
        float32 `(n,)`: the out-of-fold score of each row.
    """
    model.set_heads(novelty_size=0, inner_novelty_size=0)
    config = model.config
    nothing = np.zeros(len(embeddings), dtype=np.float32)
    if not (config.num_providers and len(embeddings) >= FEWEST_ROWS and len(np.unique(folds)) > 1):
        return nothing
    starts = {"novelty": 0}
    if config.pooling_layers:
        starts["inner_novelty"] = config.pooled_size - config.hidden_size
    views = {name: embeddings[:, at : at + config.hidden_size].double() for name, at in starts.items()}
    distances = {name: _out_of_fold(points, folds) for name, points in views.items()}
    usual = {name: float(np.quantile(d.numpy(), BEGIN, method="higher")) for name, d in distances.items()}
    if not all(0.0 < x < np.inf for x in usual.values()):
        return nothing
    # In units of what is usual for each, so that the larger of the two is as rarely beyond `begin`.
    ratio = torch.stack([distances[name] / usual[name] for name in views]).amax(dim=0)
    begin = float(np.quantile(ratio.numpy(), BEGIN, method="higher"))
    for name, points in views.items():
        _set_head(model, name, points, begin * usual[name])
    return ((ratio / begin - 1.0) / WIDTH).clamp(0.0, 1.0).float().numpy()


def _out_of_fold(points: torch.Tensor, folds: NDArray[np.int64]) -> torch.Tensor:
    """float64 `(n,)`: the distance of each row from the others, without its fold."""
    distances = torch.zeros(len(points), dtype=torch.float64)
    for fold in np.unique(folds):
        held_out = torch.from_numpy(folds == fold)
        distances[held_out] = _distance(points[held_out], *_principal(points[~held_out]))
    return distances


def _set_head(model: "LabelFusionForSequenceClassification", name: str, points: torch.Tensor, begin: float) -> None:
    """Give the model the head `name`, whose score rises from 0 at the distance `begin`."""
    width = WIDTH * begin
    center, directions, rest = _principal(points)
    model.set_heads(**{f"{name}_size": len(directions)})
    head = getattr(model, f"{name}_head")
    assert isinstance(head, NoveltyHead)
    with torch.no_grad():
        head.center.copy_(center)
        head.directions.copy_(directions / width**0.5)
        head.scale.copy_(torch.tensor([1.0 / (rest * width), begin / width]))


def _principal(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Compute centre `(d,)`, directions `(r, d)` and the variance in all other directions, for `_distance`."""
    n, width = points.shape
    center = points.mean(dim=0)
    values, vectors = torch.linalg.eigh((points - center).T @ (points - center) / max(n - 1, 1))
    values = values.clamp_min(0.0)
    kept = max(min(DIRECTIONS, n // 4, width - 1), 1)
    rest = float(values[:-kept].mean().clamp_min(1e-3 * values.mean()).clamp_min(1e-12))
    # Along a component of variance v, the squared distance has weight 1 / v instead of 1 / rest.
    weight = (1.0 / rest - 1.0 / values[-kept:].clamp_min(rest)).sqrt()
    return center, (vectors[:, -kept:] * weight).T, rest


def _distance(points: torch.Tensor, center: torch.Tensor, directions: torch.Tensor, rest: float) -> torch.Tensor:
    """float `(n,)`: squared distances from the training texts, of float `(n, d)` embeddings."""
    z = points - center
    return z.square().sum(dim=1) / rest - (z @ directions.T).square().sum(dim=1)
