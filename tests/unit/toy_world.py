"""The toy log as a world of the reproduction, with items, some of them without a date of creation, and content of most."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from features.content import Content, content_schema, content_table
from features.dataset import DatasetWriter, open_dataset, read_table
from features.schema import ITEMS, TIMESTAMP
from pipeline import recipe as recipes
from pipeline.reproduce.world import World
from tests.toy_log import toy_recipe, write_toy_log


def toy_world(root: Path) -> World:
    """300 items, 60 of which the log does not show and 90 of which have no content."""
    world = World("toy", recipes.load("simulated", toy_recipe(root)), root)
    folder, rng = world.config.workdir, np.random.default_rng(0)
    write_toy_log(folder, rows=1500, items=240)
    log = read_table(open_dataset(folder / "impressions"), ["timestamp", "item_id"])
    shown = np.unique(log.column("item_id").to_numpy())
    ids = np.concatenate([shown, 2_000_000 + np.arange(300 - len(shown))])
    times = log.column("timestamp").to_numpy().astype(np.int64)
    created = rng.integers(times[0], times[-1], 300)
    null = rng.random(300) < 0.3
    columns = [pa.array(ids), pa.array(created, mask=null).cast(TIMESTAMP), *[pa.nulls(300, pa.string())] * 3]
    with DatasetWriter(folder / "items", ITEMS, {}) as writer:
        writer.write(pa.table(columns, schema=ITEMS))
    has = rng.permutation(ids)[:210]
    content = Content(has, rng.normal(size=(210, 6)).astype(np.float32), "text", 90)
    with DatasetWriter(folder / "content" / "text", content_schema(6), {"source": "text"}) as writer:
        writer.write(content_table(content))
    return world
