"""What the config of a model from the Hub may make this process do: an allow-list for each field of a provider.

`LLMProvider.source` says which model declared it; a provider that the user declared is not checked. SECURITY.md gives
the rules and their reasons; `tests/scoring/providers/test_consent.py` walks every field.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from ...configuration import LLMProvider, ProviderKind
from ..score_batch import ScoringError
from .endpoints import APIS, OTHER_FORMATS, SERVER_PREFIXES

SERVERS_VARIABLE = "LABELFUSION_SERVERS"  # hosts, or host:port, separated by commas, that may be sent texts
KEYS_VARIABLE = "LABELFUSION_KEYS"  # names of variables, separated by commas, whose values may be sent as keys

MAX_TEMPLATES, MAX_NAME = 16, 200
MAX_CHARACTERS = 50_000  # of all that a config puts into the prompts


@dataclass(frozen=True)
class _Known:
    """A provider that runs models of its own choice at one address, and the variables that its key is read from."""

    host: str
    keys: tuple[str, ...]


# Not here: services that run code of their customers (replicate, baseten, ...), or whose address depends on an account,
# a region or the model's name (azure, bedrock, vertex_ai, huggingface, oobabooga, ...).
KNOWN_PROVIDERS = {
    "openai": _Known("api.openai.com", ("OPENAI_API_KEY",)),
    "gemini": _Known("generativelanguage.googleapis.com", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
    "deepseek": _Known("api.deepseek.com", ("DEEPSEEK_API_KEY",)),
    "anthropic": _Known("api.anthropic.com", ("ANTHROPIC_API_KEY",)),
    "mistral": _Known("api.mistral.ai", ("MISTRAL_API_KEY",)),
    "cohere": _Known("api.cohere.com", ("COHERE_API_KEY", "CO_API_KEY")),
    "cohere_chat": _Known("api.cohere.com", ("COHERE_API_KEY", "CO_API_KEY")),
    "groq": _Known("api.groq.com", ("GROQ_API_KEY",)),
    "xai": _Known("api.x.ai", ("XAI_API_KEY",)),
    "together_ai": _Known("api.together.ai", ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY")),
    "fireworks_ai": _Known("api.fireworks.ai", ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY")),
    "openrouter": _Known("openrouter.ai", ("OPENROUTER_API_KEY",)),
    "perplexity": _Known("api.perplexity.ai", ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY")),
    "cerebras": _Known("api.cerebras.ai", ("CEREBRAS_API_KEY",)),
    "deepinfra": _Known("api.deepinfra.com", ("DEEPINFRA_API_KEY",)),
    "nvidia_nim": _Known("integrate.api.nvidia.com", ("NVIDIA_NIM_API_KEY",)),
    "sambanova": _Known("api.sambanova.ai", ("SAMBANOVA_API_KEY",)),
    "moonshot": _Known("api.moonshot.ai", ("MOONSHOT_API_KEY",)),
    "dashscope": _Known("dashscope.aliyuncs.com", ("DASHSCOPE_API_KEY",)),
    "zai": _Known("api.z.ai", ("ZAI_API_KEY",)),
    "minimax": _Known("api.minimax.io", ("MINIMAX_API_KEY",)),
    "novita": _Known("api.novita.ai", ("NOVITA_API_KEY",)),
    "nebius": _Known("api.studio.nebius.ai", ("NEBIUS_API_KEY",)),
}


def meant_model(model: str, others: Iterable[str] = ()) -> str | None:
    """`model` with the name of the provider that is most likely meant.

    Args:
        model: `"provider/model"`, or a name without a provider.
        others: More names of providers.

    Returns:
        None if the provider is known, or none has a name like it.
    """
    name, slash, rest = model.partition("/")
    if not slash:  # the first word of a model's name tells: gpt, gemini, deepseek
        word = model.partition("-")[0].lower()
        return next((f"{p}/{model}" for p, api in APIS.items() if api.default_model.startswith(f"{word}-")), None)
    known = {*KNOWN_PROVIDERS, *(prefix.rstrip("/") for prefix in (*OTHER_FORMATS, *SERVER_PREFIXES)), *others}
    near = [] if name in known else get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.8)
    return f"{near[0]}/{rest}" if near else None


_MODEL = re.compile(r"[A-Za-z0-9][\w.:@+-]*(?:/[A-Za-z0-9][\w.:@+-]*)*", re.ASCII)
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
# So plain that no two readers can find different hosts in it.
_URL = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[\w./-]*)?", re.ASCII)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,19}", re.ASCII)

_Check = Callable[[Any], bool]


def _number(low: float, high: float, kind: Any = int) -> _Check:
    return lambda v: isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high


def _any_number(low: float, high: float) -> _Check:
    return _number(low, high, int | float)


def _word(value: Any) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _members(**checks: _Check) -> _Check:
    return lambda v: isinstance(v, dict) and v.keys() <= checks.keys() and all(checks[k](x) for k, x in v.items())


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


# How a model samples and how long it thinks; nothing that says where a request goes or what else is done with it.
def sampling_parameters() -> dict[str, _Check]:
    """`{name: check of its value}` of the `params` that a config from the Hub may hold for an API."""
    return {
        "temperature": _any_number(0, 2),
        "top_p": _any_number(0, 1),
        "min_p": _any_number(0, 1),
        "top_k": _number(0, 1000),
        "frequency_penalty": _any_number(-2, 2),
        "presence_penalty": _any_number(-2, 2),
        "repetition_penalty": _any_number(0, 2),
        "seed": _number(-(2**63), 2**63),
        "max_tokens": _number(1, 32_768),
        "max_completion_tokens": _number(1, 32_768),
        "reasoning_effort": _word,
        "service_tier": _word,
        "verbosity": _word,
        "thinking": _members(type=_word, budget_tokens=_number(1, 32_768)),
        "chat_template_kwargs": _members(enable_thinking=_flag, thinking=_flag),
    }


def _local_parameters() -> dict[str, _Check]:
    return {"max_text_tokens": _number(1, 8192), "dtype": _word, "word_power": _any_number(0, 1)}


def _numbers() -> dict[str, tuple[float, float, Any]]:
    """Lowest and highest value of each number, and its type. They limit what a user pays and waits."""
    return {
        "num_examples": (1, 64, int),
        "texts_per_request": (1, 100, int),
        "votes": (1, 25, int),
        "min_option_mass": (0, 1, int | float),
        "timeout_s": (1, 600, int | float),
        "wait_for_server_s": (0, 600, int | float),
        "max_concurrency": (1, 256, int),
        "requests_per_minute": (1, 1e9, int | float | None),
        "tokens_per_minute": (1000, 1e12, int | float | None),
    }


# What is text alone: `check_texts` looks at its length. `price` is not believed, see `allowed`.
_TEXTS = frozenset({"name", "examples", "templates", "guidelines", "verbalizers"})
_PLAIN = frozenset({"method", "prompt", "prior", "price", "source"})  # checked by LLMProvider, or no business of others
_ROUTES = frozenset({"model", "api_base", "api_key_env", "params"})


def allowed(
    provider: LLMProvider, labels: Sequence[str] = (), class_descriptions: Mapping[str, str] | None = None
) -> LLMProvider:
    """The provider as it may be queried: unchanged if the user declared it.

    Args:
        provider: A declaration.
        labels: The class names that go into its prompts.
        class_descriptions: `{class name: description}`, likewise.

    Returns:
        The provider. If it comes from the Hub and names a known service, its `price` is dropped: a budget uses the
        price list.

    Raises:
        ScoringError: If it comes from the Hub and holds anything that is not on the allow-list, naming the field and
            what its user can do.
    """
    if not provider.source or not _asks(provider):
        return provider
    unknown = {f.name for f in fields(provider)} - _TEXTS - _PLAIN - _ROUTES - _numbers().keys()
    if unknown:
        raise _refused(provider, f"the fields {sorted(unknown)}", "none that nobody has judged")
    for name, (low, high, kind) in _numbers().items():
        value = getattr(provider, name)
        if value is not None and not _number(low, high, kind)(value):
            raise _refused(provider, f"`{name}`={_shown(value)}", f"a number from {low:g} to {high:g}")
    _check_model(provider)
    _check_params(provider)
    check_texts(provider, labels, class_descriptions)
    missing = consent_needed(provider)
    if missing:
        raise ScoringError(f"{provider.source} {_wish(provider, missing)}")
    return provider if provider.api_base else replace(provider, price=None)


def consent_needed(provider: LLMProvider) -> dict[str, str]:
    """`{environment variable: what it must name}` before a provider from the Hub may be queried; empty if it may be."""
    if not provider.source or not _asks(provider):
        return {}
    missing = {}
    if provider.api_base:
        parts = urlsplit(provider.api_base)
        place = parts.netloc.lower()
        if not {place, parts.hostname, f"[{parts.hostname}]"} & {x.lower() for x in _allowed_names(SERVERS_VARIABLE)}:
            missing[SERVERS_VARIABLE] = place
    known = KNOWN_PROVIDERS.get(provider.model.partition("/")[0])
    own = known.keys if known and not provider.api_base else ()
    if provider.api_key_env and provider.api_key_env not in {*own, *_allowed_names(KEYS_VARIABLE)}:
        missing[KEYS_VARIABLE] = provider.api_key_env
    return missing


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a repository of the Hub, and no path on this machine."""
    return _HUB_ID.fullmatch(name) is not None and not os.path.lexists(name)


