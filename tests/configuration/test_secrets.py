"""Shapes of credentials that are found wherever they stand, and what looks like one and is none."""

import base64
import json
import logging
import re
import string
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelfusion.configuration import LLMProvider
from labelfusion.configuration.secrets import holds_secret, redact, refuse_secrets
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.publish.secret_files import refuse_secret_files
from labelfusion.scoring.providers.request_error import RequestError

ALNUM, HEX = string.ascii_letters + string.digits, "0123456789abcdef"
UPPER, LOWER = string.ascii_uppercase + string.digits, string.ascii_lowercase + string.digits

# How the tokens of each kind are made: what stands in front, and the letters and length of the rest, part by part.
KINDS: dict[str, list[str | tuple[str, int]]] = {
    "openai": ["sk-", (ALNUM, 48)],
    "openai project": ["sk-proj-", (ALNUM + "-_", 80)],
    "anthropic": ["sk-ant-api03-", (ALNUM + "-_", 90)],
    "openrouter": ["sk-or-v1-", (HEX, 64)],
    "deepseek": ["sk-", (HEX, 32)],
    "langfuse": ["sk-lf-", (HEX, 8), "-", (HEX, 4), "-", (HEX, 12)],
    "stripe": ["sk_live_", (ALNUM, 24)],
    "stripe restricted": ["rk_live_", (ALNUM, 24)],
    "stripe webhook": ["whsec_", (ALNUM, 32)],
    "google": ["AIza", (ALNUM + "-_", 35)],
    "google oauth": ["ya29.", (ALNUM + "-_", 60)],
    "google client": ["GOCSPX-", (ALNUM + "-_", 28)],
    "hugging face": ["hf_", (string.ascii_letters, 34)],
    "groq": ["gsk_", (ALNUM, 52)],
    "xai": ["xai-", (ALNUM, 80)],
    "perplexity": ["pplx-", (ALNUM, 48)],
    "replicate": ["r8_", (ALNUM, 37)],
    "nvidia": ["nvapi-", (ALNUM + "-_", 64)],
    "cerebras": ["csk-", (LOWER, 48)],
    "fireworks": ["fw_", (ALNUM, 24)],
    "together": ["tgp_v1_", (ALNUM + "-_", 43)],
    "langsmith": ["lsv2_pt_", (HEX, 32), "_", (HEX, 10)],
    "aws": ["AKIA", (UPPER, 16)],
    "aws session": ["ASIA", (UPPER, 16)],
    "github": ["ghp_", (ALNUM, 36)],
    "github fine-grained": ["github_pat_", (ALNUM, 22), "_", (ALNUM, 59)],
    "gitlab": ["glpat-", (ALNUM + "-_", 20)],
    "slack bot": ["xoxb-", (string.digits, 12), "-", (ALNUM, 24)],
    "slack app": ["xapp-1-", (UPPER, 11), "-", (string.digits, 13), "-", (HEX, 64)],
    "npm": ["npm_", (ALNUM, 36)],
    "pypi": ["pypi-AgEIcHlwaS5vcmc", (ALNUM + "-_", 100)],
    "docker": ["dckr_pat_", (ALNUM + "-_", 27)],
    "digital ocean": ["dop_v1_", (HEX, 64)],
    "databricks": ["dapi", (HEX, 32)],
    "sendgrid": ["SG.", (ALNUM + "-_", 22), ".", (ALNUM + "-_", 43)],
    "vault": ["hvs.", (ALNUM + "-_", 90)],
    "shopify": ["shpat_", (HEX, 32)],
    "square": ["sq0csp-", (ALNUM + "-_", 43)],
    "mailchimp": [(HEX, 32), "-us12"],
    "telegram": [(string.digits, 10), ":AA", (ALNUM + "-_", 33)],
    "json web token": ["eyJ", (ALNUM + "-_", 30), ".eyJ", (ALNUM + "-_", 60), ".", (ALNUM + "-_", 43)],
    "azure storage": ["AccountKey=", (ALNUM + "+/", 86), "=="],
    "bearer": ["Bearer ", (ALNUM + "-._~+/", 40)],
    "azure sas": ["https://x.blob.core.windows.net/y?sv=2024&sig=", (ALNUM, 43)],
    "azure function": ["https://x.azurewebsites.net/api/y?code=", (ALNUM, 54)],
    "subscription key": ["https://x.azure-api.net/y?subscription-key=", (HEX, 32)],
    "api key": ["https://x.example/y?api-version=3&api-key=", (HEX, 32)],
    "signed": ["https://x.s3.amazonaws.com/y?X-Amz-Signature=", (HEX, 64)],
    "password in a URL": ["postgres://user:", (ALNUM, 16), "@db.example/x"],
}
# Only a message is searched for these: in a text of a data set they would be nothing.
LOGGED: dict[str, list[str | tuple[str, int]]] = {
    "user in a URL": ["https://", (ALNUM, 30), "@example.org/v1"],
    "authorization": ["Authorization: Token ", (ALNUM, 30)],
    "cookie": ["Cookie: session=", (ALNUM, 30)],
    "header": ["Ocp-Apim-Subscription-Key: ", (HEX, 32)],
    "another header": ["'X-Api-Key': '", (ALNUM, 30)],
    "assignment": ["MY_SERVICE_PASSWORD=", (ALNUM, 20)],
    "key in a URL": ["https://example.org/v1?key=", (ALNUM, 12)],
}


