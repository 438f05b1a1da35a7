"""Classifies lists and streams of texts with a model, its tokenizer and its LLMs."""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..modeling_labelfusion.encoding import TextEncoder
from ..routing.policy import StreamSelector, select
from ..routing.run_options import Routing
from ..scoring.asker import Asker
from ..scoring.model_scorers import Scorers
from .blank_texts import Blanks
from .engine import Engine
from .inference_result import Inference
from .inputs import Row, check_pairs, given_scores, read_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..modeling_labelfusion import LabelFusionForSequenceClassification

__all__ = ["Inference", "infer", "run"]

LIST_WINDOW = 8192  # texts of a list that are processed at once
ENCODING = ("batch_size", "max_length", "bf16", "progress", "backend")


def run(
    model: "LabelFusionForSequenceClassification",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    scorers: Scorers | None = None,
    llm_scores: Any = None,
    empty_texts: str = "error",
    **options: Any,
) -> Inference:
    """Classify a list of texts.

    ```python
    >>> run(model, tokenizer, ["Shares fell."], llm_policy="never").probabilities
    ```

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        texts: n texts.
        scorers: As in `infer`.
        llm_scores: Precomputed scores: `(n, num_providers, num_labels)`, or n entries of `(num_providers, num_labels)`,
            None or NaN for missing. A text with any scores is not sent to an LLM.
        empty_texts: `"error"`, or `"skip"`: a text that is missing, empty or blank gets NaN.
        **options: Those of `Routing.parse` (`llm_policy`, `max_cost_usd`, ...; a share of the texts is exact) and of
            `TextEncoder` (`batch_size`, `max_length`, `bf16`, `progress`, `backend`).

    Raises:
        ValueError: For invalid texts, scores or options.
        ScoringError: If an LLM cannot be queried at all (no key, unknown model).
    """
    encoding = {name: options.pop(name) for name in ENCODING if name in options}
    routing = Routing.parse(model.config, **options)
    rows = read_inputs(texts, llm_scores, empty_texts)
    parts = list(infer(TextEncoder(model, tokenizer, **encoding), rows, routing, scorers))
    return Inference.concatenate(parts or [Inference.empty(model.config)])


def infer(
    encoder: TextEncoder,
    rows: Iterable[Row],
    routing: Routing,
    scorers: Scorers | None = None,
    choose: Callable[..., NDArray[np.bool_]] | None = None,
) -> Generator[Inference, None, None]:
    """Classify rows lazily, and yield one `Inference` per window.

    A list is split into large windows, or kept as one window if the policy is a share. For other iterables, at most
    three windows of `max(4 * batch_size, 128)` rows are in memory. If `rows` raises, the rows read before are answered
    first.

    Args:
        encoder: The model with its tokenizer and encoding options.
        rows: Pairs `(text, llm_scores or None)`, with scores as in `run`. A text that is None, empty or blank is not
            sent to an LLM, and its logits are NaN. Given scores are always used, except those of a provider declared
            `"recorded"`: they count only where the policy would have queried it.
        routing: Policy and limits of the LLM requests.
        scorers: One per declared provider, or a function that creates them, which is called only if an LLM is queried.
            `None`: those that the config declares.
        choose: For a list, selects the texts of a share instead of `routing.policy.select`.

    Raises:
        ValueError: For invalid texts or scores.
        ScoringError: If an LLM cannot be queried at all (no key, unknown model).
    """
    config, policy, size = encoder.model.config, routing.policy, max(4 * encoder.batch_size, 128)
    progress, patience = encoder.progress, routing.patience()
    asker = Asker(config, scorers, routing.budget, chunk_size=size, progress=progress, patience=patience)
    blanks, is_list = Blanks(Inference.empty(config)), isinstance(rows, list)
    rows = blanks.leave_out(check_pairs(rows, config))
    if not is_list:
        return blanks.put_back(
            Engine(encoder, asker, policy, StreamSelector(policy, config), routing.speed).run(rows, size)
        )
    rows = list(rows)
    given_scores([scores for _, scores in rows], config)  # validate before any paid request
    if policy in ("always", "never") or isinstance(policy, float) or routing.budget is not None:
        size = max(len(rows) if isinstance(policy, float) else LIST_WINDOW, size)
    choose = choose or partial(select, policy=policy, config=config)
    return blanks.put_back(Engine(encoder, asker, policy, choose, routing.speed).run(iter(rows), size))
