"""Request handler of a Hugging Face Inference Endpoint: texts in, labels out.

The API keys of the LLMs are secrets of the endpoint. If no LLM can be queried, the encoder answers alone, unless the
request names an `llm_policy`. This file is self-contained: it is copied into repositories with the model and its code.
"""

import logging
from typing import Any

from transformers import pipeline

PARAMETERS = ("top_k", "return_sources", "llm_policy", "max_cost_usd", "llm_scores", "max_length", "batch_size")

logger = logging.getLogger(__name__)


class EndpointHandler:
    """Serves the model of a repository.

    Args:
        path: Folder of the repository.
    """

    def __init__(self, path: str = "") -> None:
        make: Any = pipeline
        self.pipeline = make("labelfusion-classification", model=path or ".", trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Answer one request.

        Args:
            data: `{"inputs": text or list of texts, "parameters": {...}}`; `PARAMETERS` are those of the pipeline.

        Returns:
            The pipeline's answers, a list with one entry per text.

        Raises:
            ValueError: For a request without texts, or with other parameters.
        """
        inputs, parameters = data.get("inputs"), dict(data.get("parameters") or {})
        texts = [inputs] if isinstance(inputs, str | dict) else inputs
        if not isinstance(texts, list) or not texts:
            raise ValueError("`inputs` must be a text or a list of texts.")
        unknown = sorted(set(parameters) - set(PARAMETERS))
        if unknown:
            raise ValueError(f"`parameters` has {unknown}; known are {', '.join(PARAMETERS)}.")
        if isinstance(inputs, str | dict) and parameters.get("llm_scores") is not None:
            parameters["llm_scores"] = [parameters["llm_scores"]]
        try:
            return list(self.pipeline(texts, **parameters))
        except Exception as error:
            if type(error).__name__ != "ScoringError" or "llm_policy" in parameters:
                raise
            logger.warning("The encoder answers alone: %s", error)
            return list(self.pipeline(texts, **parameters, llm_policy="never"))
