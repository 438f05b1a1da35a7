"""Tables and plain text in Markdown."""

from typing import Any


def markdown_table(header: list[str], rows: list[list[str]], num_texts: int = 1) -> str:
    """A Markdown table. The first `num_texts` columns hold text; the others hold numbers and are right-aligned."""
    align = [":--"] * num_texts + ["--:"] * (len(header) - num_texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, align, *rows])


def plain(text: Any) -> str:
    """`text` on one line, with Markdown and HTML markup escaped."""
    out = " ".join(str(text).split())
    for character, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("`", "\\`"), ("_", "\\_")):
        out = out.replace(character, escaped)
    return out
