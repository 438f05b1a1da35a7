"""The recipe: the sequence of steps that fits and calibrates a model on labelled texts and LLM scores.

Steps that use the outputs of an earlier fit use its out-of-fold outputs (stacking, Wolpert 1992), because an encoder is
overconfident on its training rows.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .calibration.answer_calibration import calibrate_answers
from .calibration.encoder_calibration import calibrate_encoder_logits
from .calibration.gate_fit import fit_gates
from .calibration.llm_calibration import calibrate_llm_scores
from .calibration.risk_fit import store_errors
from .calibration.thresholds import set_thresholds
from .encoder.encoder_fit import encode, train_encoder
from .encoder.encoder_sources import stack_sources
from .encoder.mean_parts import average_parts
from .encoder.novelty_fit import measure_novelty
from .encoder.quick_fit import fit_quick_head, fit_speeds
from .fit_state import FitState
from .fusion.fusion_fit import fuse
from .fusion.label_sets import judge_classes_together
from .score_checks import check_scores
from .unlabelled import agreement, enough_gold, keep_gold, pool_without_gold

Step: TypeAlias = Callable[[FitState], FitState]

RECIPE: list[Step] = [
    check_scores,  # warns of uninformative scores, and of scores with classes in another order
    encode,  # embeddings of the pretrained encoder
    train_encoder,  # linear probe; contrastive training or fine-tuning where that is better
    stack_sources,  # adds a TF-IDF head and a kernel head, with weights from out-of-fold outputs
    fit_quick_head,  # answers easy texts without the encoder, if the user wants speed
    measure_novelty,  # out-of-distribution score
    calibrate_encoder_logits,  # temperature or vector scaling
    judge_classes_together,  # multi-label: classes that occur together or exclude each other
    average_parts,  # what a text's explanation is compared with
    calibrate_llm_scores,  # isotonic regression of graded scores
    fuse,  # log-linear pool of the sources, and an MLP where it helps
    calibrate_answers,  # temperature scaling, isotonic regression
    set_thresholds,  # multi-label decisions
    fit_speeds,  # which texts the quick head may answer
    fit_gates,  # selective querying: which texts are worth an LLM call
    store_errors,  # held-out errors for conformal risk control
]

# With texts that only LLMs have labelled: they train the encoder, and what judges the sources sees gold rows alone.
ENCODER_STEPS = RECIPE[1 : RECIPE.index(calibrate_llm_scores)]
UNLABELLED_RECIPE = [*ENCODER_STEPS, pool_without_gold]
FEW_LABELS_RECIPE = [*ENCODER_STEPS, keep_gold, check_scores, *RECIPE[RECIPE.index(calibrate_llm_scores) :]]


def recipe_for(state: FitState) -> list[Step]:
    """The recipe for the labels that there are."""
    if state.gold.all():
        return RECIPE
    return FEW_LABELS_RECIPE if enough_gold(state.labels[state.gold], state.config.num_labels) else UNLABELLED_RECIPE


def fit(state: FitState, recipe: Sequence[Step] | None = None) -> FitState:
    """Apply the steps of a recipe to a state. The model is fitted in place, and its config holds the report.

    Steps can be removed or added: `fit(state, [step for step in RECIPE if step is not fit_gates])`.

    Args:
        state: As returned by `FitState.start`.
        recipe: The steps, in order. Default: `recipe_for(state)`, which is `RECIPE` where all rows have labels.

    Returns:
        The state after the last step.
    """
    started = time.perf_counter()
    recipe = recipe_for(state) if recipe is None else recipe
    state.config.calibration = {"temperature": 1.0, "encoder_temperature": 1.0}  # reset an earlier fit
    for step in recipe:
        state = step(state)
    if state.gold.all():
        state = state.told(out_of_sample=state.metrics())
        if state.options.votes:
            state = state.told(judged_by="majority of the annotators")
    else:  # nothing is known of any source's accuracy
        state = state.told(agreement_with_llms=round(agreement(state), 5))
    state = state.told(seconds=round(time.perf_counter() - started, 1))
    state.config.fusion_report = state.report
    state.model.eval()
    return state


def fit_model(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Call `fit` on `FitState.start(*args, **kwargs)`, and return the report."""
    return fit(FitState.start(*args, **kwargs)).report
