"""Which columns of the impressions a run's batches are made of, so that the reader decodes no other."""

from collections.abc import Collection, Sequence

import pyarrow as pa

from features.errors import InputError
from features.representation import Representation
from features.schema import CONTEXT, DENSE, HISTORY_CODES, LABEL, TARGET_CODES, columns_with_prefix
from features.segments import STREAM


def input_columns(schema: pa.Schema, tasks: Sequence[str], codes: Collection[str]) -> list[str]:
    """The columns of `schema` that `build` reads, in its order, and those of `codes` that it has.

    Raises:
        InputError: naming a task whose label is not in `schema`.
    """
    for task in tasks:
        if LABEL + task not in schema.names:
            labels = ", ".join(name.removeprefix(LABEL) for name in columns_with_prefix(schema, LABEL))
            raise InputError(f"model.tasks: there is no column '{LABEL}{task}' for task '{task}'; the data set's tasks are {labels}")
    wanted = {"timestamp", "item_id", "history_item_ids", "history_timestamps", *codes}
    wanted |= {LABEL + task for task in tasks} | {segmentation.column for segmentation in STREAM}
    wanted |= {*columns_with_prefix(schema, DENSE), *columns_with_prefix(schema, CONTEXT)}
    return [name for name in schema.names if name in wanted]


def codes_columns(representations: Collection[Representation], shared_source: str | None) -> set[str]:
    """The columns of codes that `build` reads: no history's where a source serves the target alone, nor the reverse."""
    targets = {r.source for r in representations if r.target} | {shared_source}
    histories = {r.source for r in representations if r.history} | {shared_source}
    return {TARGET_CODES + source for source in targets if source} | {HISTORY_CODES + source for source in histories if source}
