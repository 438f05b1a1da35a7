"""Make a Jupyter notebook of a tutorial.

`python docs/make_notebook.py docs/tutorials/few-labels.md examples/few-labels.ipynb`, from the root of the project.
Text, code and outputs are those of the page, whose snippets `run_snippets.py --write` has run.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def notebook(page: Path, target: Path) -> dict[str, Any]:
    """The notebook of a page, in version 4.5 of its format (https://nbformat.readthedocs.io)."""
    steps = "../" * (len(target.parent.parts)) + page.parent.as_posix()
    text = page.read_text(encoding="utf-8")
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str, **more: Any) -> None:
        if source.strip():
            identity = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}}
            cells.append({**identity, **more, "source": source.strip("\n").splitlines(keepends=True)})

    end = 0
    for number, found in enumerate(BLOCK.finditer(text), 1):
        add("markdown", LINK.sub(rf"]({steps}/\1)", text[end : found.start()]))
        code = found[1].replace('"tickets.csv"', f'"{steps}/tickets.csv"')
        printed = {"output_type": "stream", "name": "stdout", "text": (found[2] or "").splitlines(keepends=True)}
        add("code", code, execution_count=number, outputs=[printed] if found[2] else [])
        end = found.end()
    add("markdown", LINK.sub(rf"]({steps}/\1)", text[end:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    """Write the notebook of a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("notebook", type=Path)
    args = parser.parse_args()
    text = json.dumps(notebook(args.page, args.notebook), indent=1, ensure_ascii=False) + "\n"
    args.notebook.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