def check_texts(
    provider: LLMProvider, labels: Sequence[str] = (), class_descriptions: Mapping[str, str] | None = None
) -> None:
    """Refuse prompts of a config from the Hub that are no text, or so long that every request would be expensive.

    Raises:
        ScoringError: Naming the field.
    """
    if not provider.source:
        return
    name = provider.name
    if not (isinstance(name, str) and len(name) <= MAX_NAME and name.isprintable()):
        raise _refused(provider, f"`name`={_shown(name)}", f"a printable text of up to {MAX_NAME} characters")
    if not (isinstance(provider.guidelines, str | None)):
        raise _refused(provider, "`guidelines`", "a text")
    if len(provider.templates) > MAX_TEMPLATES or not all(isinstance(t, str) for t in provider.templates):
        raise _refused(provider, "`templates`", f"up to {MAX_TEMPLATES} texts")
    if not all(isinstance(e, dict) and e.keys() <= {"text", "label", "labels"} for e in provider.examples):
        raise _refused(provider, "`examples`", "each {'text': ..., 'label': ...}")
    declared = [provider.guidelines, provider.templates, provider.examples, provider.verbalizers]
    length = sum(_length(part) for part in [*declared, list(labels), dict(class_descriptions or {})])
    if length > MAX_CHARACTERS:
        raise _refused(
            provider, f"{length} characters for its prompts", f"up to {MAX_CHARACTERS} in all fields together"
        )


