"""Which columns of the impressions a run's batches are made of, so that the reader decodes no other."""

from collections.abc import Collection, Sequence

import pyarrow as pa

from features.errors import InputError
from features.representation import Representation
from features.schema import CONTEXT, DENSE, HISTORY_CODES, LABEL, TARGET_CODES, columns_with_prefix
from features.segments import STREAM


def input_columns(
    schema: pa.Schema, tasks: Sequence[str], representations: Collection[Representation], shared_source: str | None
) -> list[str]:
    """The columns of `schema` that batches are made of, in its order.

    Args:
        schema: of the impressions, with codes or, where they are looked up while reading, without.
        tasks: of the model.
        representations: its item tables.
        shared_source: whose codes the shared depth is counted on, if the model takes it.

    Raises:
        InputError: naming a task whose label is not in `schema`.
    """
    for task in tasks:
        if LABEL + task not in schema.names:
            labels = ", ".join(name.removeprefix(LABEL) for name in columns_with_prefix(schema, LABEL))
            raise InputError(f"model.tasks: there is no column '{LABEL}{task}' for task '{task}'; the data set's tasks are {labels}")
    wanted = {"timestamp", "history_timestamps", *_item_columns(schema, representations, shared_source)}
    wanted |= {LABEL + task for task in tasks} | {segmentation.column for segmentation in STREAM}
    wanted |= {*columns_with_prefix(schema, DENSE), *columns_with_prefix(schema, CONTEXT)}
    return [name for name in schema.names if name in wanted]


def _item_columns(schema: pa.Schema, representations: Collection[Representation], shared_source: str | None) -> set[str]:
    """Codes of each source where it is used, at the target or in the history; ids where something is made of them."""
    columns = {TARGET_CODES + r.source if r.source else "item_id" for r in representations if r.target}
    columns |= {HISTORY_CODES + r.source if r.source else "history_item_ids" for r in representations if r.history}
    if shared_source:
        columns |= {TARGET_CODES + shared_source, HISTORY_CODES + shared_source}
    looked_up = not columns <= set(schema.names)
    return columns | {"item_id", "history_item_ids"} if looked_up else columns
