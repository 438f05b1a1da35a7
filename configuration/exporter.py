"""What prepares repositories for the Hub: registered by the package, absent where only its code was copied."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Exporter(Protocol):
    """Publishing, as config, Trainer and classifier need it; see `hub_scripts.publish.exporter`."""

    def write_code(self, folder: str | os.PathLike[str]) -> None:
        """Write the code of a self-contained repository into its root."""

    def prepare_repository(self, trainer: Any, **metadata: Any) -> None:
        """Write the card of a model that the Trainer pushes, and refuse files that hold secrets."""

    def hub_errors(self, repo_id: str) -> AbstractContextManager[None]:
        """Turn what goes wrong with the Hub into one sentence that says what to do."""

    def push_folder(self, folder: str | os.PathLike[str], repo_id: str, **options: Any) -> str:
        """Push a saved model; returns the address of its repository."""


_LOADERS: list[Callable[[], Exporter]] = []


def register_exporter(load: Callable[[], Exporter]) -> None:
    """Let `load` give the exporter, when one is first needed; it takes the place of one that is registered."""
    _LOADERS[:] = [load]


def exporter() -> Exporter | None:
    """The registered exporter; None in the copy of the code that a self-contained repository holds."""
    return _LOADERS[0]() if _LOADERS else None
