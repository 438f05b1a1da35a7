"""Where a model string leads: the API's URL, the model's name there, the key's environment variable, the client."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from ...configuration import LLMProvider
from ..score_batch import ScoringError

CHAT, DECISIONS, SYSTEMONE = "/chat/completions", "/decisions", "/systemone"  # paths of the APIs


@dataclass(frozen=True)
class _API:
    """An API with an OpenAI-compatible URL of its own."""

    base: str
    key_env: str
    default_model: str
    structured: str = "json_schema"  # the best `response_format` that it knows
    token_limit: str = "max_tokens"  # what it calls the limit of the answer's length


APIS = {
    "openai": _API("https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-6-luna", token_limit="max_completion_tokens"),
    "gemini": _API(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini-3.1-flash-lite"
    ),
    "deepseek": _API("https://api.deepseek.com", "DEEPSEEK_API_KEY", "deepseek-flash", structured="json_object"),
}

# Prefixes that only name the kind of server; behind an `api_base` they are no part of the model's name.
SERVER_PREFIXES = ("openai/", "hosted_vllm/", "vllm/", "ollama/", "ollama_chat/", "llamacpp/", "lm_studio/")
# These have URLs of their own that do not speak OpenAI's format: litellm's business even with an `api_base`.
OTHER_FORMATS = ("azure/", "azure_ai/", "anthropic/", "bedrock/", "vertex_ai/", "sagemaker/", "watsonx/", "cohere/")


@dataclass(frozen=True)
class Endpoint:
    """Where requests for a model go.

    Args:
        model: The model's name as the endpoint knows it.
        base: URL of the OpenAI-compatible API, or None: litellm finds its way.
        key_env: Environment variable with the key; None where litellm looks for it, or no key is needed.
        key_required: Whether there is no asking without a key.
        price_name: The model's name in the price list; None for a server of the user's own.
        structured: Best `response_format` to begin with.
        token_limit: Name of the parameter that limits the answer's length.
        foreign: Whether a model from the Hub named this server; nothing but texts and the allowed key goes there.
    """

    model: str
    base: str | None
    key_env: str | None
    key_required: bool
    price_name: str | None
    structured: str = "json_schema"
    token_limit: str = "max_tokens"
    foreign: bool = False

    @property
    def uses_litellm(self) -> bool:
        """Whether requests go through litellm rather than the `openai` client."""
        return self.base is None

    def key(self) -> str | None:
        """The key, read from the environment when it is needed and never kept.

        Raises:
            ScoringError: If the key is needed and its variable is not set.
        """
        value = os.environ.get(self.key_env) if self.key_env else None
        if not value and self.key_required:
            raise ScoringError(
                f"{self.price_name or self.model} needs a key: set the environment variable {self.key_env}. "
                "Models that need none: docs/troubleshooting.md#keys-and-models."
            )
        return value or None


def resolve(provider: LLMProvider) -> Endpoint:
    """Find the endpoint of an API provider.

    `"openai"`, `"gemini"` and `"deepseek"` alone mean that provider's default model. With `api_base`, requests go to
    that OpenAI-compatible URL (`/v1` is added to a bare host); every other string is litellm's.
    """
    name, _, model = provider.model.partition("/")
    api = APIS.get(name)
    if provider.api_base and not provider.model.startswith(OTHER_FORMATS):
        base = provider.api_base.rstrip("/")
        if not urlsplit(base).path:
            base += "/v1"
        prefix = next((p for p in SERVER_PREFIXES if provider.model.startswith(p)), "")
        known = api is not None and base == api.base
        return Endpoint(
            model=provider.model.removeprefix(prefix),
            base=base,
            key_env=provider.api_key_env or (api.key_env if api and known else None),
            key_required=provider.api_key_env is not None or known,
            price_name=provider.model if known else None,
            foreign=provider.source is not None,
        )
    if api is not None:
        model = model or api.default_model
        return Endpoint(
            model=model,
            base=(os.environ.get("OPENAI_BASE_URL") if name == "openai" else None) or api.base,
            key_env=provider.api_key_env or api.key_env,
            key_required=True,
            price_name=f"{name}/{model}",
            structured=api.structured,
            token_limit=api.token_limit,
        )
    return Endpoint(provider.model, None, provider.api_key_env, provider.api_key_env is not None, provider.model)
