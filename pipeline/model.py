"""From a configuration to the ranker on all ranks, and what a run's weights depend on besides the rows and their order."""

from typing import Any

import torch
import torch.distributed as dist

from models.placement import Lookups
from models.ranker import Ranker
from models.sharding import ShardedModel, shard
from models.table_start import start_tables
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.stage import TRAINING_CODE, code_fingerprint
from pipeline.starting_point import StartingPoint


def sharded_ranker(config: RunConfig, source: BatchSource, device: torch.device) -> ShardedModel:
    """The ranker as its seed starts it, spread over the ranks; a collective call.

    Args:
        config: the run's configuration.
        source: its input, opened.
        device: of this rank.

    Raises:
        InputError: where a table cannot be sharded as configured, or the device cannot do what is configured.
    """
    positions = 1 + config.ingest.history_length
    torch.manual_seed(config.train.seed)
    model = shard(
        Ranker(source.builder.schema, config.model, torch.device("meta")),
        config.sharding,
        table_learning_rate=config.train.table_learning_rate,
        dense_learning_rate=config.train.dense_learning_rate,
        batch=config.train.global_batch // dist.get_world_size(),
        device=device,
        lookups={r.name: Lookups(r.keys_per_item, positions if r.history else 1) for r in source.builder.representations},
    )
    start_tables(model, config.train.seed)
    return model


def identity(config: RunConfig, source: BatchSource, start: StartingPoint | None) -> dict[str, Any]:
    """What a trained weight depends on besides the rows and their order; not on how many ranks there are, nor on their plan.

    Args:
        config: the run's configuration.
        source: its input, opened.
        start: the checkpoint that it starts from, if any.
    """
    settings, builder = config.model_dump(mode="json"), source.builder
    learning = {
        name: settings["train"][name] for name in ("train_fraction", "seed", "table_learning_rate", "dense_learning_rate", "id_dropout")
    }
    arithmetic = {name: settings["sharding"][name] for name in ("table_precision", "precision", "communication")}
    model = {**settings["model"], "history_length": settings["ingest"]["history_length"]}
    return {
        "sid_contracts": [contract.to_json() for contract in source.contracts.values()],
        "store": source.store.fingerprint if source.looks_up_codes else None,
        "pieces": source.pieces,
        "model": model,
        "columns": {"dense": list(builder.dense_columns), "context": list(builder.context_columns)},
        "dense_ids": None if builder.dense_ids is None else builder.dense_ids.describe(),
        "start": None if start is None else start.sha256,
        "learning": learning,
        "arithmetic": arithmetic,
        "code": code_fingerprint(TRAINING_CODE),
    }
