"""Prevents the publication of files that hold secrets."""

import json
import mmap
import os
from pathlib import Path

# Files of other libraries whose keys ("mask_token", vocabulary entries) look like the names of secrets.
_FREE_JSON = frozenset({"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"})
_SECRET_VARIABLES = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def refuse_secret_files(paths: list[Path], root: Path) -> None:
    """Refuse files that hold the value of a secret environment variable, or text that looks like a credential.

    Raises:
        ValueError: Naming the file and line, never the content.
    """
    from ...configuration.secrets import holds_secret, refuse_secrets

    values = [v.strip().encode() for k, v in os.environ.items() if k.upper().endswith(_SECRET_VARIABLES)]
    values = [v for v in values if len(v) >= 12]
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if any(content.find(v) >= 0 for v in values):
                raise ValueError(_refusal(f"{name} holds the value of one of your secret environment variables"))
            if path.suffix == ".safetensors" or content.find(b"\0", 0, 8192) >= 0:
                continue
        for number, line in enumerate(path.open(encoding="utf-8", errors="replace"), start=1):
            if holds_secret(line):
                raise ValueError(_refusal(f"{name}, line {number}, holds something that looks like a credential"))
        if path.suffix == ".json" and path.name not in _FREE_JSON and path.stat().st_size < 1 << 24:
            refuse_secrets(json.loads(path.read_text(encoding="utf-8")), name)


def _refusal(what: str) -> str:
    return f"Nothing was pushed: {what}. Remove it from the file, and revoke the key if the file was ever shared."
