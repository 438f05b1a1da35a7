"""`labelfusion push`: publish a model folder, or a data file with its LLM scores, on the Hugging Face Hub."""

import argparse
import json
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_card_metadata

if TYPE_CHECKING:
    from huggingface_hub import HfApi

IGNORED = (
    *(".git/*", ".env*", "*/.env*", "checkpoint-*", "*__pycache__*"),
    *("*.pkl", "*.pickle", "*.pt", "*.bin", "*.tmp", "*.journal"),
)
DATA_SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv", ".json")
# Files of other libraries whose keys ("mask_token", vocabulary entries) look like the names of secrets.
_FREE_JSON = frozenset({"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"})
_SECRET_VARIABLES = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", metavar="DIR", help="folder of a saved model; or a data file (Parquet, JSONL, CSV)")
    parser.add_argument("repo", metavar="REPO", help="user/name of the repository; it is made if there is none")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    visibility.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument(
        "--token-env",
        default="HF_TOKEN",
        metavar="NAME",
        help="environment variable with the Hub token (default: %(default)s, else the token of `hf auth login`)",
    )
    parser.add_argument(
        "--self-contained",
        action="store_true",
        help="push the code with the model, for users who have not installed labelfusion-transformers",
    )
    parser.add_argument("--commit-message", metavar="TEXT", help="message of the commit")
    add_card_metadata(parser)


def run(args: argparse.Namespace) -> int:
    """Push, and print the address."""
    from .model_card import update_card

    token = os.environ.get(args.token_env)
    if token is None and args.token_env != "HF_TOKEN":
        raise ValueError(f"`--token-env`: there is no environment variable {args.token_env}.")
    private = True if args.private else False if args.public else None
    source = Path(args.source)
    options: dict[str, Any] = {"private": private, "token": token, "commit_message": args.commit_message}
    if source.is_file() or is_data_folder(source):
        if args.self_contained:
            raise ValueError("`--self-contained` is for models; a data set has no code.")
        if args.license or args.language:
            raise ValueError("`--license` and `--language` are for models; write them into the data set's card.")
        url = push_data(source, args.repo, **options)
    else:
        check_model_folder(source)
        if args.license or args.language:
            update_card(source, args.repo, license=args.license, language=args.language)
        url = push_folder(source, args.repo, self_contained=args.self_contained, **options)
    print(f"Pushed to {url}")
    return 0


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    self_contained: bool = False,
) -> str:
    """Push a saved model with its tokenizer and card. Files that the repository has already are not sent again.

    Args:
        folder: Folder of a saved model. Its `README.md` is (re)written unless somebody has edited it.
        repo_id: `user/name`.
        private: Whether a new repository is private. Default: the account's setting. An existing one stays as it is.
        token: Hub token. Default: `HF_TOKEN`, or that of `hf auth login`.
        commit_message: Message of the commit.
        self_contained: Push the code too, so that the model loads with `trust_remote_code=True` where this package is
            not installed. The folder stays as it is.

    Returns:
        Address of the repository.

    Raises:
        ValueError: For a folder without a LabelFusion model, a file that holds something like a credential, or a name
            that the Hub does not allow.
        PermissionError: Without a token, or one that may not write there.
        ConnectionError: If the Hub cannot be reached.
    """
    from .export import export_model
    from .model_card import update_card

    folder = Path(folder)
    check_model_folder(folder)
    with hub_errors(repo_id):
        api = _api(token)
    if self_contained:
        with tempfile.TemporaryDirectory() as copy:
            exported = export_model(folder, copy, repo_id)
            return push_folder(exported, repo_id, private=private, token=token, commit_message=commit_message)
    update_card(folder, repo_id)
    refuse_secret_files([folder / name for name in _files(folder)], folder)
    with hub_errors(repo_id):
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload LabelFusion model",
            ignore_patterns=list(IGNORED),
        )
    return str(repo)


