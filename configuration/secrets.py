"""Refuse anything that looks like a credential before it can reach a config, and so a pushed repository."""

import base64
import binascii
import re
from typing import Any

# Shapes that are credentials wherever they stand. Cohere's and Mistral's keys have none: they are letters and digits.
_TOKEN = re.compile(
    r"""(?x)(?<![A-Za-z0-9])(?:
      (?:sk|pk|rk)-(?:proj|ant|or|svcacct|admin|lf)-(?=[A-Za-z_-]{0,99}[0-9])[A-Za-z0-9_-]{12,}  # OpenAI, Anthropic,
    | (?:sk|pk|rk)-(?:[a-z0-9]{1,9}-){0,2}(?=[A-Za-z_]{0,99}[0-9])[A-Za-z0-9_]{16,}  # DeepSeek, OpenRouter, Langfuse
    | (?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,} | whsec_[A-Za-z0-9+/=]{20,}  # Stripe
    | AIza[0-9A-Za-z_-]{30,} | ya29\.[0-9A-Za-z_.-]{20,} | GOCSPX-[0-9A-Za-z_-]{20,} | 1//0[0-9A-Za-z_-]{30,}  # Google
    | (?:hf|api_org)_[A-Za-z0-9]{20,}          # Hugging Face
    | gsk_[A-Za-z0-9]{20,}                     # Groq
    | xai-[A-Za-z0-9]{20,}                     # xAI
    | pplx-[A-Za-z0-9]{20,}                    # Perplexity
    | r8_[A-Za-z0-9]{20,}                      # Replicate
    | nvapi-[A-Za-z0-9_-]{20,}                 # NVIDIA
    | csk-[a-z0-9]{30,}                        # Cerebras
    | fw_(?=[A-Za-z]{0,99}[0-9])[A-Za-z0-9]{20,} | tgp_v1_[A-Za-z0-9_-]{20,}  # Fireworks, Together
    | jina_[A-Za-z0-9]{30,}                    # Jina
    | lsv2_(?:pt|sk)_[a-f0-9]{32}[a-f0-9_]*    # LangSmith
    | (?:AKIA|ASIA)[0-9A-Z]{16}\b              # AWS
    | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_[A-Za-z0-9_]{30,}  # GitHub
    | gl(?:pat|dt|rt|ptt|ft|oas|soat|cbt|imt|agent)-[A-Za-z0-9_.-]{20,}  # GitLab
    | xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,} | xapp-[0-9]-[A-Za-z0-9-]{10,}  # Slack
    | npm_[A-Za-z0-9]{30,} | pypi-AgE[A-Za-z0-9_-]{30,} | dckr_pat_[A-Za-z0-9_-]{20,}  # registries
    | do[opr]_v1_[a-f0-9]{40,} | dapi[a-f0-9]{32}(?:-[0-9])? | shp(?:at|ss|ca|pa)_[a-fA-F0-9]{32}
    | SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{30,} | hv[sb]\.[A-Za-z0-9_-]{24,} | sbp_[a-f0-9]{40}
    | sq0(?:csp|atp)-[A-Za-z0-9_-]{20,} | SK[a-f0-9]{32} | [a-f0-9]{32}-us[0-9]{1,2}\b | [0-9]{8,10}:AA[A-Za-z0-9_-]{33}
    | eyJ[A-Za-z0-9_-]{8,9999}\.[A-Za-z0-9_-]{8,9999}\.[A-Za-z0-9_-]{8,}  # JSON web token
    | (?i:(?:Account|SharedAccess)Key=)[A-Za-z0-9+/]{16,}={0,2}  # Azure
    | (?i:bearer\s+)(?=[A-Za-z._~+/=-]{0,99}[0-9])[A-Za-z0-9._~+/=-]{12,}
    ) | -----BEGIN\ [A-Z0-9\ ]*PRIVATE\ KEY(?:\ BLOCK)?-----(?:[A-Za-z0-9+/=:,\s.-]|\\[nr])*"""
)
# What else a name can hold that is followed by a secret: of a dict's key, a URL's parameter, an assignment, a header.
_KEY = (
    r"(?:(?:api|access|account|admin|auth|client|encryption|functions?|goog|license|private|secret|service|shared|"
    r"signing|subscription)(?:[_-]?api)?[_-]?key|apikey)"
)
_WORDS = r"(?:passw(?:or)?ds?|pwd|passphrase|passcode|secrets?|jwt)"
_TOKENS = r"(?:(?:access|api|auth|bearer|id|refresh|session)[_-]?)?token"
_SECRET_NAME = re.compile(
    rf"(?i)(?:^|[_-])(?:{_KEY}|{_WORDS}|token|authorization|auth|cookies?|credentials?|connection[_-]?string)$"
)
_BASIC = re.compile(r"(?i)\bbasic\s+([A-Za-z0-9+/]{8,}={0,2})")
_PASSWORD = re.compile(r"(?<=://)[^/\s:@\"'<>]{0,500}:[^/\s@\"'<>]{1,500}@")
_USERINFO = re.compile(r"(?<=://)(?!git@)[^/\s@?#\"'<>]{1,500}@")
_VALUE = r"[^&#\s\"'<>]"
_PARAMETER = re.compile(
    rf"(?i)[?&#;](?:[\w.-]{{0,40}}(?:key|token)|{_WORDS}|[\w-]{{0,40}}(?:secret|signature|credential)|code|sig|auth)={_VALUE}+"
)
_ODD_PARAMETER = re.compile(  # not found by chance in a text of a data set
    rf"(?i)[?&#;](?:[\w.-]{{0,40}}{_KEY}|{_TOKENS}|{_WORDS}|[\w-]{{0,40}}(?:secret|signature)|sig)=(?={_VALUE}{{0,99}}[0-9]){_VALUE}{{8,}}"
    rf"|[?&#;](?:key|code)=(?=(?:[A-Za-z]*[0-9]){{4}})(?=(?:[0-9]*[A-Za-z]){{4}})[A-Za-z0-9]{{24,}}"
)
_URL = re.compile(r"[A-Za-z][\w+.-]{0,30}://\S+")
_HEADER = re.compile(
    r"(?i)\b(?:proxy-authorization|authorization|set-cookie|cookie)[\"']?\s*[:=]\s*[\"']?[^\r\n\"']{4,}"
)
_ASSIGNED = re.compile(
    rf"(?i)(?<![A-Za-z0-9])[\w-]{{0,40}}?(?:{_KEY}|{_WORDS}|token)[\"']?\s*[:=]\s*[\"']?"
    r"(?=\S{0,99}[0-9])[^\s\"',;]{8,}"
)
_QUERY_NAME = re.compile(r"(?i)^(?:key|code|sig|signature)$")  # a secret where a dict holds a URL's parameters
# Here the keys are class names ("lost_password") or another library's ("mask_token"), or the values are texts of
# users: only patterns that no text holds are searched for.
_FREE_NAMES = frozenset({"class_descriptions", "verbalizers", "encoder_config", "fusion_report", "examples"})


