"""TorchRec's training pipelines: which one a run uses."""

import torch
from torchrec.distributed.train_pipeline import PrefetchTrainPipelineSparseDist, TrainPipelineBase, TrainPipelineSparseDist

from features.errors import InputError
from models.sharding import ShardedModel
from models.sharding_config import ShardingConfig

KINDS = {"base": TrainPipelineBase, "sparse_dist": TrainPipelineSparseDist, "prefetch": PrefetchTrainPipelineSparseDist}


def train_pipeline(config: ShardingConfig, model: ShardedModel, device: torch.device) -> TrainPipelineBase | TrainPipelineSparseDist:
    """The pipeline whose `progress(batches)` makes a step.

    All of them give the same losses. `base` copies the next batch while a step runs; `sparse_dist` also exchanges its ids, and
    `prefetch` also fetches the rows it needs into the caches. Whatever they hold in advance, a step trains one batch.

    Args:
        config: `pipeline`, and `cached`, the tables that need prefetching.
        model: from `models.sharding.shard`.
        device: of this rank.

    Raises:
        InputError: where the device cannot run it.
    """
    kind = config.pipeline
    if kind == "auto":
        kind = "prefetch" if config.cached else "sparse_dist" if device.type == "cuda" else "base"
    if kind == "prefetch" and device.type != "cuda":
        raise InputError("sharding.pipeline: prefetch fills the caches of a GPU, and this rank runs on the CPU")
    return KINDS[kind](model.module, model.optimizer, device)
