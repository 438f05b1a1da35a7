"""Formats probabilities as outputs of the pipeline."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..configuration import LabelFusionConfig
from ..routing.decisions import decide
from ..routing.risk import RiskControl
from ..scoring.probabilities import to_probabilities
from .inference import Inference

UNSET: Any = object()
FUNCTIONS = ("sigmoid", "softmax", "none")
NO_SCORES = "no scores were given with the text, and no LLM was queried"
UNSURE, UNLIKE, UNANSWERED, NO_TEXT = "unsure", "unlike the training texts", "no answer of the LLM", "no text"


def format_labels(
    probs: NDArray[np.float32],
    config: LabelFusionConfig,
    top_k: int | None = UNSET,
    shown: NDArray[np.float32] | None = None,
) -> Any:
    """Format the probabilities of one text, float `(num_labels,)`, as `TextClassificationPipeline` does.

    `shown`, float `(num_labels,)`, are the scores to show; default: the probabilities.

    Without `top_k`: a dict for the best class; multi-label: a list of the classes that reach their threshold (at least
    `config.min_labels`). With `top_k`: a list of the k best classes, or of all for None. Lists start with the best.
    """
    names, shown = config.label_names, probs if shown is None else shown
    if top_k is UNSET and not config.multi_label:
        best = int(probs.argmax())
        return {"label": names[best], "score": float(shown[best])}
    order = np.argsort(-probs, kind="stable")
    if top_k is UNSET:
        order = order[decide(probs[None], config.decision_rule)[0][order]]
    elif top_k is not None:
        order = order[:top_k]
    return [{"label": names[i], "score": float(shown[i])} for i in order]


def format_answers(
    inference: Inference,
    config: LabelFusionConfig,
    top_k: int | None = UNSET,
    return_sources: bool = False,
    control: RiskControl | None = None,
    function_to_apply: Any = None,
) -> Iterator[Any]:
    """Yield the formatted result of each text.

    Args:
        inference: The results. A missing text gets None as its label or list of labels.
        config: The model's config.
        top_k: See `format_labels`.
        return_sources: Return dicts that include the probabilities of each source.
        control: Return dicts that include whether the model abstained (`abstained`; `label` or `labels` is then None),
            why (`abstained_why`, see `why_abstained`), and which classes may be true (`label_set`, most likely first).
        function_to_apply: See `read_function`. Decisions are always based on the calibrated probabilities.
    """
    probabilities, function = inference.probabilities, read_function(function_to_apply)
    shown, encoder = probabilities, inference.encoder_probabilities
    if function is not None:
        shown, encoder = (_scores(logits, function) for logits in (inference.logits, inference.encoder_logits))
    names, providers = config.label_names, source_names(config)
    if control is not None:
        answered, sets = hold_back(inference, config, control)
        reasons = why_abstained(inference, control, answered)
    missing = inference.errors
    if control is not None:  # say why the model abstained
        missing = {int(row): NO_SCORES for row in np.flatnonzero(lacking(inference))} | missing
    for i in range(len(inference)):
        no_text = np.isnan(probabilities[i]).any()
        labels = _no_answer(config, top_k) if no_text else format_labels(probabilities[i], config, top_k, shown[i])
        if control is not None:
            labels = dict(labels) if isinstance(labels, dict) else {"labels": labels}
            if not answered[i]:
                labels |= {"label": None} if "label" in labels else {"labels": None}
            order = np.argsort(-probabilities[i], kind="stable")
            labels |= {"abstained": not answered[i], "abstained_why": reasons[i]}
            labels["label_set"] = [names[k] for k in order if sets[i, k]]
        if not return_sources:
            yield labels
            continue
        sources: dict[str, dict[str, float] | None] = {
            "encoder": None if no_text else dict(zip(names, encoder[i].tolist(), strict=True))
        }
        for name, scores in zip(providers, inference.llm_scores[i], strict=True):
            sources[name] = None if np.isnan(scores).any() else dict(zip(names, scores.tolist(), strict=True))
        yield {
            **(labels if isinstance(labels, dict) else {"labels": labels}),
            "sources": sources,
            "llm_called": bool(inference.llm_called[i]),
            "cost_usd": float(inference.cost_usd[i]),
            **({"llm_missing": missing[i]} if i in missing else {}),
        }


def read_function(function: Any) -> str | None:
    """The name of the function from logits to scores; `None`: the model's own.

    Args:
        function: `"sigmoid"`, `"softmax"` or `"none"`, in any case, or a member of Transformers' enum of these;
            `"default"` or None.

    Raises:
        ValueError: For anything else.
    """
    name = str(getattr(function, "name", function)).lower()
    if function is None or name == "default":
        return None
    if name not in FUNCTIONS:
        raise ValueError(f"`function_to_apply` is {function!r}; expected one of {', '.join(FUNCTIONS)}, default.")
    return name


def _scores(logits: NDArray[np.float32], function: str) -> NDArray[np.float32]:
    if function == "none":
        return logits
    return to_probabilities(logits, function == "sigmoid", np.float32)


def _no_answer(config: LabelFusionConfig, top_k: int | None) -> Any:
    return {"label": None, "score": None} if top_k is UNSET and not config.multi_label else None


def hold_back(
    inference: Inference, config: LabelFusionConfig, control: RiskControl
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which answers are given, bool `(n,)`, and which classes may be true, bool `(n, num_labels)`.

    The guarantee excludes texts whose requested LLM answer is missing: the model abstains, and any class may be true.
    """
    probs = inference.probabilities.astype(np.float64)
    answered = control.answered(probs, inference.novelty)
    sets = control.label_sets(probs, config.decision_rule, inference.novelty)
    gone = lacking(inference)
    gone[list(inference.errors)] = True
    answered[gone], sets[gone] = False, True
    return answered, sets


def why_abstained(inference: Inference, control: RiskControl, answered: NDArray[np.bool_]) -> list[str | None]:
    """Why the model abstains from each of n answers: one of the reasons above, or None for an answer.

    Args:
        inference: The results.
        control: The control that held them back.
        answered: bool `(n,)`, as `hold_back` returns it.
    """
    unlike = np.zeros(len(answered), dtype=bool)
    if control.outside and inference.novelty is not None:
        unlike = inference.novelty > 0
    gone = lacking(inference)
    gone[list(inference.errors)] = True
    empty = np.isnan(inference.probabilities).any(axis=1)
    found = np.select([answered, empty, gone, unlike], ["", NO_TEXT, UNANSWERED, UNLIKE], UNSURE)
    return [str(reason) or None for reason in found]


def lacking(inference: Inference) -> NDArray[np.bool_]:
    """bool `(n,)`: whether an answer that the policy wanted is missing, whether or not it was requested."""
    return np.asarray((inference.wanted & ~inference.answered).any(axis=1))


def source_names(config: LabelFusionConfig) -> list[str]:
    """Names of the providers. Duplicates, and the name `encoder`, get a number."""
    taken, names = {"encoder"}, []
    for provider in config.providers:
        name, number = str(provider.name), 2
        while name in taken:
            name, number = f"{provider.name} ({number})", number + 1
        taken.add(name)
        names.append(name)
    return names
