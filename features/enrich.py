"""The pure Arrow to Arrow kernel: Semantic ID codes of the target and of every history item, looked up in the entity store."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.entity_store import SemanticIds
from features.schema import codes_fields


class Enriched(NamedTuple):
    """The batch with codes, and how many of its looked-up ids had none."""

    batch: pa.RecordBatch
    lookups: int
    misses: int


def enriched_schema(impressions: pa.Schema, levels: int) -> pa.Schema:
    """Schema of `enrich`'s result: the impressions' columns, then target_codes and history_codes."""
    return pa.schema([*impressions, *codes_fields(levels)])


def enrich(batch: pa.RecordBatch, store: SemanticIds, source: str | None = None) -> Enriched:
    """Add codes to impressions; every row stays, empty histories and unknown items included.

    One lookup serves target and history ids together. An item that the store does not have gets UNKNOWN_CODE at every level.

    Args:
        batch: n impressions (features.schema.IMPRESSIONS).
        store: what answers; the whole batch sees one version. Training opens one version
            (`features.store.versions.open_snapshot`), serving the store that follows them.
        source: whose codes, not needed where the store has one source.

    Returns:
        The batch with `target_codes` fixed_size_list<uint16>[L] and `history_codes` list<uint16>, L per history item in the item's order.
    """
    history = batch.column("history_item_ids")
    targets = batch.column("item_id").to_numpy(zero_copy_only=False)
    history_ids = history.flatten().to_numpy(zero_copy_only=False)
    found = store.lookup(np.concatenate([targets, history_ids]), source)
    levels = found.codes.shape[1]
    target_codes = pa.FixedSizeListArray.from_arrays(pa.array(found.codes[: len(targets)].ravel()), levels)
    offsets = np.zeros(batch.num_rows + 1, np.int32)
    np.cumsum(pc.list_value_length(history).to_numpy(zero_copy_only=False) * levels, out=offsets[1:])
    history_codes = pa.ListArray.from_arrays(pa.array(offsets), pa.array(found.codes[len(targets) :].ravel()))
    columns = [*batch.columns, target_codes, history_codes]
    return Enriched(
        pa.RecordBatch.from_arrays(columns, schema=enriched_schema(batch.schema, levels)), len(targets) + len(history_ids), found.misses
    )
