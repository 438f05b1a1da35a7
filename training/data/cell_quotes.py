"""Lines and quotes of a CSV or TSV file, found by numpy: many times as fast as by reading the cells."""

import codecs
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

UTF8 = "utf-8-sig"  # with or without its mark
_PIECE = 1 << 18  # bytes: what is looked at several times stays in the cache
_QUOTE, _END, _RETURN = b'"\n\r'


class Watched(io.RawIOBase):
    """A file in any encoding, read as UTF-8, whose lines are counted while somebody else reads it.

    Args:
        path: The file.
        encoding: Its encoding.

    Attributes:
        lines: Number of lines that were read.
        has_quotes: Whether there is a `"` in them.
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
    """How the quotes of a file stand.

    Args:
        lines: Number of lines, the header among them.
        open: Whether any quote stands at the start of a cell. If none does, all are characters like others.
        regular: Whether each quote encloses a cell, or stands twice inside one (RFC 4180). Other files may be correct
            too: those with quotes inside cells that have no quotes around them.
    """

    lines: int
    open: bool
    regular: bool


def find_quotes(path: Path, encoding: str, delimiter: str) -> Quotes:
    """Go once through a file, whose cells are separated by `delimiter`; if it is not UTF-8, no more than is sure."""
    if encoding != UTF8:
        with Watched(path, encoding) as watched:
            while watched.read(_PIECE):
                pass
        return Quotes(watched.lines, watched.has_quotes, regular=False)
    ends = np.zeros(256, dtype=bool)  # of a cell
    ends[[_END, _RETURN, ord(delimiter)]] = True
    beside = ends.copy()  # what stands outside of the quotes around a cell, and between two quotes inside it
    beside[_QUOTE] = True
    buffer = np.empty(_PIECE + 2, dtype=np.uint8)  # a piece, and the bytes before and after it
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
