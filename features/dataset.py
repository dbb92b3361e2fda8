"""Parquet data sets: a folder of part files with page checksums and a sha256 manifest, published whole or not at all."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import InputError
from features.files import sha256_file
from features.location import Location
from features.parquet_append import copy_pages
from features.part_file import DataFile, PartFile, parquet_writer

MANIFEST = "manifest.json"
ROWS_PER_FILE = 1 << 20
ROWS_PER_GROUP = 8192
_UNNAMED = ("part-*", "progress-*", ".*.tmp")  # parts, what a job told of them, and what a killed writer left behind
_UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)  # the last where damage leaves a column's name that is not UTF-8


@dataclass(frozen=True)
class Dataset:
    """An opened data set: its folder, Arrow schema, the writer's metadata and its files in row order."""

    location: Location
    schema: pa.Schema
    metadata: dict[str, Any]
    files: tuple[DataFile, ...]

    @property
    def path(self) -> Path:
        """The folder's path, on its file system."""
        return Path(self.location.path)

    @property
    def rows(self) -> int:
        """Number of rows over all files."""
        return sum(file.rows for file in self.files)

    @property
    def fingerprint(self) -> str:
        """A hash of the contents: equal fingerprints mean equal bytes."""
        return hashlib.sha256(json.dumps([asdict(file) for file in self.files]).encode()).hexdigest()

    def part(self, index: int) -> Location:
        """Where the part file at `index` lies."""
        return self.location / self.files[index].name

    def open_part(self, index: int) -> pq.ParquetFile:
        """Open one part file, after its sha256 was compared with the manifest's.

        Page checksums cover the values alone: damage in a footer or a page's header could still give other rows in silence.

        Raises:
            InputError: naming the file, and the first row group that cannot be read, if it is damaged; or if its columns are not the data
                set's.
        """
        return self._opened(index, self._checked(index))

    def copy_part(self, index: int, copy: PartFile) -> tuple[pq.ParquetFile, bytes]:
        """Copy one part file up to its footer, and open it, after the sha256 of what was read was compared with the manifest's.

        Returns: the file, and the bytes that the copy lacks.

        Raises:
            InputError: as `open_part` does.
        """
        where, source = self.part(index), None
        if where.local is not None:
            with where.local.open("rb") as file:
                end = copy_pages(file, copy)
        else:  # fetched once, as a whole
            source = where.read()
            end = copy_pages(pa.BufferReader(source), copy)
        whole = copy.sha256.copy()
        whole.update(end)
        self._require_sha256(index, whole.hexdigest(), source)
        return self._opened(index, source), end

    def row_groups(self, index: int) -> list[int]:
        """Rows of each row group of one part file, by its footer; the number of all is the manifest's, whatever happened to the file.

        Raises:
            InputError: naming the file, if its footer cannot be read or has another number of rows.
        """
        rows = _group_rows(open_parquet(self.part(index)).metadata)
        if sum(rows) != self.files[index].rows or min(rows, default=0) < 0:
            self._checked(index)
            raise InputError(f"{self.part(index)}: its footer has {sum(rows)} rows, {MANIFEST} {self.files[index].rows}")
        return rows

    def _checked(self, index: int) -> pa.Buffer | None:
        """Compare a part file's sha256 with the manifest's; its bytes where they were fetched for that, which a local file's are not."""
        where = self.part(index)
        if where.local is not None:
            digest, source = sha256_file(where.local), None
        else:  # fetched once, as a whole
            source = where.read()
            digest = hashlib.sha256(source).hexdigest()
        self._require_sha256(index, digest, source)
        return source

    def _require_sha256(self, index: int, digest: str, source: pa.Buffer | None) -> None:
        if digest != self.files[index].sha256:
            raise InputError(f"{self.part(index)}: sha256 differs from {MANIFEST}; {_damage(self.part(index), source)}")

    def _opened(self, index: int, source: pa.Buffer | None) -> pq.ParquetFile:
        where = self.part(index)
        file = open_parquet(where, source)
        if not file.schema_arrow.equals(self.schema):
            self._checked(0)  # whose footer told the data set's columns, and may be what is damaged
            raise InputError(f"{where}: its columns differ from those of {self.files[0].name}")
        return file


