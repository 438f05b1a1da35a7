"""Selects the training rows to send to the LLMs (active learning), and queries the LLMs about them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig, ProviderKind, Task
from ..routing.gate import expected_error
from ..scoring.asker import Asker
from ..scoring.budget import Budget, as_budget
from ..scoring.probabilities import to_probabilities
from .data import LabelledTexts
from .encoder.probe import fit_probe
from .folds import assign_folds

logger = logging.getLogger(__name__)


@dataclass
class ScoringOptions:
    """How the training rows without scores are sent to the LLMs.

    Args:
        max_rows: Maximum number of rows with scores.
        max_cost_usd: US dollars that may be spent, guidelines included, or a budget.
        write_guidelines: See `complete_providers`.
        seed: Seed of the draw of rows and examples.
        progress: Show a progress bar.
    """

    max_rows: int = 1000
    max_cost_usd: float | Budget | None = None
    write_guidelines: bool = False
    seed: int = 0
    progress: bool = False


def score_training_rows(
    data: LabelledTexts,
    config: LabelFusionConfig,
    make_scorers: Callable[[], list[Any]],
    options: ScoringOptions,
    encoder_probs: Callable[[], NDArray[np.floating]] | None = None,
) -> tuple[NDArray[np.float32] | None, float]:
    """Complete the LLM scores of the training data.

    Args:
        data: n training rows; existing scores are kept.
        config: The model's config. The prior that a local model estimates from the texts is stored in its provider.
        make_scorers: Makes one scorer per provider; called only if there are rows to query.
        options: Limits of the queries.
        encoder_probs: Returns float `(n, K)`, the encoder's out-of-sample probabilities. Called if not all rows may be
            scored, to choose them by `scoring_order`. `None`: rows are drawn evenly.

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
                "Add it (providers x classes a row), name an LLM to query, or pass llm=None."
            )
        return scores, 0.0
    without = np.flatnonzero(np.all(np.isnan(scores).any(axis=2), axis=1))
    room = max(0, options.max_rows - (len(data) - len(without)))
    rows = without[:room]
    if len(rows) and (len(rows) < len(without) or options.max_cost_usd is not None):
        probs = None if encoder_probs is None else encoder_probs()[without]
        rows = without[scoring_order(probs, len(without), config.multi_label, options.seed)[:room]]
    if len(rows) == 0:
        return scores, 0.0
    if len(rows) < len(without):
        logger.info("%d of %d rows are sent to the LLM (`max_scored_rows`).", len(rows), len(without))
    budget = as_budget(options.max_cost_usd)
    before = budget.spent if budget is not None else 0.0
    spent = complete_providers(
        data, config, write_guidelines=options.write_guidelines, max_cost_usd=budget, seed=options.seed
    )
    scorers = make_scorers()
    answers = Asker(config, scorers, budget, progress=options.progress).submit([data.texts[i] for i in rows]).result()
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
    max_cost_usd: float | Budget | None = None,
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
    from ..scoring.guidelines import write_guidelines as write
    from ..scoring.prompting.examples import balanced_examples

    pool = (data.texts, data.names()) if data.labels is not None else ([], [])
    labels, spent = config.label_names, 0.0
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


def scoring_order(
    encoder_probs: NDArray[np.floating] | None, num_rows: int, multi_label: bool, seed: int = 0
) -> NDArray[np.intp]:
    """Order rows for scoring, so that the rows scored before the budget is spent are a good sample.

    Rows where the encoder is uncertain are the most informative about the relative weight of the LLM (uncertainty
    sampling, Lewis and Gale 1994), but on these alone the fusion would learn nothing about the others. So rows are
    drawn without replacement, half uniformly and half in proportion to the encoder's expected error
    (importance-weighted active learning, Beygelzimer et al. 2009, arXiv:0812.4952; drawn as in Efraimidis and Spirakis
    2006). The scored rows are harder than the average, so accuracies and guarantees measured on them are conservative.

    Args:
        encoder_probs: float `(n, K)`, out-of-fold; `None`: rows are drawn uniformly.
        num_rows: n.
        multi_label: Whether the classes are independent.
        seed: Seed of the draw.

    Returns:
        int `(n,)`: row indices.
    """
    weights = np.ones(num_rows)
    if encoder_probs is not None and num_rows:
        doubt = expected_error(encoder_probs, multi_label)
        weights = doubt + max(float(doubt.mean()), 1e-6)
    return np.argsort(np.random.default_rng(seed).exponential(size=num_rows) / weights, kind="stable")


def first_guess(
    embeddings: torch.Tensor, labels: NDArray[Any], task: Task, texts: Sequence[str] | None = None, seed: int = 0
) -> NDArray[np.float64]:
    """Out-of-fold probabilities of a linear head on frozen embeddings: float64 `(n, K)`.

    Args:
        embeddings: float32 `(n, hidden)`.
        labels: int64 `(n,)`, or 0/1 `(n, K)`.
        task: The K classes.
        texts: n texts; duplicates share a fold.
        seed: Seed of the folds.
    """
    folds = assign_folds(labels, 3, texts, seed)
    probe = fit_probe(embeddings, torch.from_numpy(labels), folds, task)
    return to_probabilities(probe.out_of_fold_logits.numpy(), task.multi_label)
