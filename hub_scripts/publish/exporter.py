"""The exporter that config, Trainer and classifier use without knowing this package: see `configuration.exporter`."""

import os
from contextlib import AbstractContextManager
from typing import Any


def write_code(folder: str | os.PathLike[str]) -> None:
    """Write the code of a self-contained repository into its root."""
    from ..formats.flat_code import write_code

    write_code(str(folder))


def prepare_repository(trainer: Any, **metadata: Any) -> None:
    """See `trainer_repository.prepare_repository`."""
    from .trainer_repository import prepare_repository

    prepare_repository(trainer, **metadata)


def hub_errors(repo_id: str) -> AbstractContextManager[None]:
    """See `hub_errors.hub_errors`."""
    from .hub_errors import hub_errors

    return hub_errors(repo_id)


def push_folder(folder: str | os.PathLike[str], repo_id: str, **options: Any) -> str:
    """See `hub.push_folder`."""
    from .hub import push_folder

    return push_folder(str(folder), repo_id, **options)
