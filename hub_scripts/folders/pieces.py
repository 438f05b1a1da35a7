"""The partitions of a folder of data files: ranges of rows, each with the file that its result goes to."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...training.data.files import SUFFIXES, read_batches

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Piece:
    """Rows of a file.

    Args:
        source: The file.
        start: Its first row.
        rows: Number of rows.
        target: Parquet file of the result. The piece is finished when it is there.
    """

    source: str
    start: int
    rows: int
    target: str

    @property
    def is_finished(self) -> bool:
        """Whether the result is there."""
        return os.path.exists(self.target)


def find_files(folder: Path) -> list[Path]:
    """The data files in a folder and its subfolders, sorted. Names that begin with "." or "_" are left out.

    Raises:
        ValueError: If there are none.
    """
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise ValueError(f"{str(folder)!r} holds no data files; expected names that end in {', '.join(SUFFIXES)}.")
    return found


def find_pieces(folder: Path, out: Path, size: int) -> list[Piece]:
    """Split the files of a folder into pieces of at most `size` rows, in order.

    Raises:
        ValueError: If there are no rows, or two files would have one result.
    """
    pieces: list[Piece] = []
    for path in find_files(folder):
        total = count_rows(path)
        name = path.relative_to(folder).with_suffix("")
        for number, start in enumerate(range(0, total, size)):
            target = out / name.parent / f"{name.name}-{number:05d}.parquet"
            pieces.append(Piece(str(path), start, min(size, total - start), str(target)))
    if not pieces:
        raise ValueError(f"The files in {str(folder)!r} have no rows.")
    targets = [piece.target for piece in pieces]
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise ValueError(f"Two files in {str(folder)!r} differ in their endings alone; both would go to {twice}.")
    return pieces


def count_rows(path: Path) -> int:
    """Rows of a file; files other than Parquet are read for it."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(path).metadata.num_rows)
    return sum(size for size, _ in read_batches(path))


def read_piece(piece: Piece) -> "pa.Table":
    """The rows of a piece, with all columns.

    Raises:
        ValueError: If the file has become shorter.
    """
    import pyarrow as pa

    parts, place = [], 0
    for table in _tables(Path(piece.source), piece.start):
        begin, end = max(piece.start - place, 0), piece.start + piece.rows - place
        if end <= 0:
            break
        if begin < len(table):
            parts.append(table.slice(begin, min(end, len(table)) - begin))
        place += len(table)
        if place >= piece.start + piece.rows:
            break
    if sum(map(len, parts)) < piece.rows:
        raise ValueError(f"{piece.source} has fewer rows than at the beginning of the run.")
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks()


def _tables(path: Path, start: int) -> "Iterator[pa.Table]":
    """All rows of a file in tables; of row groups before row `start` of a Parquet file, only their length is right."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        for _, columns in read_batches(path):
            yield pa.table({name: pa.array(values) for name, values in columns.items()})
        return
    file, place = pq.ParquetFile(path), 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if place + rows <= start:
            yield pa.table({"": pa.nulls(rows)})
        else:
            for batch in file.iter_batches(batch_size=1 << 14, row_groups=[group]):
                yield pa.Table.from_batches([batch])
        place += rows


def write_file(path: str | Path, content: Any) -> None:
    """Write bytes, or a table as Parquet. The file appears as a whole or not at all, also on a shared disk."""
    import pyarrow.parquet as pq

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                pq.write_table(content, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
