"""Our way from Parquet to the item KJT and to whole training batches, of pipeline.loader's parts as they are, and the ceilings above it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch
from _enrich_data import ADDITIONS, CONTRACT, LONGEST, NGRAMS, TABLE_ROWS
from _enrich_to_parquet import copy
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batch import Batch
from features.dataset import iter_row_groups, open_dataset
from features.enrich import enrich
from features.inputs import input_columns
from features.kjt import BatchBuilder, item_kjt
from features.positions import Positions
from features.reader import BatchPlan, RowReader
from features.representation import ItemColumns, Representation
from features.store.broadcast import StoreVersion

ROWS = 4096  # of a batch
IDS = ("item_id", "history_item_ids")


class ToKjt:
    """Makes batches of the log below a folder."""

    def __init__(self, folder: Path) -> None:
        """Open the log and the store."""
        self.dataset, self.store = open_dataset(folder / "impressions"), StoreVersion.current(folder / "store")
        self.table = Representation("semantic_id", "semantic_id", TABLE_ROWS, source=CONTRACT.source, parameterization=NGRAMS)
        self.builder = BatchBuilder(
            representations=(self.table,),
            columns=tuple(input_columns(self.dataset.schema, ("click",), [self.table], None)),
            history_length=LONGEST,
            context_rows=1,
            dense_ids=None,
            tasks=("click",),
            sources={CONTRACT.source: CONTRACT.levels},
            id_dropout=0.0,
            seed=0,
        )

    def keys(self, share: int = 0, shares: int = 1) -> None:
        """Make item KJTs, and drop them."""
        for _ in self._kjts(share, shares):
            pass

    def batches(self) -> None:
        """Make whole batches, and drop them."""
        for _ in self._batches():
            pass

    def digest(self) -> str:
        """Of the item KJT's values and lengths over all rows. Raises AssertionError where whole batches have another."""
        values, lengths = hashlib.sha256(), hashlib.sha256()
        for items, batch in zip(self._kjts(), self._batches(), strict=True):
            assert batch.items is not None
            assert torch.equal(items.values(), batch.items.values())
            assert torch.equal(items.lengths(), batch.items.lengths())
            values.update(items.values().numpy())
            lengths.update(items.lengths().numpy())
        return values.hexdigest() + lengths.hexdigest()

    def touched(self) -> int:
        """Bytes of the columns that item KJTs are made of, and of these."""
        read = sum(table.nbytes for table in iter_row_groups(self.dataset, IDS))
        return read + sum(tensor.nbytes for items in self._kjts() for tensor in (items.values(), items.lengths()))

    def copy(self, size: int) -> None:
        """Copy so many bytes, in pieces as large as those of a batch."""
        copy(size, -(-self.dataset.rows // ROWS))

    def decode(self) -> None:
        """Read the columns that item KJTs are made of, checksums compared."""
        for _ in iter_row_groups(self.dataset, IDS):
            pass

    def _kjts(self, share: int = 0, shares: int = 1) -> Iterator[KeyedJaggedTensor]:
        for _, _, rows in self._rows(IDS, share, shares):
            positions = Positions(rows, LONGEST)
            items = ItemColumns(codes={CONTRACT.source: positions.codes("both", CONTRACT.source, CONTRACT.levels)})
            kjt = item_kjt([self.table], {"both": items}, positions.present(rows.num_rows))
            assert kjt is not None
            yield kjt

    def _batches(self) -> Iterator[Batch]:
        for start, stop, rows in self._rows(self.builder.columns):
            yield self.builder.build(rows, first_row=start, size=stop - start, step_rows=(start, stop), training=True, known_before=start)

    def _rows(self, columns: Sequence[str], share: int = 0, shares: int = 1) -> Iterator[tuple[int, int, pa.Table]]:
        """Rows with codes of one of several equal shares of the files, as pipeline.loader.BatchSource reads a log that has none."""
        dataset, store = replace(self.dataset, files=self.dataset.files[share::shares]), self.store.open()
        reader = RowReader(dataset, columns)
        plan = BatchPlan(0, reader.rows, ROWS)
        for step in range(plan.steps):
            start, stop = plan.rank_rows(step)
            read = reader.read(start, stop)
            impressions = pa.RecordBatch.from_arrays([column.combine_chunks() for column in read.columns], schema=read.schema)
            yield start, stop, pa.Table.from_batches([enrich(impressions, store, ADDITIONS).batch])
