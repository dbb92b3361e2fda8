"""Arrow schemas of items, impressions and enriched rows: the canonical Parquet contract that every stage reads and writes."""

import pyarrow as pa

from features.errors import InputError
from features.semantic_id import SidContract

TIMESTAMP = pa.timestamp("us", tz="UTC")

# Column families: one column per task, feature or content source, told apart by prefix.
LABEL = "label_"  # int8, 0 or 1, one per task
DENSE = "dense_"  # float32, non-negative, of the item's past only
CONTEXT = "context_"  # int64 or list<int64>
VECTOR = "vector_"  # fixed_size_list<float32>[d], one per content source
TARGET_CODES = "target_codes_"  # fixed_size_list<uint16>[L], one per source of Semantic IDs; UNKNOWN_CODE where there is none
HISTORY_CODES = "history_codes_"  # list<uint16>, L per history item, in the history's order
# For other trainers than this one, which makes them itself (features.enrich.Additions).
TARGET_KEYS = "target_keys_"  # table rows of the target, one column per representation
HISTORY_KEYS = "history_keys_"  # table rows of the history items
HASHED = "hashed_"  # a context column's ids as table rows
NORMALIZED = "normalized_"  # a dense column by stored statistics

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("created_at", TIMESTAMP),  # null where the log does not tell
        pa.field("original_id", pa.string()),  # the publisher's id, where it is not an int64
        pa.field("title", pa.string()),
        pa.field("text", pa.string()),  # what the content embedding reads
    ]
)

IMPRESSIONS = pa.schema(
    [
        pa.field("timestamp", TIMESTAMP, nullable=False),  # non-decreasing over the data set
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("label_click", pa.int8(), nullable=False),
        pa.field("dense_past_count", pa.float32(), nullable=False),  # positives or impressions of the item, strictly before
        pa.field("dense_age_hours", pa.float32(), nullable=False),  # hours since the item's creation or first event, 0 if none
        pa.field("history_item_ids", pa.list_(pa.int64()), nullable=False),  # the user's positives, most recent first, strictly before
        pa.field("history_timestamps", pa.list_(TIMESTAMP), nullable=False),  # same lengths as history_item_ids
        pa.field("past_impressions", pa.int32(), nullable=False),  # rows of this item strictly before; a segment, not a feature
    ]
)

ORACLE = pa.field("oracle_probability", pa.float64(), nullable=False)  # simulated worlds only: the true click probability


def codes_fields(contract: SidContract) -> list[pa.Field]:
    """The two columns that enrichment adds for one source: the target's codes, and those of the history items."""
    return [
        pa.field(TARGET_CODES + contract.source, pa.list_(pa.uint16(), contract.levels), nullable=False),
        pa.field(HISTORY_CODES + contract.source, pa.list_(pa.uint16()), nullable=False),
    ]


def columns_with_prefix(schema: pa.Schema, prefix: str) -> list[str]:
    """Names of one column family, in schema order."""
    return [name for name in schema.names if name.startswith(prefix)]


def require(schema: pa.Schema, expected: pa.Schema, where: str) -> None:
    """Check that `schema` has every field of `expected` with its type.

    Raises:
        InputError: naming `where` (a file or data set) and the first column that is missing or of another type.
    """
    for field in expected:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise InputError(f"{where}: column '{field.name}' ({field.type}) is missing; columns are {', '.join(schema.names)}")
        if schema.field(index).type != field.type:
            raise InputError(f"{where}: column '{field.name}' is {schema.field(index).type}, expected {field.type}")