def push_data(
    source: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Push a data file, or a folder as `labelfusion score` writes it, as a data set; as `push_folder` otherwise.

    A scored CSV or JSONL file is pushed as Parquet, so that `load_dataset` gives its scores back as numbers. The card
    of a file is the `<file>.md` beside it; without that a plain one, unless the repository has a card.
    """
    from huggingface_hub import CommitOperationAdd

    from .data_repository import describe, is_scored_text, to_parquet

    source = Path(source)
    if source.is_file() and source.suffix.lower() not in DATA_SUFFIXES:
        raise ValueError(f"{str(source)!r} is not a data file; expected one of {', '.join(DATA_SUFFIXES)}.")
    root, card = (source.parent, source.with_name(source.name + ".md")) if source.is_file() else (source, None)
    paths = [source] if source.is_file() else [source / name for name in _files(source)]
    refuse_secret_files([*paths, *([card] if card and card.is_file() else [])], root)
    text = card.read_text(encoding="utf-8") if card and card.is_file() else None
    with tempfile.TemporaryDirectory() as folder, hub_errors(repo_id):
        api = _api(token)
        if is_scored_text(source):
            paths, root = [to_parquet(source, Path(folder))], Path(folder)
            text = describe(text or _plain_data_card(paths[0]), paths[0], paths[0].name)
        repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        added = [CommitOperationAdd(path.relative_to(root).as_posix(), path) for path in paths]
        if text is None and card is not None and not api.file_exists(repo.repo_id, "README.md", repo_type="dataset"):
            text = _plain_data_card(source)
        if text is not None:
            added.append(CommitOperationAdd("README.md", text.encode()))
        message = commit_message or f"Upload {source.name}"
        api.create_commit(repo.repo_id, added, commit_message=message, repo_type="dataset")
    return str(repo)


def is_data_folder(folder: Path) -> bool:
    """Whether `folder` is a data set as `labelfusion score` writes it: a card and a folder `data`."""
    files = folder.glob("data/*")
    return (folder / "README.md").is_file() and any(path.suffix in DATA_SUFFIXES for path in files)


def _plain_data_card(path: Path) -> str:
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(
        task_categories=["text-classification"],
        tags=["labelfusion", "llm-scores"],
        configs=[{"config_name": "default", "data_files": path.name}],
    )
    text = (
        f"# {path.stem}\n\nTexts for classification. The column `llm_scores`, where there is one, holds for each "
        "row one list a provider with one probability a class; null where an LLM gave no answer. "
        "[LabelFusion](https://pypi.org/project/labelfusion-transformers/) trains on it without asking again.\n"
    )
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that holds no LabelFusion model.

    Raises:
        ValueError: Saying what is missing.
    """
    if not is_model_folder(folder):
        raise ValueError(f"{str(folder)!r} is not the folder of a LabelFusion model: it has no config.json of one.")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{str(folder)!r} has a config but no weights (*.safetensors).")


def is_model_folder(folder: Path) -> bool:
    """Whether `folder` has the config of a LabelFusion model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "labelfusion"


def refuse_secret_files(paths: list[Path], root: Path) -> None:
    """Refuse files that hold the value of a secret environment variable, or text that looks like a credential.

    Raises:
        ValueError: Naming the file and line, never what it holds.
    """
    from ..configuration.secrets import holds_secret, refuse_secrets

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


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what goes wrong with the Hub into one sentence that says what to do."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    from ..configuration.secrets import redact

    no_token = "There is no Hub token: run `hf auth login`, or put one that may write into the variable HF_TOKEN."
    address = _endpoint()
    try:
        try:
            yield
        except RuntimeError as error:  # how the client wraps what goes wrong with a large file
            cause = error.__cause__
            if cause is None or type(cause).__module__.partition(".")[0] not in ("huggingface_hub", "httpx", "httpx2"):
                raise
            raise cause from None
    except HFValidationError as error:
        raise ValueError(f"The Hub allows no such name, {repo_id!r}: {redact(str(error))}") from None
    except OfflineModeIsEnabled:
        raise ConnectionError("The Hub was not asked: HF_HUB_OFFLINE is set. Unset it to push.") from None
    except LocalTokenNotFoundError:
        raise PermissionError(no_token) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = redact((error.server_message or "").strip()) or f"status {status}"
        if status == 401 and "authorization" not in error.response.request.headers:
            raise PermissionError(no_token) from None
        if status == 401:
            raise PermissionError(f"{address} did not accept the token: make a new one and log in again.") from None
        if status in (403, 404):
            raise PermissionError(
                f"The token may not write to {repo_id!r}: use one with write access, or a repository of your own "
                f"({said})."
            ) from None
        if status >= 500 or status == 429:
            raise ConnectionError(f"{address} has a problem of its own ({said}): try again later.") from None
        raise ValueError(f"{address} refused the push: {said}") from None
    except Exception as error:
        try:
            from huggingface_hub.utils import httpx  # the one that it uses: httpx2 from huggingface-hub 2 on
        except ImportError:  # its first releases with httpx do not export it
            httpx = import_module("httpx")

        if not isinstance(error, httpx.TransportError):
            raise
        raise ConnectionError(f"{address} cannot be reached ({type(error).__name__}): is there a network?") from None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _api(token: str | None) -> "HfApi":
    from huggingface_hub import HfApi, get_token

    if not (token or get_token()):
        from huggingface_hub.errors import LocalTokenNotFoundError

        raise LocalTokenNotFoundError
    return HfApi(token=token, library_name="labelfusion")


def _files(folder: Path) -> list[str]:
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return list(filter_repo_objects(names, ignore_patterns=list(IGNORED)))
