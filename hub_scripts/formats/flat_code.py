"""The code of a self-contained repository: this package's own sources, linked into four flat files."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .flat_linker import Layout, Linker

# The files, the packages in each, and their docstrings. A file imports only from those above it.
FILES = {
    "configuration_labelfusion": (("configuration",), "Configuration of the model, and the declaration of its LLMs."),
    "modeling_labelfusion": (("modeling_labelfusion",), "The model: an encoder fused with the scores of LLMs."),
    "scoring_labelfusion": (("scoring",), "Asking LLMs for the scores of the classes."),
    "pipeline_labelfusion": (("routing", "pipelines"), "The pipeline: texts in, labels out."),
}
ROOTS = {
    "configuration.configuration_labelfusion": "LabelFusionConfig",
    "modeling_labelfusion.modeling_labelfusion": "LabelFusionForSequenceClassification",
    "pipelines.pipeline_labelfusion": "LabelFusionPipeline",
}
# Installed with Transformers and PyTorch. Transformers refuses a file that imports others outside of a `try`.
BROUGHT = frozenset({"huggingface_hub", "numpy", "safetensors", "torch", "tqdm", "transformers", "yaml"})
# Modules used from the installed package, if present, and the extra with their dependencies.
LEFT_OUT = {
    "scoring.likelihood": ("A local LLM", "embedded"),
    "scoring.local_decision": ("A local decision model", "embedded"),
    "scoring.shared_stores": ("A score store that machines share", "postgres"),
}


@cache
def flat_code() -> dict[str, str]:
    """`{file name: source}` of the code that a self-contained repository needs.

    Raises:
        ValueError: If a module has side effects on import, or imports a name that the sources do not define.
    """
    header = (
        f"# Generated from labelfusion-transformers {package_version()}; change the package, not this file.\n"
        "# SPDX-License-Identifier: Apache-2.0\n"
    )
    files = Linker(Layout(FILES, ROOTS, BROUGHT, LEFT_OUT)).link()
    return {f"{name}.py": header + source for name, source in files.items()}


def write_code(folder: str | Path) -> None:
    """Write the code into the root of a repository folder."""
    for name, source in flat_code().items():
        (Path(folder) / name).write_text(source, encoding="utf-8")


def package_version() -> str:
    """Version of this package; 0.0.0 for a source tree that is not installed."""
    try:
        return version("labelfusion-transformers")
    except PackageNotFoundError:
        return "0.0.0"
