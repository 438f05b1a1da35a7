"""CSV and TSV files: every cell a text as it is written, no row cut short, no two rows read as one."""

import codecs
import csv
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BLOCK = 1 << 22  # bytes
_ENCODINGS = {  # a file's first bytes say which; UTF-32 before UTF-16, which begins alike
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Args:
        encoding: Its encoding.
        delimiter: What stands between two cells.
        quoted: Whether `"` encloses cells (and stands twice inside them); otherwise it is a character like others.
    """

    encoding: str
    delimiter: str
    quoted: bool


def read_cells(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[int, dict[str, list[str]]]]:
    """The cells of a CSV or TSV file by columns, some thousand rows at a time, each batch with its number of rows.

    A file is read as CSV is defined (RFC 4180). Where it cannot be meant so, its quotes are read as plain characters,
    if each line then has as many cells as the header. Blank lines are left out.

    Raises:
        ValueError: For a row with another number of cells than the header, quotes that do not match, a file that can be
            read in two ways, two columns of one name, or an encoding that is not known.
    """
    with named(path):
        form, lines = _find_form(path)
        if lines is not None and _count_rows(path, form) != lines:
            form = _settle_quotes(path, form)
        yield from _batches(path, form, columns)


def read_all_cells(path: Path, columns: Collection[str] | None = None) -> list[tuple[int, dict[str, list[str]]]]:
    """All that `read_cells` gives, in mostly one go through the file."""
    with named(path):
        form, lines = _find_form(path)
        if lines is not None:
            with suppress(ValueError):
                batches = list(_batches(path, form, columns))
                if 1 + sum(count for count, _ in batches) == lines:
                    return batches
            form = _settle_quotes(path, form)
        return list(_batches(path, form, columns))


def _batches(path: Path, form: Form, columns: Collection[str] | None) -> Iterator[tuple[int, dict[str, list[str]]]]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = _names(path, form)
    if not names:
        return
    places = [str(i) for i in range(len(names))]  # names may be anything
    wanted = [(str(i), name) for i, name in enumerate(names) if columns is None or name in columns]
    try:
        batches = arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=places, block_size=_BLOCK, encoding=form.encoding),
            parse_options=arrow_csv.ParseOptions(
                delimiter=form.delimiter, quote_char='"' if form.quoted else False, newlines_in_values=form.quoted
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()), include_columns=[place for place, _ in wanted]
            ),
        )
        header = 1
        for batch in batches:
            rows = batch.slice(header)
            header = 0 if batch.num_rows else header
            yield rows.num_rows, {name: rows.column(place).to_pylist() for place, name in wanted}
    except pa.ArrowInvalid as error:
        _check_rows(path, form)
        raise read_error(path, str(error), f"{len(names)} cells in every row") from None


def _find_form(path: Path) -> tuple[Form, int | None]:
    """Find out how a file is written; with a number, that holds only if the file has so many rows, or else is open."""
    form = Form(find_encoding(path), DELIMITERS[path.suffix.lower()], quoted=True)
    with path.open(encoding=form.encoding, newline="") as file:
        start = next((line for line in file if line.strip()), "")
    if form.delimiter not in start:  # as spreadsheets write it where the comma is the decimal point
        form = replace(form, delimiter=next((d for d in ";\t," if d in start), form.delimiter))
    lines, has_quotes, last = 0, False, b"\n"
    with path.open("rb") as binary:
        for block in iter(partial(binary.read, _BLOCK), b""):
            lines, has_quotes, last = lines + block.count(b"\n"), has_quotes or b'"' in block, block
    if not has_quotes:
        return replace(form, quoted=False), None
    if path.suffix.lower() == ".tsv":
        return _settle_quotes(path, form), None
    return form, lines + (not last.endswith(b"\n"))  # a row a line: nothing is merged


def _count_rows(path: Path, form: Form) -> int | None:
    """Number of rows, the header among them; None if the file cannot be read so."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    options = arrow_csv.ConvertOptions(include_columns=["f0"], column_types={"f0": pa.string()})
    try:
        reader = arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(
                autogenerate_column_names=True, block_size=_BLOCK, encoding=form.encoding
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=form.delimiter, newlines_in_values=True),
            convert_options=options,
        )
        return sum(batch.num_rows for batch in reader)
    except pa.ArrowInvalid:
        return None


