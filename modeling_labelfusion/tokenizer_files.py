"""Loads a tokenizer. Unlike those of Transformers, its errors name the damaged file."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..configuration.secrets import redact

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")

_SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def load_tokenizer(folder_or_repo: str | Path) -> Any:
    """Load the tokenizer of a model. It pads on the right, and always has a padding token.

    Raises:
        OSError: If its files are missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_repo)
    except OSError as error:
        check_present(str(folder_or_repo), error)
        raise
    except Exception as error:  # from `json`, the backend, or damaged content
        raise tokenizer_error(str(folder_or_repo), error) from None
    # Without files, Transformers creates a tokenizer with only special tokens, which makes all texts identical.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise tokenizer_error(str(folder_or_repo))
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:  # GPT-2 and others; any token works, as it is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token or tokenizer.unk_token
    return tokenizer


def check_present(source: str, error: OSError) -> None:
    """Check whether `error` came because the model `source` is no folder, not in the cache, and could not be fetched.

    Raises:
        OSError: If so; says whether the Hub has no such model, or could not be reached.
    """
    if is_here(source):
        return
    if hub_out_of_reach(error):
        raise OSError(
            f"The Hub could not be reached, and {source!r} is not in the cache. Without a network give a folder, or "
            "`encoder='embedded/all-minilm-l6-v2'`: docs/troubleshooting.md#keys-and-models."
        ) from error
    reason = redact(str(error)).partition("\n")[0].rstrip(".")
    raise OSError(
        f"There is no model {source!r}: no folder here has this name, and nothing was fetched from the Hub ({reason}). "
        "Give a folder, a Hub id such as 'roberta-base', or an embedded model: "
        "docs/troubleshooting.md#keys-and-models."
    ) from error


def is_here(source: str) -> bool:
    """Whether `source` is a path that exists, or a Hub id whose config is in the cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        return Path(source).exists() or try_to_load_from_cache(source, "config.json") is not None
    except HFValidationError:  # no Hub id
        return False


def hub_out_of_reach(error: BaseException) -> bool:
    """Whether `error` came because the Hub did not answer: there is no network, or it is switched off."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    unanswered = False
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, HfHubHTTPError):  # an answer, such as 404
            return False
        unanswered |= isinstance(chain, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError)
        chain = chain.__cause__
    return unanswered


def tokenizer_error(source: str, error: Exception | None = None) -> OSError:
    """The error for a missing or damaged tokenizer of the model in `source`."""
    from huggingface_hub import try_to_load_from_cache

    local = Path(source).is_dir()
    for name in TOKENIZER_FILES:
        path = Path(source) / name if local else try_to_load_from_cache(source, name) if source else None
        if not isinstance(path, str | Path) or not Path(path).is_file():
            continue
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(content, dict) or (name == "tokenizer.json" and not content.get("model")):
                raise ValueError("it describes no tokenizer")
        except (OSError, ValueError) as reason:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            return OSError(f"{name} of {source!r} is damaged ({reason}): copy or download it again.")
    pieces = [name for name in _SENTENCEPIECE if local and (Path(source) / name).is_file()]
    if pieces and not (Path(source) / "tokenizer.json").is_file() and not _installed("sentencepiece"):
        return OSError(f"The tokenizer of {source!r} is in {pieces[0]}, which needs: pip install sentencepiece.")
    where = f" for {source!r}" if source else ""
    why = f" ({type(error).__name__}: {redact(str(error)).partition(chr(10))[0]})" if error else ""
    return OSError(
        f"No tokenizer could be loaded{where}{why}: its files are missing or damaged; save the model's tokenizer "
        "there, or pass a `tokenizer`."
    )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # the package is None in `sys.modules`
        return False
