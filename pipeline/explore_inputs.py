"""What the explorer reads beside the store: names of items, impressions and clicks, content vectors, from a Parquet file or a data set.

Dimensions: S items with a Semantic ID, N items in all, D content width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.content import given_vectors
from features.dataset import iter_row_groups, open_dataset, open_parquet, row_groups_of
from features.errors import InputError
from features.ids import mix64
from features.location import Location
from features.schema import IMPRESSIONS, ITEMS, require
from pipeline.item_names import item_names, name_columns, one_line
from pipeline.prefix_tree import unit_vectors

LABEL = "label_click"
TEXT_BYTES = 96 << 20  # of names, and of original ids, in a page, before they are packed to about a third

Int64 = NDArray[np.int64]
ReadColumns = Callable[[Sequence[str]], Iterator[pa.Table]]


@dataclass(frozen=True)
class Items:
    """The items' table.

    Attributes:
        ids: int64 [T], distinct.
        names: string [T], a line each, empty where there is none; None where the table has neither titles nor texts.
        originals: string [T], the publisher's ids, null where that is the item id; None where none has another.
    """

    ids: Int64
    names: pa.Array | None
    originals: pa.Array | None


@dataclass(frozen=True)
class Shown:
    """How often items were shown: impressions and clicks, int64 [N] in the page's order; `strangers`, impressions of other items."""

    impressions: Int64
    clicks: Int64
    strangers: int


class Texts(NamedTuple):
    """Texts of the items, string [N] in the page's order, empty where there is none; `cut` of them were left out for their size."""

    values: pa.Array
    cut: int


class Places:
    """Where items stand in the page's order, `ids_N`."""

    def __init__(self, ids_N: Int64) -> None:
        self._order = np.argsort(ids_N)
        self._ascending = ids_N[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def of(self, ids: Int64) -> Int64:
        """Place of each id, -1 for one that is not there."""
        at = np.searchsorted(self._ascending, ids)
        at[at == len(self._ascending)] = 0
        return np.where(self._ascending[at] == ids, self._order[at], -1)


def read_items(place: str) -> Items:
    """Read ids and names. Raises InputError naming the column that is missing or an id that stands there twice."""
    schema, read = _opened(place)
    require(schema, pa.schema([ITEMS.field("item_id")]), place)
    columns = [*name_columns(schema), *(name for name in ("original_id",) if name in schema.names)]
    groups = list(read(["item_id", *columns]))
    ids = np.concatenate([_int64(group, "item_id", place) for group in groups])
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        raise InputError(f"{place}: item_id {distinct[counts > 1][0]} stands there {counts[counts > 1][0]} times")
    try:
        names = pa.concat_arrays([item_names(group) for group in groups]) if name_columns(schema) else None
        originals = pa.concat_arrays([_originals(group) for group in groups]) if "original_id" in columns else None
    except pa.ArrowException as error:
        raise InputError(f"{place}: its texts cannot be read ({error})") from error
    return Items(ids, names, originals if originals is not None and originals.null_count < len(ids) else None)


def placed(texts: pa.Array | None, at: Int64, most_shown_N: Int64, budget: int = TEXT_BYTES) -> Texts | None:
    """Texts in the page's order, as many as the page holds.

    Args:
        texts: string [T].
        at: int64 [T], the place of each.
        most_shown_N: of `most_shown`.
        budget: bytes.
    """
    if texts is None:
        return None
    row_of = np.full(len(most_shown_N), -1)
    row_of[at] = np.arange(len(at))
    values = texts.take(pa.array(row_of, mask=row_of < 0)).fill_null("")
    sizes = pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    kept = np.zeros(len(values), bool)
    kept[most_shown_N[np.cumsum(sizes[most_shown_N]) <= budget]] = True
    return Texts(pc.if_else(pa.array(kept), values, ""), int(np.count_nonzero(sizes[~kept])))


def most_shown(ids_N: Int64, shown: Shown | None) -> Int64:
    """Places by number of impressions, most first, at random among equals, but the same way each time."""
    order = mix64(ids_N.view(np.uint64)).argsort()
    return order if shown is None else order[np.argsort(-shown.impressions[order], kind="stable")]


def read_shown(place: str, places: Places) -> Shown:
    """Count impressions and clicks. One pass."""
    schema, read = _opened(place)
    require(schema, pa.schema([IMPRESSIONS.field("item_id"), IMPRESSIONS.field(LABEL)]), place)
    impressions, clicks, strangers = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64), 0
    for group in read(["item_id", LABEL]):
        at, clicked = places.of(_int64(group, "item_id", place)), _int64(group, LABEL, place) > 0
        known = at >= 0
        strangers += int(np.count_nonzero(~known))
        np.add.at(impressions, at[known], 1)
        np.add.at(clicks, at[known & clicked], 1)
    return Shown(impressions, clicks, strangers)


def read_unit_vectors(place: str, places: Places, count: int) -> NDArray[np.float16]:
    """Content vectors at length 1, float16 [S, D], of the first S = `count` places; zeros for an item without content."""
    schema, read = _opened(place)
    unit_SD = None
    for group in read(["item_id", "vector"] if "vector" in schema.names else ["item_id"]):
        part = given_vectors(group, "vector", place)
        if unit_SD is None:
            unit_SD = np.zeros((count, part.vectors_ND.shape[1]), np.float16)
        at = places.of(part.item_ids)
        coded = (at >= 0) & (at < count)
        unit_SD[at[coded]] = unit_vectors(part.vectors_ND[coded])
    if unit_SD is None:
        raise InputError(f"{place}: no item has a vector")
    return unit_SD


def _opened(place: str) -> tuple[pa.Schema, ReadColumns]:
    """Schema and row groups of a Parquet file or a data set."""
    where = Location.of(place)
    if where.size() is not None:
        file = open_parquet(where)
        return file.schema_arrow, lambda columns: row_groups_of(file, where, columns)
    dataset = open_dataset(where)
    return dataset.schema, lambda columns: iter_row_groups(dataset, columns)


def _originals(group: pa.Table) -> pa.Array:
    return one_line(group.column("original_id")).combine_chunks()


def _int64(group: pa.Table, column: str, place: str) -> Int64:
    values = group.column(column)
    if values.null_count:
        raise InputError(f"{place}: column '{column}' has nulls")
    whole: Int64 = values.cast(pa.int64()).to_numpy()
    return whole