def _settle_quotes(path: Path, form: Form) -> Form:
    """Whether quotes enclose cells: where that reads well, unless a TSV file reads well, with other rows, without.

    Raises:
        ValueError: If neither does, or both do for a TSV file, which some write with and some without quotes.
    """
    raw = replace(form, quoted=False)
    problem, rows = _problem(path, form)
    if problem is None and path.suffix.lower() != ".tsv":
        return form
    raw_problem, raw_rows = _problem(path, raw)
    if problem is None and (raw_problem is not None or rows == raw_rows):
        return form
    if problem is not None and raw_problem is None:
        return raw
    if problem is not None:
        raise problem
    raise read_error(
        path,
        f'it has {rows} rows if `"` encloses cells, and {raw_rows} if it is a character of the texts',
        'one way of reading it: write each `"` of a text twice and the cell between `"`, or save it as JSON Lines',
    )


def _problem(path: Path, form: Form) -> tuple[ValueError | None, int]:
    """What speaks against reading the file so, if anything; and the number of its rows, without the header."""
    try:
        return None, _check_rows(path, form)
    except ValueError as error:
        if isinstance(error, UnicodeError):
            raise
        return error, 0


def _check_rows(path: Path, form: Form) -> int:
    """Go through the file strictly; returns the number of its rows, without the header.

    Raises:
        ValueError: For the first row that is wrong.
    """
    rows, count = _strict_rows(path, form), 0
    try:
        width = len(next(rows, []))
        advice = f'{width} cells as in the header; a cell with {form.delimiter!r} in it stands between `"`'
        for row in rows:
            if len(row) != width:
                raise read_error(path, f"row {count} has {len(row)} cells ({_shown(row)})", advice)
            count += 1
    except csv.Error as error:
        place = f"row {count} has quotes that do not match ({error})"
        raise read_error(path, place, 'each `"` inside a cell written twice, and the cell between `"`') from None
    return count


def _strict_rows(path: Path, form: Form) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)
    quoting: Any = csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE
    with path.open(encoding=form.encoding, newline="") as file:
        reader = csv.reader(file, delimiter=form.delimiter, quoting=quoting, strict=True)
        yield from (row for row in reader if row)


def _names(path: Path, form: Form) -> list[str]:
    try:
        names = next(_strict_rows(path, form), [])
    except csv.Error as error:
        raise read_error(path, f"the header has quotes that do not match ({error})", "a name for each column") from None
    names = [name or (f"Unnamed: {i}" if names.count("") > 1 else "") for i, name in enumerate(names)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise read_error(path, f"the header has the column {twice[0]!r} twice", "a name of its own for each column")
    return names


def _shown(row: list[str]) -> str:
    text = ", ".join(repr(cell[:20]) for cell in row[:4])
    return text if len(row) <= 4 else f"{text}, ..."


def find_encoding(path: Path) -> str:
    """Python's name of the encoding that the first bytes of a file declare; UTF-8 if they declare none."""
    with path.open("rb") as file:
        start = file.read(64)
    found = next((name for mark, name in _ENCODINGS.items() if start.startswith(mark)), None)
    if found is None and b"\0" in start:
        raise read_error(
            path, "it looks like UTF-16 without its mark", "UTF-8, or UTF-16 with its mark. Save it as UTF-8"
        )
    return found or "utf-8-sig"


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Say of bytes that are no text in the file's encoding where they are, and how to mend that."""
    try:
        yield
    except UnicodeError:
        raise _encoding_error(path) from None


def _encoding_error(path: Path) -> ValueError:
    encoding = find_encoding(path)
    if encoding != "utf-8-sig":
        return read_error(path, f"it is cut off or damaged ({encoding})", "a complete file; save it as UTF-8")
    found = "it is not UTF-8"
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                around = line[max(0, error.start - 15) : error.start + 15].decode("cp1252", "replace").strip()
                found = f"line {number} is not UTF-8 ({around!r} if it were Windows-1252)"
                break
    return read_error(
        path,
        found,
        "UTF-8, or UTF-16 with its mark. Save it as 'CSV UTF-8', or convert it: iconv -f WINDOWS-1252 -t UTF-8",
    )


def read_error(path: Path, found: str, expected: str) -> ValueError:
    """The error for a file that cannot be read rightly."""
    return ValueError(f"{path}: {found}; expected {expected}.")