@st.composite
def tokens(draw: st.DrawFn, kinds: dict[str, list[str | tuple[str, int]]] = KINDS) -> tuple[str, str]:
    """A token, and the longest part of it that is secret."""
    parts = kinds[draw(st.sampled_from(sorted(kinds)))]
    made: list[tuple[str, bool]] = []
    for part in parts:
        if isinstance(part, str):
            made.append((part, False))
        else:
            letters, length = part
            text = draw(st.text(letters, min_size=length, max_size=length))
            # Chance makes letters and digits of a key; what shrinks an example does not.
            mixed = [c for c in "7aZ4b9K2" if c in letters]
            text = "".join(mixed) + text[len(mixed) :] if len(mixed) > 2 else text
            made.append((text.strip("-._~").ljust(length, "7"), True))  # as long as keys of its kind are
    secret = max((text for text, hidden in made if hidden), key=len)
    return "".join(text for text, _ in made), secret


around = st.text(string.ascii_letters + string.digits + " .,:;=\"'\n\t()[]{}/é漢", max_size=60)
edges = st.sampled_from([" ", "\n", '"', "'", "(", "[", "\t", ", "])


@settings(max_examples=600, deadline=None)
@given(tokens(), around, around, edges)
def test_no_planted_token_stays(token: tuple[str, str], before: str, after: str, edge: str) -> None:
    text, secret = token
    whole = f"{before}{edge}{text}{edge}{after}"
    assert secret not in redact(whole)
    assert holds_secret(whole)
    for place in ({"guidelines": whole}, {"params": {"a": [whole]}}, {"name": whole}, {"params": {whole: 1}}):
        with pytest.raises(ValueError, match="looks like a credential") as error:
            LLMProvider("openai/x", **place)
        assert secret not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(tokens(LOGGED), around, around)
def test_more_is_taken_out_of_messages(token: tuple[str, str], before: str, after: str) -> None:
    text, secret = token
    once = redact(f"{before} {text} {after}")
    assert secret not in once
    assert redact(once) == once


@settings(max_examples=100, deadline=None)
@given(st.text(ALNUM, min_size=1, max_size=20), st.text(ALNUM + "!$%", min_size=6, max_size=20))
def test_basic_authentication(user: str, password: str) -> None:
    secret = base64.b64encode(f"{user}:{password}".encode()).decode()
    for text in (f"Basic {secret}", f"header basic {secret} refused"):
        assert holds_secret(text)
        assert secret not in redact(text)