def refuse_secrets(value: Any, where: str, by_name: bool = True) -> None:
    """Raise if `value`, searched through dicts and lists, holds something that looks like a credential.

    Args:
        value: Any JSON-like value.
        where: Name of the argument, for the message. The offending text itself is never repeated.
        by_name: Whether a dict's string under a name such as `api_key`, and a URL with a user or a parameter of such a
            name, is refused whatever it looks like.

    Raises:
        ValueError: Naming the place and the way to pass a key instead (an environment variable).
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_secrets(key, f"a key of {where}", by_name)
            place = f"{where}[{key!r}]"
            if by_name and _is_text(item) and _names_secret(str(key), where):
                raise ValueError(_message(place))
            refuse_secrets(item, place, by_name and key not in _FREE_NAMES)
    elif isinstance(value, list | tuple | set):
        for i, item in enumerate(value):
            refuse_secrets(item, f"{where}[{i}]", by_name)
    elif isinstance(value, str):
        url = by_name and _URL.fullmatch(value) and (_USERINFO.search(value) or _PARAMETER.search(value))
        if url or holds_secret(value):
            raise ValueError(_message(where))


def holds_secret(text: str) -> bool:
    """Whether `text`, which may be a user's text, holds something that can only be a credential."""
    if _TOKEN.search(text) or _PASSWORD.search(text) or _ODD_PARAMETER.search(text):
        return True
    return any(_is_basic(match) for match in _BASIC.finditer(text))


def redact(text: str) -> str:
    """Replace everything in `text` that may be a credential by `[redacted]`, for logs and errors.

    More than `holds_secret` finds: here a false positive does no harm.
    """
    for pattern in (_HEADER, _TOKEN, _USERINFO, _PARAMETER, _ASSIGNED):
        text = pattern.sub("[redacted]", text)
    return _BASIC.sub(lambda match: "[redacted]" if _is_basic(match) else match[0], text)


def _is_basic(match: re.Match[str]) -> bool:
    """Whether it is a user and a password as HTTP's scheme Basic writes them, and no basic something."""
    try:
        return ":" in base64.b64decode(match[1] + "=" * (-len(match[1]) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False


def _names_secret(key: str, where: str) -> bool:
    """Whether a string under this key of a dict is a secret, whatever it looks like."""
    in_query = where.endswith("['extra_query']") and _QUERY_NAME.match(key)
    return bool(in_query or _SECRET_NAME.search(_spelt(key)))


def _is_text(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_text, value))
    return isinstance(value, str | bytes) and bool(value)


def _spelt(name: str) -> str:
    """`apiKey` as `api_Key`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)


def _message(where: str) -> str:
    return (
        f"{where} looks like a credential. Configs are saved and pushed, so they never hold one: put the key into an "
        "environment variable and give its name as `api_key_env` (the default is the provider's own, such as "
        "OPENAI_API_KEY)."
    )
