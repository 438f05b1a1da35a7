"""Reads CSV and TSV files with every cell as its literal text, without truncated or merged rows."""

import codecs
import csv
import itertools
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cell_quotes import UTF8, Quotes, RowBlocks, find_quotes

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BLOCK = 1 << 22  # bytes; a longer row is an error
_ENCODINGS = {  # by byte order mark; UTF-32 first, because its little-endian mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Form:
    """Format of a file.

    Args:
        encoding: Text encoding.
        delimiter: Separator of cells.
        quoted: Whether `"` encloses cells (and is doubled inside them); otherwise it is an ordinary character.
        before: Number of lines before the header: 1 for a line `sep=;`, which Excel reads and writes.
    """

    encoding: str
    delimiter: str
    quoted: bool
    before: int = 0


def read_cells(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[int, dict[str, list[str]]]]:
    """Read a CSV or TSV file in batches of some thousand rows, each as its row count and its cells by column.

    A file is read as RFC 4180 defines CSV. If that fails, its quotes are read as ordinary characters, provided that
    every line then has as many cells as the header. Blank lines are skipped.

    Raises:
        ValueError: If a row does not have as many cells as the header, quotes do not match, the file can be read in two
            ways, two columns have the same name, or the encoding is unknown.
    """
    from pyarrow import csv as arrow_csv

    with named(path):
        form = _first_form(path)
        form = _find_form(path, form, find_quotes(path, form.encoding, form.delimiter))
        names = _names(path, form)
        with _explained(path, form):
            header = 1
            for batch in arrow_csv.open_csv(path, **_options(form, names, columns)) if names else ():
                rows = batch.slice(header)
                header = 0 if batch.num_rows else header
                found = zip(_wanted(names, columns).values(), rows.columns, strict=False)
                yield rows.num_rows, {name: cells.to_pylist() for name, cells in found}


def read_all_cells(
    path: Path, columns: Collection[str] | None = None, repeated: Collection[str] = ()
) -> "dict[str, pa.ChunkedArray]":
    """Read everything that `read_cells` reads, as Arrow columns: much faster, and mostly in one pass.

    Several threads parse blocks of rows, if the quotes are as in RFC 4180. Otherwise the file is read again, after all
    of it has been checked.

    Args:
        path: The file.
        columns: As for `read_cells`.
        repeated: Columns with few distinct cells, which are dictionary-encoded.
    """
    with named(path):
        form, read, is_csv = _first_form(path), None, path.suffix.lower() == ".csv"
        with suppress(ValueError), RowBlocks(path, form.encoding, form.delimiter) as file:  # also that of Arrow
            read = _read(file, _names(path, form), form, columns, repeated)
        if read is not None and (is_csv or not file.has_quotes):
            return read[1]
        quotes = find_quotes(path, form.encoding, form.delimiter)
        if read is not None and read[0] + 1 + form.before == quotes.lines:
            return read[1]
        form = _find_form(path, form, quotes)
        with _explained(path, form):
            return _read(path, _names(path, form), form, columns, repeated)[1]


def _read(
    source: Path | RowBlocks, names: list[str], form: Form, columns: Collection[str] | None, repeated: Collection[str]
) -> "tuple[int, dict[str, pa.ChunkedArray]]":
    """Read the number of rows and the columns."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    if not names:
        return 0, {}
    options = _options(form, names, columns, repeated, isinstance(source, RowBlocks))
    table = arrow_csv.read_csv(source, memory_pool=pa.system_memory_pool(), **options).slice(1)
    if isinstance(source, RowBlocks) and not source.is_ascii:
        table.validate(full=True)  # whether texts are UTF-8
    return table.num_rows, dict(zip(_wanted(names, columns).values(), table.columns, strict=False))


def _wanted(names: list[str], columns: Collection[str] | None) -> dict[str, str]:
    """The columns to read, by their position as text."""
    return {str(i): name for i, name in enumerate(names) if columns is None or name in columns}


def _options(
    form: Form,
    names: list[str],
    columns: Collection[str] | None,
    repeated: Collection[str] = (),
    in_rows: bool = False,
) -> dict[str, Any]:
    """Options for Arrow's reader. The header is read as a row, so that column names may be any text."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    once = pa.dictionary(pa.int32(), pa.string())
    kinds = {str(i): once if name in repeated else pa.string() for i, name in enumerate(names)}
    size = _BLOCK // 4 if in_rows else _BLOCK  # smaller blocks balance better over threads
    encoding = "utf8" if in_rows or form.encoding == UTF8 else form.encoding  # Arrow skips the mark of UTF-8 itself
    return {
        "read_options": arrow_csv.ReadOptions(
            column_names=list(kinds), block_size=size, encoding=encoding, skip_rows=form.before
        ),
        "parse_options": arrow_csv.ParseOptions(
            delimiter=form.delimiter,
            quote_char='"' if form.quoted else False,
            newlines_in_values=form.quoted and not in_rows,
        ),
        "convert_options": arrow_csv.ConvertOptions(
            column_types=kinds, check_utf8=not in_rows, include_columns=list(_wanted(names, columns))
        ),
    }


@contextmanager
def _explained(path: Path, form: Form) -> Iterator[None]:
    """Replace an Arrow parse error with an error that names the wrong row."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowInvalid as error:
        _check_rows(path, form)
        raise read_error(path, str(error), "as many cells in every row") from None


def _first_form(path: Path) -> Form:
    """Detect the format of a file, assuming that `"` encloses cells."""
    form = Form(find_encoding(path), DELIMITERS[path.suffix.lower()], quoted=True)
    with path.open(encoding=form.encoding, newline="") as file:
        start = next((line for line in file if line.strip()), "")
        if found := re.fullmatch(r"sep=(.)[\r\n]*", start, re.IGNORECASE):
            return replace(form, delimiter=found[1], before=1)
    if form.delimiter not in start:  # spreadsheets use `;` where the comma is the decimal separator
        form = replace(form, delimiter=next((d for d in ";\t," if d in start), form.delimiter))
    return form


def _find_form(path: Path, form: Form, quotes: Quotes) -> Form:
    """Decide the format of a file: `form`, unless its quotes do not enclose cells."""
    if not quotes.open:
        return replace(form, quoted=False)
    if quotes.regular and (path.suffix.lower() == ".csv" or _count_rows(path, form) == quotes.lines - form.before):
        return form
    return _settle_quotes(path, form, quotes)


def _count_rows(path: Path, form: Form) -> int | None:
    """Count the rows, including the header; None if the file cannot be read in this format."""
    from pyarrow import csv as arrow_csv

    try:
        names = _names(path, form)
        return sum(batch.num_rows for batch in arrow_csv.open_csv(path, **_options(form, names, names[:1])))
    except ValueError:  # also that of Arrow
        return None


def _settle_quotes(path: Path, form: Form, quotes: Quotes) -> Form:
    """Decide whether quotes enclose cells, by trying both readings.

    The quoted reading is preferred. A TSV file for which both readings work but give different numbers of rows is
    ambiguous, because some programs quote the cells of TSV files and others do not. A CSV file in which some quotes
    enclose cells and others do not match is ambiguous, too.

    Raises:
        ValueError: If neither reading works, or the file is ambiguous.
    """
    raw = replace(form, quoted=False)
    problem, rows = _problem(path, form, quotes)
    if problem is None and path.suffix.lower() != ".tsv":
        return form
    raw_problem, raw_rows = _problem(path, raw, quotes)
    if problem is None and (raw_problem is not None or rows == raw_rows):
        return form
    if problem is not None and raw_problem is None and not _has_enclosed(path, raw):
        return raw
    if problem is not None:
        raise problem
    raise read_error(
        path,
        f'it has {rows} rows if `"` encloses cells, and {raw_rows} if it is a character of the texts',
        'one way of reading it: write each `"` of a text twice and the cell between `"`, or save it as JSON Lines',
    )


def _problem(path: Path, form: Form, quotes: Quotes) -> tuple[ValueError | None, int]:
    """The error of reading the file in this format, if any, and the number of rows without the header."""
    if quotes.regular and (rows := _count_rows(path, form)) is not None:
        return None, rows - 1
    try:
        return None, _check_rows(path, form)
    except ValueError as error:
        if isinstance(error, UnicodeError):
            raise
        return error, 0


def _check_rows(path: Path, form: Form) -> int:
    """Parse the file strictly and return the number of rows without the header.

    Raises:
        ValueError: For the first malformed row.
    """
    rows, count = _strict_rows(path, form), 0
    try:
        _, header = next(rows, (0, []))
        width = len(header)
        advice = f'{width} cells as in the header; a cell with {form.delimiter!r} in it stands between `"`'
        for line, row in rows:
            if len(row) != width:
                raise read_error(path, f"row {count} has {len(row)} cells in line {line} ({_shown(row)})", advice)
            count += 1
    except csv.Error as error:
        place = f"row {count} has quotes that do not match ({error})"
        raise read_error(path, place, 'each `"` inside a cell written twice, and the cell between `"`') from None
    return count


def _has_enclosed(path: Path, raw: Form) -> bool:
    """Whether quotes enclose a whole cell. In a TSV file, only the header counts: elsewhere texts may be in quotes."""
    rows = (cells for _, cells in _strict_rows(path, raw))
    for row in itertools.islice(rows, None if path.suffix.lower() == ".csv" else 1):
        for cell in row:
            if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
                return True
    return False


def _strict_rows(path: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Parse the rows, each with the number of its first line. Raises `csv.Error` with the number of the wrong line."""
    csv.field_size_limit(sys.maxsize)
    quoting: Any = csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE
    with path.open(encoding=form.encoding, newline="") as file:
        reader = csv.reader(file, delimiter=form.delimiter, quoting=quoting, strict=True)
        line = 1 + form.before
        try:
            for row in itertools.islice(reader, form.before, None):
                if row:
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise csv.Error(f'the `"` that opens a cell in line {line} is never closed') from None
            lines = f"line {line}" if reader.line_num == line else f"lines {line} to {reader.line_num}"
            raise csv.Error(f"{lines}: {error}".replace("\t", r"\t")) from None


def _names(path: Path, form: Form) -> list[str]:
    try:
        _, names = next(_strict_rows(path, form), (0, []))
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
    """Detect the encoding from the byte order mark and return its Python name; UTF-8 without a mark."""
    with path.open("rb") as file:
        start = file.read(64)
    found = next((name for mark, name in _ENCODINGS.items() if start.startswith(mark)), None)
    if found is None and b"\0" in start:
        raise read_error(
            path, "it looks like UTF-16 without its mark", "UTF-8, or UTF-16 with its mark. Save it as UTF-8"
        )
    return found or UTF8


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Replace a decoding error with one that says where the bytes are and how to fix the file."""
    try:
        yield
    except UnicodeError:
        raise _encoding_error(path) from None


def _encoding_error(path: Path) -> ValueError:
    encoding = find_encoding(path)
    if encoding != UTF8:
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
    """The error for a file that cannot be read correctly."""
    return ValueError(f"{path}: {found}; expected {expected}.")
