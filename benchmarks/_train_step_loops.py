"""Training loops on batches that are in memory already: a bare TorchRec loop over our ranker, and one over TorchRec's own DLRM.

Legend: B examples per rank and step, T history positions, D embedding width.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.datasets.utils import Batch as DlrmBatch
from torchrec.models.dlrm import DLRM, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batch import Batch
from features.reader import BatchPlan
from models.sharding import ShardedModel, initialise_optimizer, shard
from models.train_pipeline import train_pipeline
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.model import sharded_ranker


class Loop:
    """Steps on the same few batches over and over: no reader, no metrics, no scores, no files."""

    def __init__(self, config: RunConfig, model: ShardedModel, batches: Sequence[Any], device: torch.device) -> None:
        """Args: what chooses the pipeline; a model whose optimizer is initialised; batches on the host; this rank's device."""
        self.model, self.batches = model, batches
        model.module.train()
        self._pipeline = train_pipeline(config.sharding, model, device)
        self._endless = itertools.cycle(batches)

    def run(self, steps: int) -> None:
        """Train on so many batches."""
        for _ in range(steps):
            self._pipeline.progress(self._endless)


def bare_loop(config: RunConfig, source: BatchSource, batches: Sequence[Batch], device: torch.device) -> Loop:
    """The ranker of `semid train`: the same plan and optimizer."""
    model = sharded_ranker(config, source, device)
    initialise_optimizer(model)
    return Loop(config, model, batches, device)


def first_batches(config: RunConfig, source: BatchSource, count: int) -> list[Batch]:
    """This rank's batches of the first steps, as many as there are; on the host."""
    return list(itertools.islice(source.batches(_plan(config, source), 0, training=True), count))


def spread_batches(config: RunConfig, source: BatchSource, count: int) -> list[Batch]:
    """This rank's batches of so many steps at even distances over the log, along which histories grow; on the host."""
    plan = _plan(config, source)
    steps = range(0, plan.steps, max(plan.steps // count, 1))[:count]
    return [next(source.batches(plan, step, training=True)) for step in steps]


def random_batches(config: RunConfig, source: BatchSource, count: int) -> list[Batch]:
    """The same with the bags' lengths as they are, and random table rows, ages, dense values and labels in them."""
    torch.manual_seed(dist.get_rank())
    rows = source.builder.schema.item_tables
    return [
        replace(
            batch,
            items=_with_random_values(batch.items, rows),
            dense_BF=torch.randn_like(batch.dense_BF),
            history_age_BT=torch.rand_like(batch.history_age_BT) * 1000,
            label_BK=torch.randint_like(batch.label_BK, 2),
        )
        for batch in spread_batches(config, source, count)
    ]


def torchrec_dlrm(config: RunConfig, source: BatchSource, batches: Sequence[Batch], device: torch.device, *, per_position: bool) -> Loop:
    """TorchRec's DLRM with as many keys in as many rows of the same width, and the same dense and over arch.

    Args:
        config: as of the ranker.
        source: its input.
        batches: of one representation, whose lengths and values are taken.
        device: of this rank.
        per_position: a feature, and so a vector, per position as our ranker has; otherwise two, the target and the pooled history.
    """
    (name,), width = source.builder.schema.item_tables, config.model.embedding_dim
    features = [f"{name}_{position}" for position in range(1 + config.ingest.history_length if per_position else 2)]
    start = functools.partial(nn.init.uniform_, a=-(width**-0.5), b=width**-0.5)
    table = EmbeddingBagConfig(
        name=name,
        embedding_dim=width,
        num_embeddings=source.builder.schema.item_tables[name],
        feature_names=features,
        pooling=PoolingType.SUM,
        init_fn=start,
    )
    dlrm = DLRM(
        embedding_bag_collection=EmbeddingBagCollection([table], device=torch.device("meta")),
        dense_in_features=len(source.builder.schema.dense_columns),
        dense_arch_layer_sizes=[*config.model.dense_arch, width],
        over_arch_layer_sizes=[*config.model.over_arch, 1],
        dense_device=device,
    )
    size = config.train.global_batch // dist.get_world_size()
    tables, dense = config.train.table_learning_rate, config.train.dense_learning_rate
    model = shard(DLRMTrain(dlrm), config.sharding, table_learning_rate=tables, dense_learning_rate=dense, batch=size, device=device)
    initialise_optimizer(model)
    return Loop(config, model, [_for_dlrm(batch, features) for batch in batches], device)


def _plan(config: RunConfig, source: BatchSource) -> BatchPlan:
    return BatchPlan(0, source.dataset.rows, config.train.global_batch, dist.get_world_size(), dist.get_rank())


def _for_dlrm(batch: Batch, features: list[str]) -> DlrmBatch:
    """The same numbers of keys; which bag a random value falls into does not matter."""
    assert batch.items is not None
    lengths_BP = batch.items.lengths().view(len(batch.weight_B), -1)
    if len(features) == 2:
        lengths_BP = torch.stack([lengths_BP[:, 0], lengths_BP[:, 1:].sum(1)], 1)
    lengths = lengths_BP.T.flatten().to(torch.int32)
    keys = KeyedJaggedTensor(keys=features, values=batch.items.values(), lengths=lengths)
    return DlrmBatch(dense_features=batch.dense_BF, sparse_features=keys, labels=batch.label_BK[:, 0])


def _with_random_values(items: KeyedJaggedTensor | None, rows: dict[str, int]) -> KeyedJaggedTensor:
    assert items is not None
    values = torch.cat([torch.randint(rows[key], (count,)) for key, count in zip(items.keys(), items.length_per_key(), strict=True)])
    return KeyedJaggedTensor(keys=items.keys(), values=values, lengths=items.lengths())
