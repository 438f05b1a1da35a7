"""The declaration of one LLM as a source of scores: plain data that is saved with the model, never a secret."""

import math
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from .secrets import refuse_secrets

METHODS = ("auto", "decision", "likelihood", "logprob", "json", "vote", "recorded", "callable")
PROMPT_STRATEGIES = ("zero-shot", "few-shot", "nearest")

# What each of our own prefixes means; every other model string is an API model ("openai/gpt-5-nano", ...).
LOCAL_PREFIXES = ("local/", "embedded/")


class ProviderKind(StrEnum):
    """Where the scores of a provider come from.

    Members are strings, because a self-contained repository may load several copies of this class: compare with `==`.
    """

    API = "api"  # a model behind an API
    LOCAL = "local"  # a model run in this process
    RECORDED = "recorded"  # the scores come with the data, nothing is queried
    CALLABLE = "callable"  # a Python function given at run time


@dataclass
class LLMProvider:
    """One LLM that gives per-class scores, as declared in a model's config.

    Args:
        model: `"provider/model"` as litellm writes it (`"openai/gpt-5-nano"`, `"gemini/gemini-3-flash"`,
            `"deepseek/deepseek-chat"`); `"local/<Hub id or folder>"` for a model run by Transformers;
            `"embedded/smollm2-135m-instruct"` for the one from the package index; `"recorded"` for scores that come
            with the data; `"callable/<name>"` for a Python function given at run time.
        name: Shown in tables and answers. Default: `model`.
        method: How scores are obtained, one of `METHODS`; `"auto"` takes the best one that the model offers.
        prompt: Prompt strategy, one of `PROMPT_STRATEGIES`.
        num_examples: Labelled examples in a few-shot or nearest-neighbour prompt.
        examples: The few-shot examples, each `{"text": ..., "label": ...}` (`"labels"`: list, multi-label). They are
            saved with the model, so give none that must not be published.
        templates: Prompt templates that replace the built-in ones. Local models average over all of them.
        guidelines: Instructions for the task, put in front of the examples; role and class guidelines an LLM wrote.
        verbalizers: Words that stand for each class, `{class: [word, ...]}`; their likelihoods are summed.
        prior: Mean log-probability of each class over unlabelled texts, subtracted from the scores of a local model
            (batch calibration, Zhou et al. 2024, arXiv:2309.17249). `None`: estimated once and stored.
        api_base: URL of an OpenAI-compatible server (vLLM, Ollama, llama.cpp).
        api_key_env: Name of the environment variable with the key. Default: the provider's own.
        params: Extra request parameters, such as `{"reasoning_effort": "minimal"}`.
        price: `(input, output)` in US dollars per million tokens, overriding the price list.
        texts_per_request: Texts in one request.
        votes: Samples for the method `"vote"`.
        min_option_mass: Share of the returned probability, in (0, 1], that the option letters must hold together for
            the method `"logprob"` to count as an answer. From one half on, the likeliest token must be a letter too.
        timeout_s: Seconds before a request is given up and retried.
        wait_for_server_s: Seconds to wait for a server that does not accept connections yet, or still loads its model
            (HTTP 503). 0: it counts as a failure, as any other, after a few attempts.
        max_concurrency: Requests in flight at once.
        requests_per_minute: Rate limit of requests, if any.
        tokens_per_minute: Rate limit of tokens, if any.
        source: The model on the Hub whose config declared this provider, which is then limited to what
            `scoring.providers.consent` allows. `None`: the user's own words. Not saved.

    Raises:
        ValueError: For an unknown method or strategy, a number out of range, or anything that looks like a key.
    """

    model: str
    name: str | None = None
    method: str = "auto"
    prompt: str = "zero-shot"
    num_examples: int = 8
    examples: list[dict[str, Any]] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    guidelines: str | None = None
    verbalizers: dict[str, list[str]] = field(default_factory=dict)
    prior: list[float] | None = None
    api_base: str | None = None
    api_key_env: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    price: tuple[float, float] | None = None
    texts_per_request: int = 1
    votes: int = 5
    min_option_mass: float = 0.5
    timeout_s: float = 60.0
    wait_for_server_s: float = 0.0
    max_concurrency: int = 32
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    source: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        refuse_secrets(asdict(self), "LLMProvider")  # first, because the messages below repeat what was given
        if not isinstance(self.model, str) or not self.model.strip():
            raise ValueError(
                f"LLMProvider: `model` must be a model string such as 'openai/gpt-5-nano', got {self.model!r}."
            )
        if self.name is None:
            self.name = self.model
        if self.method not in METHODS:
            raise ValueError(f"LLMProvider: `method` is {self.method!r}; expected one of {', '.join(METHODS)}.")
        if self.prompt not in PROMPT_STRATEGIES:
            raise ValueError(
                f"LLMProvider: `prompt` is {self.prompt!r}; expected one of {', '.join(PROMPT_STRATEGIES)}."
            )
        for what, kind in (("examples", list), ("templates", list), ("verbalizers", dict), ("params", dict)):
            if not isinstance(getattr(self, what), kind):
                raise ValueError(f"LLMProvider: `{what}` must be a {kind.__name__}, got {getattr(self, what)!r}.")
        if {"api_base", "base_url"} & set(self.params):
            raise ValueError("LLMProvider: `params` may not name a server; give its URL as `api_base`.")
        if not _positive(self.timeout_s):
            raise ValueError(f"LLMProvider: `timeout_s` must be positive, got {self.timeout_s!r}.")
        for what in ("num_examples", "texts_per_request", "votes", "max_concurrency"):
            value = getattr(self, what)
            if not _positive(value) or value != int(value):
                raise ValueError(f"LLMProvider: `{what}` must be a positive whole number, got {value!r}.")
            setattr(self, what, int(value))
        if not (_positive(self.min_option_mass) and self.min_option_mass <= 1):
            raise ValueError(f"LLMProvider: `min_option_mass` must be in (0, 1], got {self.min_option_mass!r}.")
        if self.wait_for_server_s != 0 and not _positive(self.wait_for_server_s):
            raise ValueError(
                f"LLMProvider: `wait_for_server_s` must be 0 or some seconds, got {self.wait_for_server_s!r}."
            )
        for what in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, what) is not None and not _positive(getattr(self, what)):
                raise ValueError(f"LLMProvider: `{what}` must be positive or None, got {getattr(self, what)!r}.")
        for what in ("name", "guidelines", "api_base", "api_key_env"):
            if not isinstance(getattr(self, what), str | None):
                raise ValueError(f"LLMProvider: `{what}` must be a text or None, got {getattr(self, what)!r}.")
        if self.price is not None:
            pair = isinstance(self.price, list | tuple) and len(self.price) == 2
            if not pair or not all(price == 0 or _positive(price) for price in self.price):
                raise ValueError(
                    f"LLMProvider: `price` must be (input, output) dollars per million tokens, got {self.price!r}."
                )
            self.price = (float(self.price[0]), float(self.price[1]))

    @property
    def kind(self) -> ProviderKind:
        """Where the scores come from. The only place that decides it, from `model`, `method` and `api_base`."""
        family = self.model.partition("/")[0]
        for given in (ProviderKind.RECORDED, ProviderKind.CALLABLE):
            if given in (family, self.method):
                return given
        local = self.model.startswith(LOCAL_PREFIXES) and not self.api_base
        return ProviderKind.LOCAL if local else ProviderKind.API

    @property
    def is_local(self) -> bool:
        """Whether the model runs in this process, without an API."""
        return self.kind == ProviderKind.LOCAL

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data, fields at their default left out."""
        default = asdict(type(self)(model=self.model))
        data = {k: v for k, v in asdict(self).items() if k == "model" or v != default[k]}
        data.pop("source", None)
        if "price" in data:
            data["price"] = list(data["price"])
        return data

    @classmethod
    def from_any(cls, value: "LLMProvider | str | dict[str, Any]") -> Self:
        """Make a provider from a model string or a dict of the fields above; a provider is returned as it is.

        Raises:
            ValueError: For a dict with unknown fields, or another type.
        """
        if isinstance(value, cls):
            return value
        if hasattr(value, "to_dict"):  # of another copy of this class: each entry point of a model's own code has one
            return cls(**value.to_dict(), source=getattr(value, "source", None))
        if isinstance(value, str):
            return cls(model=value)
        if isinstance(value, dict):
            refuse_secrets(value, "LLMProvider")  # before the field check, so that the message says what matters
            known = {f.name for f in fields(cls)} - {"source"}
            unknown = sorted(set(value) - known)
            if unknown or "model" not in value:
                problem = f"unknown fields {unknown}" if unknown else "no `model`"
                raise ValueError(f"LLM provider declaration has {problem}; fields are {', '.join(sorted(known))}.")
            return cls(**value)
        raise ValueError(f"An LLM provider is a model string, a dict or an LLMProvider; got {type(value).__name__}.")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