def open_parquet(where: Path | Location, source: pa.Buffer | None = None) -> pq.ParquetFile:
    """Open one Parquet file with page checksums verified on reading.

    Args:
        where: the file.
        source: its bytes, where they were read already.

    Raises:
        InputError: naming the file, if it is absent, empty, truncated or no Parquet file, or its footer contradicts itself.
    """
    place = Location.of(where)
    size = place.size()
    if size is None:
        raise InputError(f"{place}: no such file")
    if size == 0:
        raise InputError(f"{place}: the file is empty")
    try:
        opened = place.path if place.local is not None else pa.BufferReader(source) if source is not None else None
        file = pq.ParquetFile(opened or place.filesystem.open_input_file(place.path), page_checksum_verification=True)
        _ = file.schema_arrow  # decodes the rest of the footer
    except _UNREADABLE as error:
        raise InputError(f"{place}: not a readable Parquet file ({_one_line(error)})") from error
    rows, told = sum(_group_rows(file.metadata)), file.metadata.num_rows
    if rows != told:
        raise InputError(f"{place}: not a readable Parquet file (its row groups have {rows} rows, and it {told})")
    return file


def read_row_group(file: pq.ParquetFile, where: Path | Location, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode one row group.

    Raises:
        InputError: naming file and row group, if its bytes are damaged or it has not the footer's number of rows.
    """
    expected = file.metadata.row_group(group).num_rows
    try:
        table = file.read_row_group(group, columns=list(columns) if columns is not None else None, use_threads=False)
    except _UNREADABLE as error:
        raise InputError(f"{where}: row group {group} cannot be read ({_one_line(error)})") from error
    if table.num_rows != expected:
        raise InputError(f"{where}: row group {group} cannot be read (it has {table.num_rows} of {expected} rows)")
    return table


def row_groups_of(file: pq.ParquetFile, where: Path | Location, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Decode the row groups of one file, in order. Raises InputError as `read_row_group` does."""
    return (read_row_group(file, where, group, columns) for group in range(file.metadata.num_row_groups))


def has_dataset(where: str | Path | Location) -> bool:
    """Whether a data set was published there."""
    return (Location.of(where) / MANIFEST).size() is not None


def open_dataset(where: str | Path | Location, *, verify: bool = False) -> Dataset:
    """Open a data set that `publish` has put there.

    Args:
        where: the folder, as a local path or a URI.
        verify: compare each file's sha256 with the manifest now (reads every byte), and not when it is first read.

    Raises:
        InputError: naming the folder or file, if the manifest or a file is missing, or has another size or hash.
    """
    folder = Location.of(where)
    manifest = folder / MANIFEST
    files, metadata = _read_manifest(folder)
    if not files:
        raise InputError(f"{manifest}: the data set has no files")
    for file in files:
        part = folder / file.name
        if part.size() != file.bytes:
            raise InputError(f"{part}: missing or not the {file.bytes} bytes that {MANIFEST} has")
        if verify and part.sha256() != file.sha256:
            raise InputError(f"{part}: sha256 differs from {MANIFEST}")
    return Dataset(folder, open_parquet(folder / files[0].name).schema_arrow.remove_metadata(), metadata, files)


def iter_row_groups(dataset: Dataset, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the row groups of all files, in row order. Raises InputError naming file and row group where one is damaged."""
    for index in range(len(dataset.files)):
        yield from row_groups_of(dataset.open_part(index), dataset.part(index), columns)


def read_table(dataset: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole data set as one table; for items and other things that fit in memory."""
    return pa.concat_tables(iter_row_groups(dataset, columns))


class PartWriter:
    """Writes rows to one part file, whole or not at all; it counts once a manifest names it."""

    def __init__(self, folder: Location, index: int, schema: pa.Schema, *, rows_per_group: int = ROWS_PER_GROUP) -> None:
        self.schema, self.rows = schema, 0
        self._file, self._rows_per_group = PartFile(folder, index), rows_per_group
        self._writer = parquet_writer(self._file, schema)
        self._buffer, self._buffered = [pa.Table.from_batches([], schema)], 0

    def write(self, table: pa.Table) -> None:
        """Append rows; row groups have the same sizes however the rows are cut into tables."""
        self._buffer.append(table)
        self._buffered += table.num_rows
        self.rows += table.num_rows
        if self._buffered >= self._rows_per_group:
            self._write_groups(self._buffered // self._rows_per_group * self._rows_per_group)

    def finish(self) -> DataFile:
        """Put the file in place."""
        if self._buffered or not self.rows:  # a file without rows has an empty row group
            self._write_groups(self._buffered)
        self._writer.close()
        return self._file.finish(self.rows)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.discard()
        self._writer.close()

    def _write_groups(self, rows: int) -> None:
        table = pa.concat_tables(self._buffer)
        self._writer.write_table(table.slice(0, rows), row_group_size=self._rows_per_group)
        self._buffer, self._buffered = [table.slice(rows)], self._buffered - rows


def publish(folder: Location, files: Sequence[DataFile], metadata: dict[str, Any]) -> None:
    """Make these files the data set in `folder`, by one manifest written as a whole; then remove the parts that it does not name.

    One writer at a time: a second one's unnamed parts would be removed under it.
    """
    manifest = {"metadata": metadata, "files": [asdict(file) for file in files]}
    (folder / MANIFEST).write(json.dumps(manifest, indent=1).encode())
    _remove_parts(folder, {file.name for file in files})


class DatasetWriter:
    """Writes tables in row order into part files and publishes them when the block ends without an error.

    Used as a context manager. Until then no manifest names the rows, and an error removes them, so that a reader finds either the old
    data set or the whole new one.
    """

    def __init__(
        self,
        where: str | Path | Location,
        schema: pa.Schema,
        metadata: dict[str, Any],
        *,
        rows_per_file: int = ROWS_PER_FILE,
        rows_per_group: int = ROWS_PER_GROUP,
    ) -> None:
        self.location, self.schema, self.metadata = Location.of(where), schema, metadata
        self.rows_per_file, self.rows_per_group = rows_per_file, rows_per_group
        self._files: list[DataFile] = []
        self._part: PartWriter | None = None

    def __enter__(self) -> "DatasetWriter":
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows; `table` must have the data set's columns (any order) and types."""
        table = table.select(self.schema.names).cast(self.schema)
        while table.num_rows:
            part = self._open_part()
            here = table.slice(0, self.rows_per_file - part.rows)
            part.write(here)
            table = table.slice(here.num_rows)
            if part.rows == self.rows_per_file:
                self._finish_part()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        published = False
        try:
            if kind is None:
                if not self._files:
                    self._open_part()  # a data set without rows has its columns from an empty part
                self._finish_part()
                publish(self.location, self._files, self.metadata)
                published = True
        finally:
            if self._part is not None:
                self._part.discard()
            if not published:
                named = _read_manifest(self.location)[0] if has_dataset(self.location) else ()
                _remove_parts(self.location, {file.name for file in named})

    def _open_part(self) -> PartWriter:
        if self._part is None:
            self._part = PartWriter(self.location, len(self._files), self.schema, rows_per_group=self.rows_per_group)
        return self._part

    def _finish_part(self) -> None:
        if self._part is not None:
            self._files.append(self._part.finish())
            self._part = None


def _read_manifest(folder: Location) -> tuple[tuple[DataFile, ...], dict[str, Any]]:
    where = folder / MANIFEST
    try:
        manifest = json.loads(where.read().to_pybytes())
        return tuple(DataFile(**file) for file in manifest["files"]), manifest["metadata"]
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no data set here ({MANIFEST} is missing)") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: damaged manifest ({_one_line(error)})") from error


def _group_rows(metadata: pq.FileMetaData) -> list[int]:
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _damage(where: Location, source: pa.Buffer | None) -> str:
    """Where a file that is known to be damaged is so, as far as decoding tells."""
    try:
        file = open_parquet(where, source)
        for _ in row_groups_of(file, where):
            pass
    except InputError as error:
        return str(error).removeprefix(f"{where}: ")
    return "every row group can be read, so that its footer or page headers differ, or it is another file"


def _remove_parts(folder: Location, keep: set[str]) -> None:
    for name in folder.files():
        if name not in keep and any(fnmatch(name, pattern) for pattern in _UNNAMED):
            (folder / name).remove()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
