"""Cells of CSV and TSV files that a spreadsheet would run as a formula."""

import re
from typing import Any

# See the OWASP page on CSV injection: `=`, `+`, `-`, `@` (and their full-width forms), tab, CR, LF.
# Spreadsheets skip white space in front of them.
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def add_escape_formulas(parser: Any) -> None:
    """`--escape-formulas`."""
    parser.add_argument(
        "--escape-formulas",
        action="store_true",
        help="in a CSV or TSV file, put ' in front of cells that a spreadsheet would run as a formula; numbers stay. "
        "For reading in a spreadsheet: a file to go on from is better written without",
    )


def escape_formula(cell: Any) -> Any:
    """Prefix `cell` with an apostrophe if it is text that a spreadsheet would run. Numbers are unchanged."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return "'" + cell
    return cell
