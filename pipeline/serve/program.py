"""The ranker as a torch.export program, for runtimes without our code: values and lengths in, probabilities out."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedTensor

from features.batch import BatchSchema, Features
from models.ranker import Ranker

EXAMPLES = 3  # rows of all that the program is traced with: torch takes 0 and 1 for constants


class Program(nn.Module):
    """The ranker with its tables as inputs, so that the program holds none of them.

    Its forward takes, for B rows of T history positions:
        tables: name to float32 [H, D], the "weight" of tables/NAME.safetensors.
        values: table name to int64 [N], the table rows that are looked up, bag by bag.
        lengths: table name to int32 how many of them each bag has: [B, 1 + T], target and history, or [B] of a table of targets or of a
            context column.
        dense_BF, history_age_BT, history_mask_BT, shared_depth_BT: as in `features.batch.Batch`; the last one is None where it has none.

    And gives probabilities, float32 [B, K].
    """

    def __init__(self, ranker: Ranker) -> None:
        """Args: the ranker, whose collections of tables are replaced."""
        super().__init__()
        self.ranker = ranker
        if ranker.item_embeddings is not None:
            ranker.item_embeddings = _Pooled(ranker.item_names, ranker.width)
        if ranker.context_embeddings is not None:
            ranker.context_embeddings = _Pooled(ranker.context_names, ranker.width)

    def forward(
        self,
        tables: dict[str, torch.Tensor],
        values: dict[str, torch.Tensor],
        lengths: dict[str, torch.Tensor],
        dense_BF: torch.Tensor,
        history_age_BT: torch.Tensor,
        history_mask_BT: torch.Tensor,
        shared_depth_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        """See the class."""
        pooled = {name: _pooled(tables[name], values[name], lengths[name]) for name in tables}
        items, context = (
            torch.cat([pooled[name] for name in names], 1) if names else None
            for names in (self.ranker.item_names, self.ranker.context_names)
        )
        given: Any = (items, context, dense_BF, history_age_BT, history_mask_BT, shared_depth_BT)  # `_Pooled` takes no KJTs
        return torch.sigmoid(self.ranker.logits(Features._make(given)))


def save_program(path: Path, ranker: Ranker, schema: BatchSchema) -> str | None:
    """Export the program of a ranker, whose tables are replaced, and save it.

    Args:
        path: the file.
        ranker: its dense weights become the program's.
        schema: of its batches.

    Returns:
        None, or why torch cannot export it, in which case there is no file.
    """
    example, dynamic = _example(ranker, schema)
    try:
        with torch.no_grad():
            torch.export.save(torch.export.export(Program(ranker), example, dynamic_shapes=dynamic, strict=False), path)
    except Exception as error:  # of any kind: whether a model can be exported is torch's matter, and the bundle does without
        path.unlink(missing_ok=True)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def _example(ranker: Ranker, schema: BatchSchema) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Inputs of a few rows, with tables as small, since they are saved too; and which of their dimensions may change."""
    shapes = {name: (EXAMPLES, 1 + schema.history_length) for name in ranker.item_names} | {
        name: (EXAMPLES,) for name in ranker.context_names
    }
    lengths = {name: torch.ones(shape, dtype=torch.int32) for name, shape in shapes.items()}
    shape_BT = (EXAMPLES, schema.history_length)
    example = (
        {name: torch.zeros(EXAMPLES, ranker.width) for name in shapes},
        {name: torch.zeros(length.numel(), dtype=torch.int64) for name, length in lengths.items()},
        lengths,
        torch.zeros(EXAMPLES, len(schema.dense_columns)),
        torch.zeros(shape_BT),
        torch.zeros(shape_BT, dtype=torch.bool),
        torch.zeros(shape_BT, dtype=torch.int64) if schema.shared_levels else None,
    )
    any_rows = {0: Dim("rows", min=1)}
    dynamic = (
        *[{name: {0: Dim.AUTO} for name in shapes}] * 2,
        dict.fromkeys(shapes, any_rows),
        *[any_rows] * 3,
        any_rows if schema.shared_levels else None,
    )
    return example, dynamic


class _Pooled(nn.Module):
    """Takes pooled vectors for what a collection of tables would give."""

    def __init__(self, names: list[str], width: int) -> None:
        super().__init__()
        self.names, self.width = names, width

    def forward(self, pooled: torch.Tensor) -> KeyedTensor:
        return KeyedTensor(self.names, [self.width] * len(self.names), pooled)


def _pooled(table: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    offsets = functional.pad(lengths.flatten().cumsum(0), (1, 0))
    return functional.embedding_bag(values, table, offsets, mode="sum", include_last_offset=True)
