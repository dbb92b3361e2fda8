"""The pure Arrow to Arrow kernel: Semantic ID codes of the target and of every history item, looked up in the entity store."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from features.entity_store import SemanticIds
from features.schema import codes_fields
from features.semantic_id import SidContract


class Enriched(NamedTuple):
    """What `enrich` gives.

    Attributes:
        batch: the impressions with codes.
        lookups: ids looked up, targets and history items, repeated ids counted each time.
        misses: source to how many of these have no codes of it.
    """

    batch: pa.RecordBatch
    lookups: int
    misses: dict[str, int]


def enriched_schema(impressions: pa.Schema, contracts: Sequence[SidContract]) -> pa.Schema:
    """Schema of `enrich`'s result: the impressions' columns, then for each source `target_codes_SOURCE` and `history_codes_SOURCE`."""
    return pa.schema([*impressions, *(field for contract in contracts for field in codes_fields(contract))])


def enrich(batch: pa.RecordBatch, store: SemanticIds, sources: Sequence[str]) -> Enriched:
    """Add codes to impressions; every row stays, empty histories and unknown items included.

    One lookup serves target and history ids together. An item that the store does not have, or not of this source, gets
    UNKNOWN_CODE at every level.

    Args:
        batch: n impressions (features.schema.IMPRESSIONS).
        store: what answers; the whole batch sees one version. Training opens one version
            (`features.store.versions.open_snapshot`), serving the store that follows them.
        sources: whose codes, in the order of the columns to add.

    Returns:
        The batch with, for each source, `target_codes_SOURCE` fixed_size_list<uint16>[L] and `history_codes_SOURCE` list<uint16>, L per
        history item in the item's order.
    """
    history, targets = batch.column("history_item_ids"), batch.num_rows
    ids = np.concatenate([batch.column("item_id").to_numpy(), history.flatten().to_numpy()])
    ends = history.offsets.to_numpy() - history.offsets[0].as_py()
    columns, misses = list(batch.columns), {}
    for source, found in zip(sources, store.lookups(ids, sources), strict=True):
        levels = found.codes.shape[1]
        values = pa.array(found.codes.reshape(-1))  # shares their memory, as its slices do
        columns.append(pa.FixedSizeListArray.from_arrays(values[: targets * levels], levels))
        columns.append(pa.ListArray.from_arrays(pa.array(ends * np.int32(levels)), values[targets * levels :]))
        misses[source] = found.misses
    schema = enriched_schema(batch.schema, [store.contract(source) for source in sources])
    return Enriched(pa.RecordBatch.from_arrays(columns, schema=schema), len(ids), misses)
