"""Pooled look-ups beside TorchRec's: in int8 tables, whose rows are dequantised as they are read, and in none, for torch.export."""

from collections.abc import Mapping

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


def quantised(rows: torch.Tensor) -> torch.Tensor:
    """Rows float32 [N, D] as uint8 [N, D + 8]: 255 steps between a row's least and greatest number, then its float32 scale and offset."""
    return torch.ops.quantized.embedding_bag_byte_prepack(rows)


class Int8Tables(nn.Module):
    """What an EmbeddingBagCollection with sum pooling gives, from tables that `quantised` made."""

    def __init__(self, tables: Mapping[str, torch.Tensor]) -> None:
        """Args: table name to uint8 [H, D + 8], in the order of the output."""
        super().__init__()
        self._tables = dict(tables)
        self._widths = [table.shape[1] - 8 for table in tables.values()]

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """float32 [bags, R*D]."""
        bags, pooled = features.to_dict(), []
        for name, table in self._tables.items():
            values, offsets = bags[name].values(), bags[name].offsets().long()
            pooled.append(torch.ops.quantized.embedding_bag_byte_rowwise_offsets(table, values, offsets, include_last_offset=True))
        return KeyedTensor(list(self._tables), self._widths, torch.cat(pooled, 1))