def _asks(provider: LLMProvider) -> bool:
    """Whether anything is queried, or loaded, at all."""
    return provider.kind in (ProviderKind.API, ProviderKind.LOCAL)


def _check_model(provider: LLMProvider) -> None:
    model = provider.model
    if provider.kind == ProviderKind.LOCAL:
        name = model.partition("/")[2]
        # A repository of the Hub, whose weights are then taken from safetensors alone; no file of this machine.
        if not is_hub_id(name):
            raise _refused(provider, f"the model {_shown(model)}", "a Hub id behind local/, not a path")
        return
    plain = len(model) <= MAX_NAME and _MODEL.fullmatch(model) and not re.search(r"https?:", model, re.IGNORECASE)
    if not plain:
        raise _refused(provider, f"the model {_shown(model)}", "a plain name such as openai/gpt-5-nano")
    if provider.api_base:
        if not (isinstance(provider.api_base, str) and _URL.fullmatch(provider.api_base)):
            raise _refused(provider, "its `api_base`", "a plain URL such as https://llm.example.org/v1")
        if urlsplit(provider.api_base).hostname in {known.host for known in KNOWN_PROVIDERS.values()}:
            raise _refused(provider, "the `api_base` of a known provider", "its name alone")  # has a key and a price
        if model.startswith(OTHER_FORMATS):
            raise _refused(provider, f"the model {_shown(model)} with an `api_base`", "an OpenAI-compatible server")
    elif model.partition("/")[0] not in KNOWN_PROVIDERS:
        raise _refused(provider, f"the model {_shown(model)}", f"one of {', '.join(KNOWN_PROVIDERS)}")
    if provider.api_key_env and not _VARIABLE.fullmatch(str(provider.api_key_env)):
        raise _refused(provider, "its `api_key_env`", "the name of a variable in capitals")


def _check_params(provider: LLMProvider) -> None:
    checks = _local_parameters() if provider.is_local else sampling_parameters()
    for name, value in provider.params.items():
        if name not in checks:
            raise _refused(provider, f"`params` with {_shown(name)}", f"only {', '.join(checks)}")
        if value is not None and not checks[name](value):
            raise _refused(provider, f"`params` with {name}={_shown(value)}", "a plain value in the usual range")


def _wish(provider: LLMProvider, missing: Mapping[str, str]) -> str:
    key = f"the key in {missing[KEYS_VARIABLE]}" if KEYS_VARIABLE in missing else ""
    settings = " and ".join(f"{name}={value}" for name, value in missing.items())
    if SERVERS_VARIABLE in missing:
        what = f"texts{key and ', and ' + key} sent to {missing[SERVERS_VARIABLE]}, a server that its author chose"
    else:
        what = f"{key} sent to {urlsplit(provider.api_base or '').netloc or provider.model}"
    plural = "s" if len(missing) > 1 else ""
    return f"wants {what}. If you trust it, set the environment variable{plural} {settings}."


def _allowed_names(variable: str) -> set[str]:
    return {entry.strip() for entry in os.environ.get(variable, "").split(",")} - {""}


def _length(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_length(k) + _length(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_length, value))
    return 0 if value is None else len(str(value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refused(provider: LLMProvider, what: str, expected: str) -> ScoringError:
    return ScoringError(
        f"{provider.source} declares an LLM with {what}; from the Hub, {expected} is taken. If you trust it, say so in "
        "your own words, `llm=LLMProvider(...)`, or load it from a folder of yours whose config you have read."
    )
