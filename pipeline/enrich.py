"""Stage enrich: impressions + store to Parquet with codes, and the dense id map."""

import sys
from collections.abc import Iterator

import pyarrow as pa

from features.dataset import Dataset, DatasetWriter, iter_row_groups, open_dataset
from features.dense_ids import DenseIdMap
from features.enrich import Enriched, enrich, enriched_schema
from features.store.snapshot import Snapshot
from features.store.versions import open_snapshot
from pipeline.config import RunConfig
from pipeline.progress import say


def run(config: RunConfig) -> None:
    """Look up the codes of every target and history item in one version of the store."""
    impressions = open_dataset(config.path("impressions"))
    store = open_snapshot(config.path("store"))
    contract = store.contract(config.sid_source)
    schema = enriched_schema(impressions.schema, contract.levels)
    metadata = impressions.metadata | {"sid_contract": contract.to_json()}
    lookups = misses = 0
    with DatasetWriter(config.path("enriched"), schema, metadata) as writer:
        for part in _enriched(impressions, store, contract.source):
            lookups, misses = lookups + part.lookups, misses + part.misses
            writer.write(pa.Table.from_batches([part.batch]))
    DenseIdMap.build(impressions).save(config.path("dense_ids"))
    say(f"enriched {impressions.rows:,} rows, {lookups:,} ids looked up, {misses / max(lookups, 1):.2%} without a Semantic ID")


def _enriched(impressions: Dataset, store: Snapshot, source: str) -> Iterator[Enriched]:
    for table in iter_row_groups(impressions):
        for batch in table.combine_chunks().to_batches():
            yield enrich(batch, store, source)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="enrich"))
