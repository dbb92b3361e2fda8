"""Parquet data sets: a folder of part files with page checksums and a sha256 manifest, published whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import InputError
from features.files import publish_folder, sha256_file, write_durably

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class DataFile:
    """One part file as the manifest has it."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """An opened data set: its folder, Arrow schema, the writer's metadata and its files in row order."""

    path: Path
    schema: pa.Schema
    metadata: dict[str, Any]
    files: tuple[DataFile, ...]

    @property
    def rows(self) -> int:
        """Number of rows over all files."""
        return sum(file.rows for file in self.files)

    @property
    def fingerprint(self) -> str:
        """A hash of the contents: equal fingerprints mean equal bytes."""
        return hashlib.sha256(json.dumps([asdict(file) for file in self.files]).encode()).hexdigest()

    def file_path(self, index: int) -> Path:
        """Path of the part file at `index`."""
        return self.path / self.files[index].name


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open one Parquet file with page checksums verified on reading.

    Raises:
        InputError: naming the file, if it is absent, empty, truncated or no Parquet file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        _ = file.schema_arrow  # decodes the rest of the footer
        return file
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({_one_line(error)})") from error


def read_row_group(file: pq.ParquetFile, path: Path, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Decode one row group.

    Raises:
        InputError: naming file and row group, if its bytes are damaged.
    """
    try:
        return file.read_row_group(group, columns=list(columns) if columns is not None else None, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: row group {group} cannot be read ({_one_line(error)})") from error


def open_dataset(path: Path, *, verify: bool = False) -> Dataset:
    """Open a data set that `DatasetWriter` published.

    Args:
        path: the folder.
        verify: also compare each file's sha256 with the manifest (reads every byte).

    Raises:
        InputError: naming the folder or file, if the manifest or a file is missing, or has another size or hash.
    """
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise InputError(f"{path}: no data set here ({MANIFEST} is missing)")
    try:
        manifest = json.loads(manifest_path.read_text())
        files = tuple(DataFile(**file) for file in manifest["files"])
        metadata = manifest["metadata"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{manifest_path}: damaged manifest ({_one_line(error)})") from error
    if not files:
        raise InputError(f"{manifest_path}: the data set has no files")
    for file in files:
        part = path / file.name
        if not part.is_file() or part.stat().st_size != file.bytes:
            raise InputError(f"{part}: missing or not the {file.bytes} bytes that {MANIFEST} has")
        if verify and sha256_file(part) != file.sha256:
            raise InputError(f"{part}: sha256 differs from {MANIFEST}")
    return Dataset(path, open_parquet(path / files[0].name).schema_arrow.remove_metadata(), metadata, files)


def iter_row_groups(dataset: Dataset, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the row groups of all files, in row order. Raises InputError naming file and row group where one is damaged."""
    for index in range(len(dataset.files)):
        path = dataset.file_path(index)
        file = open_parquet(path)
        if not file.schema_arrow.equals(dataset.schema):
            raise InputError(f"{path}: its columns differ from those of {dataset.files[0].name}")
        for group in range(file.metadata.num_row_groups):
            yield read_row_group(file, path, group, columns)


def read_table(dataset: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole data set as one table; for items and other things that fit in memory."""
    return pa.concat_tables(iter_row_groups(dataset, columns))


class DatasetWriter:
    """Writes tables in row order into part files and publishes the folder by a rename when the block ends without an error.

    Used as a context manager. Until then the rows lie in a hidden sibling folder, which an error removes, so that a reader finds either
    the old data set or the whole new one.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, metadata: dict[str, Any], *, rows_per_file: int = 1 << 20, rows_per_group: int = 8192
    ) -> None:
        self.path, self.schema, self.metadata = path, schema, metadata
        self.rows_per_file, self.rows_per_group = rows_per_file, rows_per_group
        self._staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._files: list[DataFile] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows_in_file = 0
        self._buffer: list[pa.Table] = []
        self._buffered = 0

    def __enter__(self) -> "DatasetWriter":
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows; `table` must have the data set's columns (any order) and types."""
        self._buffer.append(table.select(self.schema.names).cast(self.schema))
        self._buffered += table.num_rows
        if self._buffered >= self.rows_per_group:
            self._flush(final=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush(final=True)
                manifest = {"metadata": self.metadata, "files": [asdict(file) for file in self._files]}
                write_durably(self._staging / MANIFEST, json.dumps(manifest, indent=1).encode())
                publish_folder(self._staging, self.path)
        finally:
            if self._writer is not None:
                self._writer.close()
            shutil.rmtree(self._staging, ignore_errors=True)

    def _flush(self, *, final: bool) -> None:
        table = pa.concat_tables(self._buffer) if self._buffer else self.schema.empty_table()
        start = 0
        while table.num_rows - start >= self.rows_per_group or (final and (start < table.num_rows or not (self._files or self._writer))):
            group = table.slice(start, min(self.rows_per_group, self.rows_per_file - self._rows_in_file))
            self._write_group(group)
            start += group.num_rows
        self._buffer, self._buffered = [table.slice(start)], table.num_rows - start
        if final:
            self._close_file()

    def _write_group(self, group: pa.Table) -> None:
        if self._writer is None:
            path = self._staging / f"part-{len(self._files):05d}.parquet"
            self._writer = pq.ParquetWriter(path, self.schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(group, row_group_size=self.rows_per_group)
        self._rows_in_file += group.num_rows
        if self._rows_in_file >= self.rows_per_file:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        path = self._staging / f"part-{len(self._files):05d}.parquet"
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        self._files.append(DataFile(path.name, self._rows_in_file, path.stat().st_size, sha256_file(path)))
        self._rows_in_file = 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
