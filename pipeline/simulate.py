"""Stage simulate: the simulated world as canonical Parquet, written in bounded memory; the same seed gives the same bytes."""

import sys
import time

from features.dataset import DatasetWriter
from features.errors import InputError
from features.sources.simulated import World
from pipeline.config import RunConfig


def run(config: RunConfig) -> None:
    """Write the data sets items and impressions. Raises InputError where ingest.last_rows is set, which cuts real logs alone."""
    if config.ingest.last_rows is not None:
        raise InputError("'ingest.last_rows' cuts a real log; set simulate.impressions for the simulated world")
    started = time.perf_counter()
    world = World(**config.simulate.model_dump())
    metadata = {
        "source": "simulated",
        "credit": None,
        "positive": "a simulated click",
        "negatives": None,
        "past_count": "impressions",
        "history_length": config.ingest.history_length,
        "last_rows": None,
        "world": config.simulate.model_dump(mode="json"),
    }
    items = world.items_table()
    with DatasetWriter(config.path("items"), items.schema, metadata) as writer:
        writer.write(items)
    rows = clicks = 0
    with DatasetWriter(config.location("impressions"), world.impressions_schema, metadata) as writer:
        for table in world.impressions_tables(config.ingest.history_length):
            writer.write(table)
            rows += table.num_rows
            clicks += int(table["label_click"].to_numpy().sum())
    rate = clicks / rows
    print(f"simulate: {items.num_rows} items, {rows} impressions, click rate {rate:.3f}, {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="simulate"))
