"""Run the Python and Bash snippets of pages, and write what they print below them.

`python docs/run_snippets.py docs/tutorials/few-labels.md --write` runs the snippets of a page in order, in an empty
folder into which the data files beside the page are copied. The snippets of a page share their variables. A block of
text that follows a snippet holds its output; `--write` renews it. Exit status 1 if a snippet fails.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

SNIPPET = re.compile(r"^```(python|bash)\n(.*?)^```\n(\n```text\n.*?^```\n)?", re.DOTALL | re.MULTILINE)


def run_page(page: Path, folder: Path) -> tuple[str, list[str]]:
    """Run the snippets of `page` in `folder`; returns the page with their outputs, and the errors."""
    for data in page.parent.glob("*.csv"):
        shutil.copy(data, folder)
    space: dict[str, Any] = {"__name__": "__main__"}
    errors: list[str] = []

    def renewed(found: re.Match[str]) -> str:
        language, code, old = found.groups()
        output, error = _python(code, space) if language == "python" else _bash(code)
        errors.extend([f"{page.name}: {error}"] if error else [])
        output = output.replace(str(folder), "FOLDER").strip("\n")
        block = f"\n```text\n{output}\n```\n" if output and old else ""
        return f"```{language}\n{code}```\n{block}"

    before = Path.cwd()
    os.chdir(folder)
    try:
        return SNIPPET.sub(renewed, page.read_text(encoding="utf-8")), errors
    finally:
        os.chdir(before)


def _python(code: str, space: dict[str, Any]) -> tuple[str, str]:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "snippet", "exec"), space)
    except Exception:
        return printed.getvalue(), traceback.format_exc()
    return printed.getvalue(), ""


def _bash(code: str) -> tuple[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", code], capture_output=True, text=True, env=os.environ | {"PATH": path, "COLUMNS": "100"}
    )
    return done.stdout, f"{code}{done.stderr}" if done.returncode else ""


def main() -> int:
    """Run the pages that are named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="write the outputs into the page")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    failed = False
    for page in args.pages:
        with tempfile.TemporaryDirectory() as folder:
            text, errors = run_page(page.resolve(), Path(folder))
        print("\n".join(errors) or f"{page}: every snippet ran", file=sys.stderr)
        failed |= bool(errors)
        if args.write and not errors:
            page.write_text(text, encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
