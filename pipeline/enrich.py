"""Stage enrich: impressions + store to Parquet with codes, and the dense id map."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from features.dataset import Dataset, DatasetWriter, iter_row_groups, open_dataset
from features.dense_ids import DenseIdMap
from features.enrich import Enriched, enrich, enriched_schema
from features.errors import InputError
from features.store.snapshot import Snapshot
from features.store.versions import open_snapshot
from pipeline.config import RunConfig
from pipeline.progress import say


def run(config: RunConfig) -> None:
    """Look up the codes of every target and history item, of each of `embed.sources`, in one version of the store; number the items.

    Raises:
        InputError: if an input is missing or damaged, or `enrich.dense_ids_from` is this run's own map.
    """
    older_ids = _older_ids(config)
    impressions = open_dataset(config.path("impressions"))
    store = open_snapshot(config.path("store"))
    contracts = [store.contract(source) for source in config.embed.sources]
    metadata = impressions.metadata | {"sid_contracts": [contract.to_json() for contract in contracts]}
    lookups, misses = 0, Counter[str]()
    with DatasetWriter(config.path("enriched"), enriched_schema(impressions.schema, contracts), metadata) as writer:
        for part in _enriched(impressions, store, config.embed.sources):
            lookups += part.lookups
            misses.update(part.misses)
            writer.write(pa.Table.from_batches([part.batch]))
    DenseIdMap.build(impressions, older_ids).save(config.path("dense_ids"))
    without = ", ".join(f"{count / max(lookups, 1):.2%} without a Semantic ID of {source}" for source, count in misses.items())
    say(f"enriched {impressions.rows:,} rows, {lookups:,} ids looked up, {without}")


def _older_ids(config: RunConfig) -> DenseIdMap | None:
    path = config.enrich.dense_ids_from
    if path is not None and path.resolve() == config.path("dense_ids").resolve():
        raise InputError(f"enrich.dense_ids_from {path} is the folder that the stage writes; give each day a workdir of its own")
    return None if path is None else DenseIdMap.load(path)


def _enriched(impressions: Dataset, store: Snapshot, sources: Sequence[str]) -> Iterator[Enriched]:
    for table in iter_row_groups(impressions):
        for batch in table.combine_chunks().to_batches():
            yield enrich(batch, store, sources)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="enrich"))
