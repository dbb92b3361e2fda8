"""The canonical contract, checked: structural faults name the file and column, row faults go to the quarantine."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError
from features.quarantine import Fault, Int64, Mask, is_not_utf8, is_null, is_repeated, numbers
from features.schema import CONTEXT, DENSE, IMPRESSIONS, ITEMS, LABEL, ORACLE, VECTOR, columns_with_prefix, require

# Types of the column families, beyond the fixed columns.
FAMILIES: tuple[tuple[str, tuple[pa.DataType, ...]], ...] = (
    (LABEL, (pa.int8(),)),
    (DENSE, (pa.float32(),)),
    (CONTEXT, (pa.int64(), pa.list_(pa.int64()))),
    (ORACLE.name, (pa.float64(),)),
)
# The one canonical column that is counted while rows are written, so that an input need not carry it.
COUNTED = "past_impressions"


def items_schema(schema: pa.Schema, where: str) -> pa.Schema:
    """The canonical columns of an input's items: ITEMS (all but item_id may be absent, and become null), then its vector_* columns.

    Raises:
        InputError: naming `where` and a column that is missing or of another type, or that there is neither text nor a vector.
    """
    for field in ITEMS:
        index = schema.get_field_index(field.name)
        if index < 0 and not field.nullable:
            raise InputError(f"{where}: column '{field.name}' ({field.type}) is missing; columns are {', '.join(schema.names)}")
        if index >= 0 and schema.field(index).type != field.type:
            raise InputError(f"{where}: column '{field.name}' is {schema.field(index).type}, expected {field.type}")
    vectors = [schema.field(name) for name in columns_with_prefix(schema, VECTOR)]
    for field in vectors:
        if not (pa.types.is_fixed_size_list(field.type) and field.type.value_type == pa.float32()):
            raise InputError(f"{where}: column '{field.name}' is {field.type}, expected a fixed-size list of float")
    if not vectors and "text" not in schema.names:
        raise InputError(f"{where}: neither a column 'text' nor a vector_* column; items have no content")
    return pa.schema([*ITEMS, *(pa.field(field.name, field.type, nullable=False) for field in vectors)])


def impressions_schema(schema: pa.Schema, where: str) -> pa.Schema:
    """The canonical columns of an input: the fixed ones, then further label_*, dense_*, context_* and oracle_probability.

    Raises:
        InputError: naming `where` and a column that is missing or of a type that its family does not have.
    """
    fixed = IMPRESSIONS.remove(IMPRESSIONS.get_field_index(COUNTED))
    return with_families(schema, fixed, [prefix for prefix, _ in FAMILIES], where)


def with_families(schema: pa.Schema, fixed: pa.Schema, prefixes: Sequence[str], where: str) -> pa.Schema:
    """The fixed columns of an input, then those of some column families, named by prefix, that it has besides.

    Raises:
        InputError: naming `where` and a column that is missing or of a type that its family does not have.
    """
    require(schema, fixed, where)
    extra = []
    for prefix, types in FAMILIES:
        for name in columns_with_prefix(schema, prefix) if prefix in prefixes else ():
            if schema.field(name).type not in types:
                raise InputError(f"{where}: column '{name}' is {schema.field(name).type}, expected {' or '.join(map(str, types))}")
            if name not in fixed.names:
                extra.append(pa.field(name, schema.field(name).type, nullable=False))
    return pa.schema([*fixed, *extra])


def impression_faults(table: pa.Table, known_items: Int64, newest: int) -> list[Fault]:
    """Faults of canonical impressions.

    Args:
        table: rows [N] with the columns of `impressions_schema`.
        known_items: int64, sorted ids of the items table.
        newest: microseconds, the latest timestamp accepted so far.

    Returns:
        Faults in order of precedence; a row is out of order if an acceptable row before it has a later timestamp.
    """
    faults = [Fault(is_null(table[name]), f"null {name}") for name in table.column_names]
    labels = columns_with_prefix(table.schema, LABEL)
    faults += [Fault(~np.isin(numbers(table[name]), (0, 1)), f"{name} is not 0 or 1") for name in labels]
    for name in columns_with_prefix(table.schema, DENSE):
        value = numbers(table[name])
        faults.append(Fault(~(np.isfinite(value) & (value >= 0)), f"{name} is negative or not finite"))
    faults.append(Fault(~np.isin(numbers(table["item_id"]), known_items), "unknown item"))
    faults += _list_faults(table)
    times = numbers(table["timestamp"])
    good = ~np.any([fault.rows for fault in faults], axis=0)
    running = np.maximum.accumulate(np.concatenate(([newest], np.where(good, times, newest))))[:-1]
    return [*faults, Fault(times < running, "timestamp out of order")]


def item_faults(table: pa.Table, seen: Int64) -> list[Fault]:
    """Faults of canonical items.

    Args:
        table: rows [N] with columns of `items_schema`.
        seen: int64, ids of the items accepted so far.

    Returns:
        Faults in order of precedence: a null id; a text that is not UTF-8; a vector with a missing or infinite element; an id that an
        acceptable row before it has.
    """
    ids = numbers(table["item_id"])
    strings = [field.name for field in table.schema if pa.types.is_string(field.type)]
    faults = [
        Fault(is_null(table["item_id"]), "null item_id"),
        *(Fault(is_not_utf8(table[name]), f"{name} is not UTF-8") for name in strings),
    ]
    for name in columns_with_prefix(table.schema, VECTOR):
        _, row, values = _elements(table[name])
        broken = ~np.isfinite(numbers(values, np.nan))
        faults.append(Fault(is_null(table[name]) | _any_in_row(row[broken], len(ids)), f"{name} is missing or not finite"))
    good = ~np.any([fault.rows for fault in faults], axis=0)
    repeated = np.isin(ids, seen)
    repeated[good] |= is_repeated(pa.array(ids[good]))
    return [*faults, Fault(repeated, "item_id met before")]


def _list_faults(table: pa.Table) -> list[Fault]:
    count = table.num_rows
    faults = []
    for name in table.column_names:
        if pa.types.is_list(table.schema.field(name).type):
            _, row, values = _elements(table[name])
            faults.append(Fault(_any_in_row(row[is_null(values)], count), f"null in {name}"))
    id_lengths, _, _ = _elements(table["history_item_ids"])
    lengths, row, values = _elements(table["history_timestamps"])
    times = numbers(values)
    late = times >= numbers(table["timestamp"])[row]
    rising = (row[1:] == row[:-1]) & (times[1:] > times[:-1])
    return [
        *faults,
        Fault(id_lengths != lengths, "history_item_ids and history_timestamps differ in length"),
        Fault(_any_in_row(row[late], count), "history item not before its impression"),
        Fault(_any_in_row(row[1:][rising], count), "history is not most recent first"),
    ]


def _elements(column: pa.ChunkedArray) -> tuple[Int64, Int64, pa.ChunkedArray]:
    """Lengths [N] of a list column (null counts as empty), the row of each element [E], and the elements [E]."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return lengths, np.repeat(np.arange(len(lengths)), lengths), pc.list_flatten(column)


def _any_in_row(rows: Int64, count: int) -> Mask:
    return np.bincount(rows, minlength=count) > 0
