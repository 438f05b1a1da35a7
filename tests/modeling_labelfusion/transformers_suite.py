"""Transformers' own test classes for models and configs, from the source distribution of the installed release."""

import importlib
import subprocess
import sys
import tarfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from filelock import FileLock

CACHE = Path(__file__).parents[2] / ".cache" / "transformers-tests"
PACKAGE = "tests_of_transformers"
NEEDED = ("test_modeling_common.py", "test_configuration_common.py")
# What these two files import and the distribution lacks: base classes of tests that are for models that generate or are
# exported, and values for configs without sub-configs.
ABSENT: dict[str, dict[str, Any]] = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}


class UnavailableError(Exception):
    """The suite cannot be had here; says why."""


@cache
def load() -> tuple[Any, Any]:
    """The module of `ModelTesterMixin` and the class `ConfigTester`.

    Raises:
        UnavailableError: If there is no package index, no pip, or no such file in the distribution.
    """
    folder = _extracted(version("transformers"))
    package: Any = ModuleType(PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    for name, content in ABSENT.items():
        parent: Any = ModuleType(f"{PACKAGE}.{name.partition('.')[0]}")
        parent.__path__ = []
        module = ModuleType(f"{PACKAGE}.{name}")
        vars(module).update(content)
        sys.modules |= {parent.__name__: parent, module.__name__: module}
    try:
        with patch.object(pytest.mark, "_config", None):  # it has markers that are not registered here
            modeling, configuration = (importlib.import_module(f"{PACKAGE}.{Path(name).stem}") for name in NEEDED)
    except ImportError as error:
        raise UnavailableError(f"the tests of transformers {version('transformers')} lack something: {error}") from None
    return modeling, configuration.ConfigTester


def _extracted(release: str) -> Path:
    folder = CACHE / release
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / "lock"):
        if not folder.is_dir():
            archive = _downloaded(release)
            with tarfile.open(archive) as tar:
                files = {Path(m.name).name: m for m in tar if m.isfile() and Path(m.name).parts[1:-1] == ("tests",)}
                if not set(NEEDED) <= set(files):
                    raise UnavailableError(f"the source distribution of transformers {release} holds no {NEEDED[0]}")
                partial = CACHE / f"{release}.partial"
                partial.mkdir(exist_ok=True)
                for name, member in files.items():
                    content = tar.extractfile(member)
                    assert content is not None
                    (partial / name).write_bytes(content.read())
            (partial / "__init__.py").touch()
            partial.rename(folder)
            archive.unlink()
    return folder


def _downloaded(release: str) -> Path:
    command = ["download", "--quiet", "--no-deps", "--no-binary", "transformers", "--no-build-isolation"]
    limits = ["--retries", "0", "--timeout", "20", "--disable-pip-version-check"]
    where = ["--dest", str(CACHE), f"transformers=={release}"]
    run = subprocess.run([sys.executable, "-m", "pip", *command, *limits, *where], capture_output=True, text=True)
    archives = list(CACHE.glob(f"transformers-{release}.tar.gz"))
    if run.returncode or not archives:
        said = run.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UnavailableError(f"pip could not download the source distribution of transformers {release}: {said[0]}")
    return archives[0]
