"""The pure Arrow to Arrow kernel: what a ranker or another trainer wants to know of the ids and numbers in impressions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.dense_statistics import DenseStatistics
from features.entity_store import SemanticIds
from features.errors import InputError
from features.representation import ItemColumns, Representation, hashed_rows
from features.schema import (
    CONTEXT,
    HASHED,
    HISTORY_KEYS,
    IMPRESSIONS,
    NORMALIZED,
    TARGET_KEYS,
    codes_fields,
    columns_with_prefix,
    require,
)
from features.semantic_id import SidContract

IDS = pa.schema([IMPRESSIONS.field("item_id"), IMPRESSIONS.field("history_item_ids")])  # what impressions must have
_KEYS = pa.list_(pa.int64())


@dataclass(frozen=True)
class Additions:
    """The columns that `enrich` adds; data alone, so that it travels to the workers of any engine.

    Attributes:
        sources: of Semantic IDs; for each the codes, `target_codes_SOURCE` and `history_codes_SOURCE` (features.schema.codes_fields).
        representations: random_hash and semantic_id; for each the table rows, where it is used: `target_keys_NAME`
            fixed_size_list<int64>[G] and `history_keys_NAME` list<int64>, G per history item; where the number of keys varies,
            list<int64> and list<list<int64>>.
        context_rows: H; for each column `context_NAME` its ids hashed into [0, H), `hashed_context_NAME`, int64 or list<int64>.
            None adds none.
        dense: column `dense_NAME` to the statistics that it is normalised by, as `normalized_dense_NAME`, float32.
    """

    sources: tuple[str, ...] = ()
    representations: tuple[Representation, ...] = ()
    context_rows: int | None = None
    dense: Mapping[str, DenseStatistics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for representation in self.representations:
            if representation.kind == "individual":
                raise ValueError(
                    f"'{representation.name}' is individual: its rows depend on what was trained before, not on the item alone"
                )

    @property
    def looked_up(self) -> tuple[str, ...]:
        """All sources that are looked up, those of `sources` first."""
        return tuple(dict.fromkeys([*self.sources, *(r.source for r in self.representations if r.source is not None)]))

    def columns_read(self, impressions: pa.Schema) -> list[str]:
        """The columns that `enrich` looks at, in their order; it gives the same additions to rows that have no others.

        Raises:
            InputError: naming the column, if ids are missing or of another type.
        """
        require(impressions, IDS, "impressions")
        context = columns_with_prefix(impressions, CONTEXT) if self.context_rows is not None else []
        needed = {*IDS.names, *context, *self.dense}
        return [name for name in impressions.names if name in needed]


class Enriched(NamedTuple):
    """What `enrich` gives.

    Attributes:
        batch: the impressions with the additions.
        lookups: ids looked up, targets and history items, repeated ids counted each time.
        misses: source to how many of these have no codes of it.
    """

    batch: pa.RecordBatch
    lookups: int
    misses: dict[str, int]


def enriched_schema(impressions: pa.Schema, additions: Additions, contracts: Mapping[str, SidContract]) -> pa.Schema:
    """Schema of `enrich`'s result: the impressions' columns, then codes, keys, hashed context ids and normalised dense columns."""
    added = [each for source in additions.sources for each in codes_fields(contracts[source])]
    for r in additions.representations:
        target = _KEYS if r.keys_vary else pa.list_(pa.int64(), r.keys_per_item)
        added += [pa.field(TARGET_KEYS + r.name, target, nullable=False)] if r.target else []
        added += [pa.field(HISTORY_KEYS + r.name, pa.list_(_KEYS) if r.keys_vary else _KEYS, nullable=False)] if r.history else []
    if additions.context_rows is not None:
        added += [
            pa.field(HASHED + name, impressions.field(name).type, nullable=False) for name in columns_with_prefix(impressions, CONTEXT)
        ]
    added += [pa.field(NORMALIZED + name, pa.float32(), nullable=False) for name in additions.dense]
    return pa.schema([*impressions, *added])


def enrich(batch: pa.RecordBatch, store: SemanticIds, additions: Additions) -> Enriched:
    """Add columns to impressions; every row stays, empty histories and unknown items included.

    One lookup serves all sources, targets and history items. An item that the store does not have, or not of some source, has
    UNKNOWN_CODE at every level and its representations' unknown row, H. The impressions' own columns are passed on without a copy.

    Args:
        batch: n impressions: `item_id` int64 and `history_item_ids` list<int64> (features.schema.IMPRESSIONS), and any other columns.
        store: what answers; the whole batch sees one version. Training opens one version
            (`features.store.versions.open_snapshot`), serving the store that follows them.
        additions: the columns to add, in the order of `enriched_schema`.

    Raises:
        InputError: naming the column, if one that is needed is missing, of another type, or has nulls.
    """
    require(batch.schema, IDS, "impressions")
    targets, sources = batch.num_rows, additions.looked_up
    ends = _ends(batch.column("history_item_ids"))
    ids = np.concatenate([_numbers(batch, "item_id"), _numpy(_elements(batch, "history_item_ids"))])
    found = dict(zip(sources, store.lookups(ids, sources), strict=True)) if sources else {}
    items = ItemColumns(ids, {source: lookup.codes for source, lookup in found.items()})
    columns = list(batch.columns)
    for source in additions.sources:
        columns += _codes_columns(found[source].codes, targets, ends)
    for representation in additions.representations:
        columns += _key_columns(representation, items, targets, ends)
    if additions.context_rows is not None:
        columns += [_hashed(batch, name, additions.context_rows) for name in columns_with_prefix(batch.schema, CONTEXT)]
    columns += [_arrow(statistics.normalized(_numbers(batch, name))) for name, statistics in additions.dense.items()]
    schema = enriched_schema(batch.schema, additions, {source: store.contract(source) for source in additions.sources})
    misses = {source: lookup.misses for source, lookup in found.items()}
    return Enriched(pa.RecordBatch.from_arrays(columns, schema=schema), len(ids) if sources else 0, misses)


def _codes_columns(codes: NDArray[np.uint16], targets: int, ends: NDArray[np.int64]) -> tuple[pa.Array, pa.Array]:
    """Codes [N, L] of the targets and then the history items, as two columns that share their memory."""
    levels = codes.shape[1]
    values = _arrow(codes.reshape(-1))
    target = pa.FixedSizeListArray.from_arrays(values[: targets * levels], levels)
    return target, pa.ListArray.from_arrays(_offsets(ends * levels), values[targets * levels :])


def _key_columns(r: Representation, items: ItemColumns, targets: int, ends: NDArray[np.int64]) -> list[pa.Array]:
    columns = []
    if r.target:
        keys = r.keys(items.part(slice(None, targets)))
        columns.append(_bags(keys) if r.keys_vary else pa.FixedSizeListArray.from_arrays(_arrow(keys.reshape(-1)), keys.shape[1]))
    if r.history:
        keys = r.keys(items.part(slice(targets, None)))
        values, per_item = (_bags(keys), 1) if r.keys_vary else (_arrow(keys.reshape(-1)), keys.shape[1])
        columns.append(pa.ListArray.from_arrays(_offsets(ends * per_item), values))
    return columns


def _bags(keys: NDArray[np.int64]) -> pa.ListArray:
    """Keys [N, G], -1 on the right of an item's last one, as a list per item."""
    used = keys >= 0
    return pa.ListArray.from_arrays(_offsets(np.concatenate([[0], np.cumsum(used.sum(1))])), _arrow(keys[used]))


