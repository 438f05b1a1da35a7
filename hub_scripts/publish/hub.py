"""Model folders and data files on the Hugging Face Hub."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..io.model_folder import check_model_folder
from .hub_errors import hub_errors
from .secret_files import refuse_secret_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

IGNORED = (
    *(".git/*", ".env*", "*/.env*", "checkpoint-*", "*__pycache__*"),
    *("*.pkl", "*.pickle", "*.pt", "*.bin", "*.tmp", "*.journal"),
    *("*.html", "*.htm"),  # reports with texts of the data
)
DATA_SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv", ".json")


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
    from ..cards.model_card import update_card
    from ..formats.self_contained import export_model

    folder = Path(folder)
    check_model_folder(folder)
    with hub_errors(repo_id):
        api = _api(token)
    if self_contained:
        with tempfile.TemporaryDirectory() as copy:
            exported = export_model(folder, copy, repo_id)
            return push_folder(exported, repo_id, private=private, token=token, commit_message=commit_message)
    update_card(folder, repo_id)
    refuse_secret_files([folder / name for name in published_files(folder)], folder)
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
    paths = [source] if source.is_file() else [source / name for name in published_files(source)]
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


def _api(token: str | None) -> "HfApi":
    from huggingface_hub import HfApi, get_token

    if not (token or get_token()):
        from huggingface_hub.errors import LocalTokenNotFoundError

        raise LocalTokenNotFoundError
    return HfApi(token=token, library_name="labelfusion")


def published_files(folder: Path) -> list[str]:
    """The names of the files in a folder that are published."""
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return list(filter_repo_objects(names, ignore_patterns=list(IGNORED)))
