"""Finds lines and quotes of a CSV or TSV file with NumPy, many times faster than parsing the cells."""

import codecs
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

UTF8 = "utf-8-sig"  # accepts files with and without a byte order mark
_PIECE = 1 << 18  # bytes; small enough for the CPU cache, as each piece is scanned several times
_QUOTE, _END, _RETURN = b'"\n\r'


class Watched(io.RawIOBase):
    """A file object that converts any encoding to UTF-8 and counts the lines that are read through it.

    Args:
        path: The file.
        encoding: Its encoding.

    Attributes:
        lines: Number of lines read so far.
        has_quotes: Whether they contain a `"`.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._decoder = None if encoding == UTF8 else codecs.getincrementaldecoder(encoding)()
        self.lines, self.has_quotes, self._last = 0, False, b"\n"

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        data = self._file.read(size)
        if self._decoder is not None:
            data = self._decoder.decode(data, final=not data).encode()
        block = np.frombuffer(data, dtype=np.uint8)
        for start in range(0, len(data), _PIECE):
            self.lines += int(np.count_nonzero(block[start : start + _PIECE] == _END))
        self.has_quotes = self.has_quotes or b'"' in data
        if not data and not self._last.endswith(b"\n"):
            self.lines, self._last = self.lines + 1, b"\n"
        self._last = data[-1:] or self._last
        return data

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@dataclass(frozen=True)
class Quotes:
    """Quotes of a file.

    Args:
        lines: Number of lines, including the header.
        open: Whether any quote is at the start of a cell. If none is, all quotes are ordinary characters.
        regular: Whether each quote encloses a cell or is doubled inside one (RFC 4180). Files that are not regular may
            be valid too, such as those with quotes inside unquoted cells.
    """

    lines: int
    open: bool
    regular: bool


def find_quotes(path: Path, encoding: str, delimiter: str) -> Quotes:
    """Scan a file with cells separated by `delimiter` once.

    If it is not UTF-8, the result is conservative: `open` for any quote, and never `regular`.
    """
    if encoding != UTF8:
        with Watched(path, encoding) as watched:
            while watched.read(_PIECE):
                pass
        return Quotes(watched.lines, watched.has_quotes, regular=False)
    ends = np.zeros(256, dtype=bool)  # bytes that end a cell
    ends[[_END, _RETURN, ord(delimiter)]] = True
    beside = ends.copy()  # bytes allowed outside a quote: a cell end, or the other quote of a doubled one
    beside[_QUOTE] = True
    buffer = np.empty(_PIECE + 2, dtype=np.uint8)  # a piece with one byte before and one after it
    last, lines, count, opened, regular = _END, 0, 0, False, True
    with path.open("rb") as file:
        begin = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        for start in range(begin, path.stat().st_size, _PIECE):
            file.seek(start)
            size = file.readinto(buffer[1:].data)
            if size <= _PIECE:
                buffer[size + 1] = _END
            piece = buffer[1 : min(size, _PIECE) + 1]
            buffer[0], last = last, int(piece[-1])
            lines += int(np.count_nonzero(piece == _END))
            places, odd = np.flatnonzero(piece == _QUOTE), count % 2
            before, after = buffer[places], buffer[places + 2]
            opened = opened or bool(ends[before].any())
            regular = regular and bool(beside[before[odd::2]].all() and beside[after[1 - odd :: 2]].all())
            count += len(places)
    return Quotes(lines + (last != _END), opened, regular and count % 2 == 0)