@pytest.mark.parametrize(
    "text", ["-" * 50_000, "sk-" * 20_000, "a-" * 25_000, "eyJ-" * 15_000, "?" * 50_000, "token" * 9000]
)
def test_no_text_keeps_the_search_busy(text: str) -> None:
    """Four times the text takes about four times the time, and not 16 as for a search that starts anew everywhere."""

    def took(text: str) -> float:
        started = time.process_time()
        redact(text)
        holds_secret(text)
        return time.process_time() - started

    whole, part = zip(*((took(text), took(text[: len(text) // 4])) for _ in range(3)), strict=True)
    assert min(whole) < 9 * min(part) + 0.05


FINE = [
    *("lost_password", "auth_token", "credentials", "api key", "secret santa", "password: forgotten", "pwd"),
    *("openai/gpt-5-nano", "anthropic/claude-haiku-4-5-20251001", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    *("sk-learn-like-tools", "sk-learn-text-classification-2024", "sk-hynix-llm-v2-instruct-large", "risk-averse"),
    *(
        "task-oriented-dialogue-system",
        "xai-explainability-methods",
        "fw_learning_rate_schedule",
        "npm_config_registry",
    ),
    *("3f2504e0-4f89-11d3-9a0c-0305e82c3301", "d592062cafe0123456789abcdef0123456789abc", "sha256:" + "0a" * 32),
    *(
        "https://shop.example/?key=shoes&page=2",
        "see https://example.org/?code=SUMMER2024-now",
        "?key=winter-sale-2024",
    ),
    *("https://example.org/?token=hello", "git+ssh://git@github.com/me/x", "mail me@example.org, token or not"),
    *("basic understanding of mathematics", "Basic internationalization", "Basic JavaScriptFrameworks2024"),
    *("the standard bearer of the organization", "bearer internationalization", "Authorization: Bearer $HF_TOKEN"),
    *('"mask_token": "<mask>"', '"bos_token": "<|begin_of_text|>"', "##token", "max_new_tokens=512", "▁password"),
    *("pa-state-senate-election-results-2024-what-we-know", "glpat", "AKIA", "dapifera", "r8_", "SG.1.2"),
    *("api_key_env='OPENAI_API_KEY'", "LABELFUSION_KEYS=HF_TOKEN", "-----BEGIN CERTIFICATE-----", "eyJ.eyJ.x"),
]


@pytest.mark.parametrize("text", FINE)
def test_what_users_really_have_is_no_secret(text: str, tmp_path: Path) -> None:
    assert not holds_secret(text)
    config = {"class_descriptions": {text: text}, "verbalizers": {text: [text]}, "examples": [{"text": text}]}
    refuse_secrets(config, "here")
    (tmp_path / "data.csv").write_text(f"text,label\n{json.dumps(text)},x\n")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {text: 0}}, "mask_token": text}))
    refuse_secret_files([tmp_path / "data.csv", tmp_path / "tokenizer.json"], tmp_path)


def test_messages_keep_what_they_say() -> None:
    for text in (
        "me/x wants texts sent to llm.example.org. Set LABELFUSION_SERVERS=llm.example and LABELFUSION_KEYS=MINE_2.",
        "`max_cost_usd` of $1.5 reached",
        "HTTP 429 rate_limit_exceeded, 6 attempts",
        "OPENAI_API_KEY is not set",
        "https://example.org:8080/v1?api-version=2024-10-21",
        "the tokenizer of 'me/x' is damaged (JSONDecodeError: line 1)",
    ):
        assert redact(text) == text


NAMES = [
    *("api_key", "apikey", "apiKey", "X-Api-Key", "x-goog-api-key", "Ocp-Apim-Subscription-Key", "X-Functions-Key"),
    *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "PRIVATE-TOKEN", "accessToken", "client_secret"),
    *("passwd", "password", "pwd", "passphrase", "db_password", "aws_secret_access_key", "azure_ad_token", "auth"),
    *("connection_string", "aws_session_token", "shared_access_key", "account_key"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_a_secret_goes_by(name: str) -> None:
    for value in ("hunter2", ["hunter2"], b"hunter2"):
        for params in ({name: value}, {"extra_headers": {name: value}}):
            with pytest.raises(ValueError, match="looks like a credential") as error:
                LLMProvider("openai/x", params=params)
            assert "hunter2" not in str(error.value)


def test_names_that_are_none() -> None:
    fine = {
        "max_tokens": 5,
        "prompt_cache_key": "news",
        "monkey": "x",
        "api_version": "1",
        "keyword": "x",
        "author": "x",
    }
    LLMProvider("openai/x", params={**fine, "tokenizer": "x", "passes": "x", "cookiecutter": "x", "token_limit": "5"})


@pytest.mark.parametrize(
    "url",
    [
        *("https://user:pw@x.example/v1", "https://user@x.example/v1", "https://:pw@x.example/v1"),
        *(f"https://x.example/v1?a=b&{name}=12" for name in ("code", "key", "sig", "subscription-key", "api-key")),
        *(f"https://x.example/v1?{name}=ab" for name in ("ApiKey", "x-functions-key", "token", "pwd", "client_secret")),
        "https://x.example/v1#access_token=ab",
    ],
)
def test_a_url_with_a_secret(url: str) -> None:
    for make in (lambda: LLMProvider("x", api_base=url), lambda: LLMProvider("x", params={"url": url})):
        with pytest.raises(ValueError, match="looks like a credential") as error:
            make()
        assert url not in str(error.value)
    LLMProvider("x", api_base="https://x.example:8000/v1?api-version=2024-10-21")


def test_a_private_key_goes_with_its_body() -> None:
    body = "MIIEowIBAAKCAQEA7bq" + "\n" + "Qx9Zk2" * 10
    for kind in ("RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "PGP PRIVATE KEY BLOCK"):
        for text in (f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----", f"-----BEGIN {kind}-----\n{body}"):
            for shown in (text, json.dumps(text)):
                assert "Qx9Zk2" not in redact(f"before {shown}")


def test_what_a_server_says_of_an_error_is_redacted() -> None:
    error = RequestError("HTTP 401 invalid_key sk-Ab12Cd34Ef56Gh78Ij90")
    assert "Ab12" not in f"{error} {error.reason}"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError])
def test_the_command_prints_no_secret(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from labelfusion.hub_scripts.commands import cache

    def fail(args: Any) -> int:
        try:
            raise OSError("https://user:hunter2secret@x.example/ failed")
        except OSError as cause:
            raise error("refused: sk-Ab12Cd34Ef56Gh78Ij90") from cause

    monkeypatch.setattr(cache, "run", fail)
    if error is ValueError:
        assert main(["cache", "info"]) == 2
        said = capsys.readouterr().err
    else:
        with pytest.raises(error) as caught:
            main(["cache", "info"])
        said = logging.Formatter().formatException((error, caught.value, caught.tb))
        # A traceback quotes the lines of the source too, here those above.
        said = "\n".join(line for line in said.splitlines() if re.match(r"\w*Error|\w+\.\w*Error", line))
    assert "[redacted]" in said
    assert "Ab12" not in said
    assert "hunter2" not in said
