"""Our way from Parquet to Parquet, the job of stage enrich as it is, and the ceilings above it."""

import shutil
from pathlib import Path

import numpy as np
from _enrich_data import ADDITIONS

from features.dataset import ROWS_PER_GROUP, DatasetWriter, iter_row_groups, open_dataset, read_table
from features.engines.job import EnrichJob, run
from features.engines.local import run_parts
from features.location import Location
from features.schema import IMPRESSIONS
from features.store.broadcast import StoreVersion


class ToParquet:
    """Enriches the log below a folder; without torch, as a worker of any engine would."""

    def __init__(self, folder: Path) -> None:
        """Open the log and the store."""
        self.dataset, self.store = open_dataset(folder / "impressions"), StoreVersion.current(folder / "store")
        self._ceiling = folder / "ceiling"

    def write(self, output: Path, processes: int) -> None:
        """Run the job from its beginning."""
        shutil.rmtree(output, ignore_errors=True)
        run(EnrichJob(self.dataset, Location.of(output), self.store, ADDITIONS), run_parts, processes)

    def hold(self, enriched: Path) -> int:
        """Keep the job's output in memory for `encode`; the bytes of columns that the job reads and makes."""
        self._enriched = read_table(open_dataset(enriched))
        # The output has its own copy of the impressions' columns.
        return self._enriched.nbytes + self._enriched.select(IMPRESSIONS.names).nbytes

    def copy(self, size: int) -> None:
        """Copy so many bytes, in pieces as large as those of a row group."""
        copy(size, -(-self.dataset.rows // ROWS_PER_GROUP))

    def decode(self) -> None:
        """Read the log, checksums compared."""
        for _ in iter_row_groups(self.dataset):
            pass

    def encode(self) -> None:
        """Write what `hold` keeps, in files as the job's."""
        with DatasetWriter(self._ceiling, self._enriched.schema, {}, rows_per_file=self.dataset.files[0].rows) as writer:
            writer.write(self._enriched)


def copy(size: int, pieces: int) -> None:
    """Copy `size` bytes of memory, a piece at a time."""
    source = np.ones(size // pieces, np.uint8)
    for _ in range(pieces):
        source.copy()
