"""Warns once if Transformers' `text-classification` pipeline is used with a fused model: it uses only the encoder."""

import logging
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

logger = logging.getLogger(__name__)


def warning_check(check: Callable[..., None]) -> Callable[..., None]:
    """Wrap `Pipeline.check_model_type` so that it also warns about fused models.

    Pipelines call it once, at construction. Training, evaluation and our own pipeline do not call it.
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
        'pipeline("text-classification") queries no LLM: %r answers with its encoder alone. '
        'pipeline("labelfusion-classification") fuses it with the scores of the LLMs.',
        name,
    )
