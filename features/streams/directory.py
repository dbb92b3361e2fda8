"""A folder that is being written as a source of micro-batches: each finished Parquet file is one, in ascending order of name."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from features.dataset import open_parquet, row_groups_of
from features.errors import InputError
from features.location import Location
from features.streams.micro_batch import MicroBatch


@dataclass(frozen=True)
class Directory:
    """Parquet files that appear in a folder. The position is the names taken, ascending; the last of them is where the source goes on.

    A writer puts a finished file in place by a rename, or as an object of a store; names that begin with "." or "_" or end in ".tmp" are
    not looked at. Taken files may be deleted; a position forgets those that have left the folder, but for the last.

    Attributes:
        folder: where the files appear.
        end_marker: name of the file whose appearance ends the stream, once all files before it are taken.
        poll_seconds: between two looks into the folder while nothing comes.
    """

    folder: Location
    end_marker: str = "_SUCCESS"
    poll_seconds: float = 1.0

    def __str__(self) -> str:
        return str(self.folder)

    def arrivals(self, position: list[str] | None) -> Iterator[MicroBatch | None]:
        """The source's micro-batches (`features.streams.micro_batch.Source`).

        Raises:
            InputError: if there is no such folder; naming file and row group where one is damaged; naming a file that comes after one of
                a greater name was taken, and would otherwise be lost.
        """
        if not self.folder.exists():
            raise InputError(f"{self.folder}: no such folder")
        taken = list(position or [])
        while True:
            ended = (self.folder / self.end_marker).exists()  # asked first: the names then have all that came before it
            names = self._names()
            new = sorted(set(names) - set(taken))
            if new and taken and new[0] < taken[-1]:
                raise InputError(f"{self.folder / new[0]}: came after {taken[-1]} was taken; files must come in ascending order of name")
            taken = sorted({*(set(taken) & set(names)), *taken[-1:]})
            for name in new:
                taken = [*taken, name]
                yield self._micro_batch(name, taken)
            if not new:
                if ended:
                    return
                yield None
                time.sleep(self.poll_seconds)

    def _names(self) -> list[str]:
        """Of data files, ascending.

        A listing may miss what comes while it is made and yet have what came later still; a second one has all that came before
        anything in the first.
        """
        first = self._listing()
        return [name for name in self._listing() if name <= first[-1]] if first else []

    def _listing(self) -> list[str]:
        return [
            name for name in self.folder.files() if not (name.startswith((".", "_")) or name.endswith(".tmp") or name == self.end_marker)
        ]

    def _micro_batch(self, name: str, position: list[str]) -> MicroBatch:
        where = self.folder / name
        file = open_parquet(where)
        return MicroBatch(str(where), file.schema_arrow.remove_metadata(), _batches(file, where), position)


def _batches(file: pq.ParquetFile, where: Location) -> Iterator[pa.RecordBatch]:
    for table in row_groups_of(file, where):
        yield from table.to_batches()
