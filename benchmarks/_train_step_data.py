"""Inputs of the training step's benchmark: the simulated world through the real stages, and random logs of any shape."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.dataset import DatasetWriter, open_dataset, read_table
from features.schema import IMPRESSIONS, TIMESTAMP
from features.semantic_id import SidContract
from features.store.publish import publish
from pipeline import assign, embed, enrich, quantize, simulate
from pipeline import recipe as recipes
from pipeline.config import RunConfig

WORLD = {"embed.sources": "[vector_content]", "quantize.kind": "rqkmeans", "train.train_fraction": 1.0}
ITEMS, K, DAY = 10_000, 128, 86_400 * 10**6


def configuration(workdir: Path, **changes: object) -> RunConfig:
    """The simulated world's recipe on the data in `workdir`; keys of `changes` have two underscores for the dot."""
    settings = {"workdir": workdir, **WORLD, **{key.replace("__", "."): value for key, value in changes.items()}}
    return recipes.load("simulated", [f"{key}={value}" for key, value in settings.items()])


def write_world(workdir: Path, copies: int, **changes: object) -> None:
    """The simulated world, enriched by the pipeline's own stages, its log so many times one after the other: more rows to read."""
    config = configuration(workdir, **changes)
    with contextlib.redirect_stdout(io.StringIO()):
        for stage in (simulate, embed, quantize, assign, enrich):
            stage.run(config)
    for name in ("impressions", "enriched"):
        dataset = open_dataset(workdir / name)
        log = read_table(dataset)
        with DatasetWriter(workdir / name, dataset.schema, dataset.metadata) as writer:
            for _ in range(copies):
                writer.write(log)


def write_random_log(workdir: Path, rows: int, history: int, levels: int) -> None:
    """Impressions whose histories are all full, items of random codes, and what stage enrich makes of them."""
    generator = np.random.default_rng(0)
    contract = SidContract(levels=levels, codebook_size=K, codebook_hash="random", source="vector_content", generation=1)
    publish(workdir / "store", [(np.arange(ITEMS), {contract.source: generator.integers(0, K, (ITEMS, levels))})], [contract])
    times = np.sort(generator.integers(0, 12 * DAY, rows)) + 20_000 * DAY
    offsets = np.arange(rows + 1, dtype=np.int32) * history
    past = np.repeat(times, history) - generator.integers(1, 10 * DAY, rows * history)
    columns = {
        "timestamp": _timestamps(times),
        "user_id": pa.array(generator.integers(0, 4000, rows)),
        "item_id": pa.array(generator.integers(0, ITEMS, rows)),
        "label_click": pa.array(generator.integers(0, 2, rows).astype(np.int8)),
        "dense_past_count": pa.array(generator.integers(0, 1000, rows).astype(np.float32)),
        "dense_age_hours": pa.array(generator.random(rows).astype(np.float32)),
        "history_item_ids": pa.ListArray.from_arrays(offsets, pa.array(generator.integers(0, ITEMS, rows * history))),
        "history_timestamps": pa.ListArray.from_arrays(offsets, _timestamps(past)),
        "past_impressions": pa.array(generator.integers(0, 1000, rows).astype(np.int32)),
    }
    with DatasetWriter(workdir / "impressions", IMPRESSIONS, {"source": "random"}) as writer:
        writer.write(pa.table(columns, schema=IMPRESSIONS))
    with contextlib.redirect_stdout(io.StringIO()):
        enrich.run(configuration(workdir))


def _timestamps(microseconds: np.ndarray) -> pa.Array:
    return pa.array(microseconds).cast(pa.timestamp("us")).cast(TIMESTAMP)
