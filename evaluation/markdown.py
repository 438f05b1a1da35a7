"""Tables and plain text in Markdown."""

from typing import Any


def markdown_table(header: list[str], rows: list[list[str]], num_texts: int = 1) -> str:
    """A Markdown table; all but the first `num_texts` columns are numbers, to the right."""
    align = [":--"] * num_texts + ["--:"] * (len(header) - num_texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *rows])


def plain(text: Any) -> str:
    """`text` on one line, with what Markdown and HTML would take as markup made harmless."""
    out = " ".join(str(text).split())
    for character, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("`", "\\`"), ("_", "\\_")):
        out = out.replace(character, escaped)
    return out
