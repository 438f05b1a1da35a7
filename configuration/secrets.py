"""Refuse anything that looks like a credential before it can reach a config, and so a pushed repository."""

import re
from typing import Any

_SECRET_VALUE = re.compile(
    r"""(?x)
      \b(?:sk|pk|rk)-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}  # OpenAI, Anthropic, DeepSeek, OpenRouter
    | \bAIza[0-9A-Za-z_-]{30,}                 # Google
    | \bhf_[A-Za-z0-9]{20,}                    # Hugging Face
    | \bgsk_[A-Za-z0-9]{20,}                   # Groq
    | \bxai-[A-Za-z0-9]{20,}                   # xAI
    | \bAKIA[0-9A-Z]{16}\b                     # AWS
    | \bgh[pousr]_[A-Za-z0-9]{30,}             # GitHub
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}  # JSON web token
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----
    | (?i:\bbearer\s+[A-Za-z0-9._~+/-]{12,})
    | ://[^/\s:@]+:[^/\s@]+@                   # user:password@host
    | [?&](?i:key|api_key|token|access_token|sig)=[^&\s]{8,}
    """
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:(?:api|access|secret|private)[_-]?key|token|secret|password|authorization|credentials?)$"
)
# Here the keys are class names ("lost_password") or another library's ("mask_token"): only the values are searched.
_FREE_NAMES = frozenset({"class_descriptions", "verbalizers", "encoder_config", "fusion_report"})


def refuse_secrets(value: Any, where: str, by_name: bool = True) -> None:
    """Raise if `value`, searched through dicts and lists, holds something that looks like a credential.

    Args:
        value: Any JSON-like value.
        where: Name of the argument, for the message. The offending text itself is never repeated.
        by_name: Whether a dict's string under a name such as `api_key` is refused whatever it looks like.

    Raises:
        ValueError: Naming the place and the way to pass a key instead (an environment variable).
    """
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_secrets(key, f"a key of {where}")
            place = f"{where}[{key!r}]"
            if by_name and isinstance(item, str | bytes) and item and _SECRET_NAME.search(str(key)):
                raise ValueError(_message(place))
            refuse_secrets(item, place, by_name and key not in _FREE_NAMES)
    elif isinstance(value, list | tuple | set):
        for i, item in enumerate(value):
            refuse_secrets(item, f"{where}[{i}]", by_name)
    elif isinstance(value, str) and _SECRET_VALUE.search(value):
        raise ValueError(_message(where))


def redact(text: str) -> str:
    """Replace everything in `text` that looks like a credential by `[redacted]`, for logs and errors."""
    return _SECRET_VALUE.sub("[redacted]", text)


def _message(where: str) -> str:
    return (
        f"{where} looks like a credential. Configs are saved and pushed, so they never hold one: put the key into an "
        "environment variable and give its name as `api_key_env` (the default is the provider's own, such as "
        "OPENAI_API_KEY)."
    )
