"""The kernel for jobs of your own: an object that travels to the workers of any engine and enriches Arrow there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from features.enrich import Additions, Enriched, enrich, enriched_schema
from features.location import Location
from features.store.broadcast import StoreVersion


@dataclass(frozen=True)
class Enricher:
    """Enriches in a worker, which maps the store's files when it first needs them; what travels is the store's name.

    Ray Data: `rows.map_batches(Enricher.of(store, additions), batch_format="pyarrow")`. Spark: features.engines.spark.enriched.

    Attributes:
        store: the version that all workers read.
        additions: the columns to add.
    """

    store: StoreVersion
    additions: Additions

    @classmethod
    def of(cls, store: str | Path | Location, additions: Additions) -> "Enricher":
        """With the version of the store that is current now. Raises InputError naming what is missing or damaged."""
        return cls(StoreVersion.current(store), additions)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Enrich a table; its rows keep their order. Raises InputError as `enrich` does."""
        if rows.num_rows == 0:
            return self.schema(rows.schema).empty_table()
        return pa.Table.from_batches(self.batches(rows.combine_chunks().to_batches()))

    def batches(self, batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Enrich record batches one by one."""
        return (self.enrich(batch).batch for batch in batches)

    def enrich(self, batch: pa.RecordBatch) -> Enriched:
        """Enrich one record batch, and count."""
        return enrich(batch, self.store.open(), self.additions)

    def schema(self, impressions: pa.Schema) -> pa.Schema:
        """The schema of the result for rows of this schema."""
        snapshot = self.store.open()
        return enriched_schema(impressions, self.additions, {source: snapshot.contract(source) for source in self.additions.sources})
