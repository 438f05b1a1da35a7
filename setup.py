"""Finds the packages: each top-level folder that pyproject.toml maps to a subpackage, with the folders in it."""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

PROJECT = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))

setup(
    packages=[
        name
        for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ]
)
