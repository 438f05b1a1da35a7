"""Transformers' own `text-classification` serves a fused model too, with the encoder alone: that is said, once."""

import logging
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

logger = logging.getLogger(__name__)


def warning_check(check: Callable[..., None]) -> Callable[..., None]:
    """A `Pipeline.check_model_type` that warns of a fused model and otherwise does what `check` does.

    A pipeline calls it once, when it is made: neither training nor evaluation nor our own pipeline comes by here.
    """

    @wraps(check)
    def checked(self: Any, supported_models: Any) -> None:
        config = self.model.config
        if config.model_type != "labelfusion":
            check(self, supported_models)
        elif config.num_providers:
            _warn(self.model.name_or_path)

    return checked


@cache
def _warn(name: str) -> None:
    logger.warning(
        'pipeline("text-classification") asks no LLM: %r answers with its encoder alone. '
        'pipeline("labelfusion-classification") fuses it with what the LLMs say.',
        name,
    )
