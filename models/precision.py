"""Precision as an option: half-precision tables, a bfloat16 dense part, and TorchRec's codecs for what ranks exchange."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, QuantizedCommCodecs
from torchrec.models.dlrm import OverArch
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from features.errors import InputError
from models.plan import Plan
from models.sharding_config import ShardingConfig

INT8_BLOCK = 32  # FBGEMM's


def with_table_precision(model: nn.Module, config: ShardingConfig) -> None:
    """Make every table of `model` one of `sharding.table_precision`; their weights must be on the meta device, where there are none."""
    if config.table_precision == "fp32":
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, EmbeddingBagCollection):
                tables = [replace(table, data_type=DataType.FP16) for table in child.embedding_bag_configs()]
                setattr(module, name, EmbeddingBagCollection(tables=tables, device=child.device))


def with_dense_precision(model: nn.Module, config: ShardingConfig, device: torch.device) -> None:
    """Let every dense part of `model` multiply in `sharding.precision`.

    Autocast lies around each child module that has no tables, and not around the whole model: lookups and the loss stay as they are, a
    part hands on float32, and the pipelines, which trace the model's own forward, do not see it. The over arch's last layer stays float32:
    logits of 8 bits would have ties, and a biased mean.
    """
    if config.precision == "fp32":
        return
    for part in _dense_parts(model):
        part.forward = _autocast(part.forward, device.type)


def communication_codecs(config: ShardingConfig) -> dict[str, QuantizedCommCodecs] | None:
    """TorchRec's codecs for pooled embeddings, in `sharding.communication`, and for their gradients, in bfloat16; None for float32.

    A mean loss over a batch of thousands has gradients below float16's normal numbers, and Adagrad would blow their rounding up.
    TorchRec's own registry is not used: it replaces bfloat16 between CPUs, which gloo can do.
    """
    if config.communication == "fp32":
        return None
    precisions = QCommsConfig(CommType(config.communication), CommType.BF16)
    operations = (CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER)
    return {operation.name: get_qcomm_codecs(precisions) for operation in operations}


def check_codecs_fit(config: ShardingConfig, plan: Plan) -> None:
    """Raise InputError where int8, which has a scale for every 32 numbers, does not divide what a rank sends."""
    if config.communication != "int8":
        return
    for name, table in plan.tables.items():
        width, bags = math.gcd(*(shard.columns for shard in table.shards)), int(plan.batch * table.bags)
        if table.type != "data_parallel" and bags * width % INT8_BLOCK:
            raise InputError(
                f"sharding.communication: int8 goes by blocks of {INT8_BLOCK}, and {bags} bags per rank of table '{name}', width {width}, "
                "are not a multiple"
            )


def _dense_parts(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, OverArch):
            yield child.model[0]
        elif not any(isinstance(module, EmbeddingBagCollection) for module in child.modules()):
            yield child


def _autocast(forward: Any, device_type: str) -> Any:
    def in_bfloat16(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device_type, torch.bfloat16):
            return _float32(forward(*inputs, **named))

    return in_bfloat16


def _float32(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(_float32(part) for part in output)
    return output.float() if torch.is_tensor(output) and output.is_floating_point() else output