def _hashed(batch: pa.RecordBatch, name: str, rows: int) -> pa.Array:
    column = batch.column(name)
    if not pa.types.is_list(column.type):
        return _arrow(hashed_rows(_numbers(batch, name), rows))
    ids = _numpy(_elements(batch, name))
    return pa.ListArray.from_arrays(_offsets(_ends(column)), _arrow(hashed_rows(ids, rows)))


def _ends(lists: pa.ListArray) -> NDArray[np.int64]:
    """Where the lists end among all their elements, after a 0."""
    offsets = _numpy(lists.offsets).astype(np.int64)
    return offsets - offsets[0]


def _offsets(ends: NDArray[np.int64]) -> pa.Array:
    if ends[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"{ends[-1]} elements are more than a list column of one batch can have")
    return _arrow(ends.astype(np.int32))


def _numbers(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    column = batch.column(name)
    _require_no_nulls(column, name)
    return _numpy(column)


def _elements(batch: pa.RecordBatch, name: str) -> pa.Array:
    """All rows' list elements; a view, which `flatten` is not."""
    column = batch.column(name)
    _require_no_nulls(column, name)
    elements = column.values[column.offsets[0].as_py() : column.offsets[-1].as_py()]
    _require_no_nulls(elements, f"an element of {name}")
    return elements


def _require_no_nulls(column: pa.Array, name: str) -> None:
    if column.null_count:
        place = column.is_null().index(True).as_py() + 1
        raise InputError(
            f"impressions: {name} is null, first in number {place} of {len(column)} of this batch; stage ingest sets such rows aside"
        )


# Without copies and, unlike pa.array and to_numpy, without an import of pandas wherever that is installed: most of a worker's start.
def _arrow(values: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _numpy(column: pa.Array) -> NDArray[Any]:
    return np.from_dlpack(column)
