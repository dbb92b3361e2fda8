"""A user's own log, already in canonical columns: validated row by row and passed on in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.dataset import open_parquet, row_groups_of
from features.errors import InputError
from features.quarantine import Int64, Quarantine, numbers, row_numbers
from features.sources.log import SourceLog
from features.validate import impression_faults, impressions_schema, item_faults, items_schema

LONG_AGO = np.iinfo(np.int64).min


def read(raw: Path, *, history_length: int) -> SourceLog:
    """Read items and impressions.

    Items need item_id, and text or a vector_* column. Impressions need the columns of features.schema.IMPRESSIONS but for
    past_impressions, which is counted anew; histories longer than T are cut.

    Args:
        raw: a folder with items*.parquet or items/, and impressions*.parquet or impressions/; or its parent with a folder 'canonical'.
        history_length: T.

    Raises:
        InputError: naming the file, and the column that is missing or has another type, or whose bytes cannot be read.
    """
    folder = raw / "canonical" if (raw / "canonical").is_dir() else raw
    quarantine = Quarantine()
    items = read_items(parquet_files(folder, "items"), folder, quarantine)
    files = parquet_files(folder, "impressions")
    schema = impressions_schema(open_parquet(files[0]).schema_arrow, str(files[0]))
    known = np.sort(numbers(items["item_id"]))
    impressions = _impressions(files, folder, schema, known, history_length, quarantine)
    metadata = {"source": "canonical", "credit": None, "positive": "label_click", "negatives": None, "past_count": "as given"}
    return SourceLog(items, schema, impressions, quarantine, metadata)


def parquet_files(folder: Path, name: str) -> list[Path]:
    """NAME/*.parquet or NAME*.parquet in a folder, by name. Raises InputError naming the folder where there is none."""
    files = sorted((folder / name).glob("*.parquet")) or sorted(folder.glob(f"{name}*.parquet"))
    if not files:
        raise InputError(f"{folder}: neither {name}*.parquet nor a folder '{name}' of Parquet files")
    return files


def row_groups(path: Path, columns: Sequence[str]) -> Iterator[tuple[pa.Table, Int64]]:
    """The row groups of a file, and the numbers of their rows in it, counted from 1."""
    first = 1
    for table in row_groups_of(open_parquet(path), path, columns):
        yield table, row_numbers(table.num_rows, first)
        first += table.num_rows


def read_items(files: list[Path], folder: Path, quarantine: Quarantine) -> pa.Table:
    """The items of all files, as one table; `folder` is what the quarantine names them from."""
    schema = items_schema(open_parquet(files[0]).schema_arrow, str(files[0]))
    tables, seen = [schema.empty_table()], np.empty(0, np.int64)
    for path in files:
        present = open_parquet(path).schema_arrow
        if items_schema(present, str(path)) != schema:
            raise InputError(f"{path}: its columns differ from those of {files[0].name}")
        names = [name for name in schema.names if name in present.names]
        for group, rows in row_groups(path, names):
            kept = quarantine.keep(group, file=str(path.relative_to(folder)), rows=rows, faults=item_faults(group, seen))
            columns = [kept[field.name] if field.name in names else pa.nulls(kept.num_rows, field.type) for field in schema]
            table = pa.table(columns, schema=schema)
            tables.append(table)
            seen = np.concatenate((seen, numbers(table["item_id"])))
    return pa.concat_tables(tables)


def _impressions(
    files: list[Path], folder: Path, schema: pa.Schema, known_items: Int64, history_length: int, quarantine: Quarantine
) -> Iterator[pa.Table]:
    newest = LONG_AGO
    for path in files:
        if impressions_schema(open_parquet(path).schema_arrow, str(path)) != schema:
            raise InputError(f"{path}: its columns differ from those of {files[0].name}")
        for group, rows in row_groups(path, schema.names):
            faults = impression_faults(group, known_items, newest)
            table = quarantine.keep(group, file=str(path.relative_to(folder)), rows=rows, faults=faults)
            if table.num_rows:
                newest = int(numbers(table["timestamp"])[-1])
                yield _cut(table, history_length).cast(schema)


def _cut(table: pa.Table, history_length: int) -> pa.Table:
    for name in ("history_item_ids", "history_timestamps"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pc.list_slice(table[name], 0, history_length))
    return table
