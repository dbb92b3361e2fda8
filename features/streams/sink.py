"""Where a stream's rows go: a data set that grows by parts, whose manifest names the parts and the source's position together."""

import hashlib
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from features.dataset import MANIFEST, ROWS_PER_FILE, DataFile, Dataset, PartWriter, has_dataset, open_dataset, publish
from features.engines.job import Totals, described, parquet_metadata
from features.engines.mapper import Enricher
from features.enrich import IDS
from features.errors import InputError
from features.location import Location
from features.schema import require
from features.semantic_id import SidContract
from features.streams.micro_batch import MicroBatch


class Sink:
    """Enriches micro-batches and appends them to a data set, each exactly once, at whatever moment the process dies.

    The manifest is written as a whole; it has the parts so far and, as "position", where the source goes on after their rows. What no
    manifest names does not count: the next start takes it again. A part once named stays, so that a reader who opens the data set at any
    moment has the whole of its rows up to some micro-batch. One writer at a time.

    Small micro-batches would make many small parts. So rows are gathered until there are `rows_per_part`, or until the oldest has waited
    for `max_seconds`, whichever is first: by default 1,048,576 rows, as in other data sets, and a minute, which makes at most 1,440 parts
    a day of a slow stream.

    Used as a context manager; what is not published at its end is dropped, and taken again by the next start.

    Attributes:
        position: where the source goes on after what was published; None at the beginning.
        rows, parts: of the data set, as published.
        totals: rows, look-ups and misses of all that was taken since this start.
    """

    def __init__(
        self,
        output: str | Path | Location,
        enricher: Enricher,
        followed: str,
        *,
        rows_per_part: int = ROWS_PER_FILE,
        max_seconds: float = 60.0,
    ) -> None:
        """Begin a data set, or go on with the one in `output`.

        Args:
            output: its folder.
            enricher: the store's version and the columns to add.
            followed: the source's name; a position means nothing to another source.
            rows_per_part: rows that wait at most, and those of a part file.
            max_seconds: how long rows wait at most; the source's own waiting comes on top.

        Raises:
            InputError: naming both sides, if the rows there came from another source or were enriched in another way.
        """
        self.location, self.position, self.rows, self.parts, self.totals = Location.of(output), None, 0, 0, Totals()
        self._enricher, self._rows_per_part, self._max_seconds = enricher, rows_per_part, max_seconds
        self._metadata = described(enricher) | {
            "followed": followed,
            "additions": hashlib.sha256(repr(enricher.additions).encode()).hexdigest()[:16],
        }
        self._manifest = self._read_manifest()
        self._files: list[DataFile] = []  # published, and then those finished since
        self._schema: pa.Schema | None = None  # of the enriched rows
        self._part: PartWriter | None = None
        if self._manifest is not None:
            self._go_on_with(open_dataset(self.location))
        self._taken: Any = self.position
        self._waiting_rows = 0
        self._waiting_since: float | None = None

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._part is not None:
            self._part.discard()

    @property
    def due(self) -> bool:
        """Whether enough rows are waiting, or have waited long enough."""
        if self._waiting_since is None:
            return False
        return self._waiting_rows >= self._rows_per_part or time.monotonic() - self._waiting_since >= self._max_seconds

    def take(self, arrived: MicroBatch) -> None:
        """Enrich a micro-batch; its rows count once they are published. After an error the sink has a part of them, and is of no use.

        Raises:
            InputError: naming the file or entry, if it is damaged, or its columns are not those of the rows before it.
        """
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._require_columns(arrived)
        for batch in arrived.batches:
            if batch.num_rows:
                self._write(self._enriched(batch, arrived.origin))
        self._taken = arrived.position

    def publish(self) -> bool:
        """Make what was taken part of the data set; False if nothing was.

        Raises:
            InputError: if another writer has published here meanwhile.
        """
        if self._waiting_since is None:
            return False
        if not self._files and self._part is None:
            self._open_part()  # a data set without rows has its columns from an empty part
        self._finish_part()
        self._require_alone()
        publish(self.location, self._files, self._metadata | {"position": self._taken})
        self._manifest, self.position = self._read_manifest(), self._taken
        self.rows, self.parts = sum(file.rows for file in self._files), len(self._files)
        self._waiting_rows, self._waiting_since = 0, None
        return True

    def _go_on_with(self, written: Dataset) -> None:
        """Refuse rows of another source, of other codes or of other columns, and take over the position."""
        told, here = written.metadata, str(self.location)
        if "position" not in told:
            raise InputError(f"{here}: this data set was written as a whole and not by following a stream; choose another place")
        if told["followed"] != self._metadata["followed"]:
            raise InputError(f"{here}: follows {told['followed']}, and cannot go on with {self._metadata['followed']}")
        theirs = {contract.source: contract for contract in (SidContract.from_json(each, here) for each in told["sid_contracts"])}
        for each in self._metadata["sid_contracts"]:
            ours = SidContract.from_json(each, self._enricher.store.where)
            theirs.get(ours.source, ours).require_same(ours, here, self._enricher.store.where)
        if told["additions"] != self._metadata["additions"]:
            raise InputError(f"{here}: its rows have columns made with other settings than this run's; choose another place")
        self.position, self.rows, self.parts = told["position"], written.rows, len(written.files)
        self._files, self._schema = list(written.files), written.schema

    def _require_columns(self, arrived: MicroBatch) -> None:
        dense = [pa.field(name, pa.float32()) for name in self._enricher.additions.dense]
        require(arrived.schema, pa.schema([*IDS, *dense]), arrived.origin)
        schema = self._enricher.schema(arrived.schema)
        if self._schema is None:
            self._schema = schema
        if not schema.equals(self._schema):
            require(schema, self._schema, arrived.origin)
            raise InputError(f"{arrived.origin}: has columns, an order of them, or nulls allowed that differ from the rows before it")

    def _enriched(self, batch: pa.RecordBatch, origin: str) -> pa.Table:
        try:
            enriched = self._enricher.enrich(batch)
        except InputError as error:
            raise InputError(f"{origin}: {error}") from error
        self.totals.rows += batch.num_rows
        self.totals.lookups += enriched.lookups
        self.totals.misses.update(enriched.misses)
        return pa.Table.from_batches([enriched.batch])

    def _write(self, rows: pa.Table) -> None:
        self._waiting_rows += rows.num_rows
        while rows.num_rows:
            part = self._open_part()
            here = rows.slice(0, self._rows_per_part - part.rows)
            part.write(here)
            rows = rows.slice(here.num_rows)
            if part.rows == self._rows_per_part:
                self._finish_part()

    def _open_part(self) -> PartWriter:
        if self._part is None:
            assert self._schema is not None
            schema = self._schema.with_metadata(parquet_metadata(self._enricher))
            self._part = PartWriter(self.location, len(self._files), schema)
        return self._part

    def _finish_part(self) -> None:
        if self._part is not None:
            self._require_alone()  # else the part may have been removed
            self._files.append(self._part.finish())
            self._part = None

    def _require_alone(self) -> None:
        if self._read_manifest() != self._manifest:
            raise InputError(f"{self.location}: another writer has published here meanwhile; a data set has one writer at a time")

    def _read_manifest(self) -> bytes | None:
        return bytes((self.location / MANIFEST).read()) if has_dataset(self.location) else None
