"""Queries the LLMs about the training rows that have no scores."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .configuration import LabelFusionConfig, ProviderKind
from .scoring.asker import Asker, as_budget
from .training.data import LabelledTexts
from .training.scored_rows import scoring_order

if TYPE_CHECKING:
    from .scoring.budget import Budget

logger = logging.getLogger(__name__)


def score_training_rows(
    data: LabelledTexts,
    config: LabelFusionConfig,
    make_scorers: Callable[[], list[Any]],
    *,
    max_rows: int,
    max_cost_usd: "float | Budget | None" = None,
    encoder_probs: Callable[[], NDArray[np.floating]] | None = None,
    write_guidelines: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> tuple[NDArray[np.float32] | None, float]:
    """Complete the LLM scores of the training data.

    Args:
        data: n training rows; existing scores are kept.
        config: The model's config. The prior that a local model estimates from the texts is stored in its provider.
        make_scorers: Makes one scorer per provider; called only if there are rows to query.
        max_rows: Maximum number of rows with scores.
        max_cost_usd: US dollars that may be spent, guidelines included, or a budget.
        encoder_probs: Returns float `(n, K)`, the encoder's out-of-sample probabilities. Called if not all rows may be
            scored, to choose them by `scoring_order`. `None`: rows are drawn evenly.
        write_guidelines: See `complete_providers`.
        seed: Seed of the draw.
        progress: Show a progress bar.

    Returns:
        float32 `(n, P, K)` with NaN for missing, or `None` without providers; and the dollars spent.

    Raises:
        ValueError: If `"recorded"` scores are not in the data, or the LLM answered no row.
    """
    if not config.num_providers:
        return None, 0.0
    scores = data.llm_scores
    if scores is None:
        scores = np.full((len(data), config.num_providers, config.num_labels), np.nan, dtype=np.float32)
    if all(p.kind == ProviderKind.RECORDED for p in config.providers):
        if np.isnan(scores).any(axis=2).all():
            raise ValueError(
                "llm='recorded' takes the scores from the data, but there is no `llm_scores` column with any. "
                "Add it (providers x classes a row), name an LLM to ask, or pass llm=None."
            )
        return scores, 0.0
    without = np.flatnonzero(np.all(np.isnan(scores).any(axis=2), axis=1))
    room = max(0, max_rows - (len(data) - len(without)))
    rows = without[:room]
    if len(rows) and (len(rows) < len(without) or max_cost_usd is not None):
        probs = None if encoder_probs is None else encoder_probs()[without]
        rows = without[scoring_order(probs, len(without), config.multi_label, seed)[:room]]
    if len(rows) == 0:
        return scores, 0.0
    if len(rows) < len(without):
        logger.info("The LLM is asked about %d of %d rows (`max_scored_rows`).", len(rows), len(without))
    budget = as_budget(max_cost_usd)
    before = budget.spent if budget is not None else 0.0
    spent = complete_providers(data, config, write_guidelines=write_guidelines, max_cost_usd=budget, seed=seed)
    scorers = make_scorers()
    answers = Asker(config, scorers, budget, progress=progress).submit([data.texts[i] for i in rows]).result()
    scores = scores.copy()
    scores[rows] = answers.scores
    if np.isnan(scores).any(axis=2).all():
        reasons = sorted(set(answers.missing.values()))[:3]
        raise ValueError(f"The LLM gave no answer for any of {len(rows)} rows: {'; '.join(reasons) or 'no reason'}.")
    for i, scorer in enumerate(scorers):
        prior = getattr(scorer, "prior", None)
        if prior is not None:
            config.llm_providers[i]["prior"] = [round(float(x), 5) for x in prior]
    return scores, budget.spent - before if budget is not None else spent + float(answers.cost_usd.sum())


def complete_providers(
    data: LabelledTexts,
    config: LabelFusionConfig,
    *,
    write_guidelines: bool = False,
    max_cost_usd: "float | Budget | None" = None,
    seed: int = 0,
) -> float:
    """Store what the prompts need at prediction time in the config: few-shot examples and, optionally, guidelines.

    Args:
        data: Labelled texts to draw examples from. The chosen examples are saved with the model.
        config: The model's config.
        write_guidelines: Let each LLM behind an API write guidelines for the task, once.
        max_cost_usd: US dollars that this may cost, or a budget.
        seed: Seed of the choice of examples.

    Returns:
        US dollars spent.
    """
    from .scoring.guidelines import write_guidelines as write
    from .scoring.prompting.examples import balanced_examples

    pool, labels, spent = (data.texts, data.names()), config.label_names, 0.0
    budget = as_budget(max_cost_usd)
    for i, provider in enumerate(config.providers):
        if provider.prompt == "few-shot" and not provider.examples:
            provider.examples = [dict(e) for e in balanced_examples(pool, labels, provider.num_examples, seed)]
            logger.warning(
                "%d training texts are saved with the model as examples for %s.", len(provider.examples), provider.name
            )
        if write_guidelines and provider.kind == ProviderKind.API:
            provider, usage = write(
                provider,
                labels,
                config.multi_label,
                config.class_descriptions,
                pool=pool,
                max_cost_usd=budget,
                seed=seed,
            )
            spent += usage.cost_usd
        config.llm_providers[i] = provider.to_dict()
    return spent
