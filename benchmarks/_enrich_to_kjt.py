"""Our way from Parquet to training batches, made of the parts of pipeline.loader as they are, and the ceilings above it."""

import hashlib
from collections.abc import Iterator
from dataclasses import fields, replace
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
from features.kjt import BatchBuilder
from features.reader import BatchPlan, RowReader
from features.representation import Representation
from features.store.broadcast import StoreVersion

ROWS = 4096  # of a batch


class ToKjt:
    """Makes batches of the log below a folder."""

    def __init__(self, folder: Path) -> None:
        """Open the log and the store."""
        self.dataset, self.store = open_dataset(folder / "impressions"), StoreVersion.current(folder / "store")
        table = Representation("semantic_id", "semantic_id", TABLE_ROWS, source=CONTRACT.source, parameterization=NGRAMS)
        self.builder = BatchBuilder(
            representations=(table,),
            columns=tuple(input_columns(self.dataset.schema, ("click",), [table], None)),
            history_length=LONGEST,
            context_rows=1,
            dense_ids=None,
            tasks=("click",),
            sources={CONTRACT.source: CONTRACT.levels},
            id_dropout=0.0,
            seed=0,
        )

    def batches(self, share: int = 0, shares: int = 1) -> Iterator[Batch]:
        """Batches of one of several equal shares of the files, as pipeline.loader.BatchSource makes them where the log has no codes."""
        dataset, store = replace(self.dataset, files=self.dataset.files[share::shares]), self.store.open()
        reader = RowReader(dataset, self.builder.columns)
        plan = BatchPlan(0, reader.rows, ROWS)
        for step in range(plan.steps):
            start, stop = plan.rank_rows(step)
            read = reader.read(start, stop)
            impressions = pa.RecordBatch.from_arrays([column.combine_chunks() for column in read.columns], schema=read.schema)
            rows = pa.Table.from_batches([enrich(impressions, store, ADDITIONS).batch])
            yield self.builder.build(rows, first_row=start, size=stop - start, step_rows=(start, stop), training=True, known_before=start)

    def keys(self, share: int = 0, shares: int = 1) -> None:
        """Make batches, and drop them."""
        for _ in self.batches(share, shares):
            pass

    def digest(self) -> str:
        """Of the item KJT's values and lengths over all batches."""
        values, lengths = hashlib.sha256(), hashlib.sha256()
        for batch in self.batches():
            assert batch.items is not None
            values.update(batch.items.values().numpy())
            lengths.update(batch.items.lengths().numpy())
        return values.hexdigest() + lengths.hexdigest()

    def touched(self) -> int:
        """Bytes of the columns that are read and the tensors that are made."""
        read = sum(table.nbytes for table in iter_row_groups(self.dataset, self.builder.columns))
        return read + sum(tensor.nbytes for batch in self.batches() for tensor in _tensors(batch))

    def copy(self, size: int) -> None:
        """Copy so many bytes, in pieces as large as those of a batch."""
        copy(size, -(-self.dataset.rows // ROWS))

    def decode(self) -> None:
        """Read the columns that batches are made of, checksums compared."""
        for _ in iter_row_groups(self.dataset, self.builder.columns):
            pass


def _tensors(batch: Batch) -> Iterator[torch.Tensor]:
    for value in (getattr(batch, field.name) for field in fields(batch)):
        if isinstance(value, KeyedJaggedTensor):
            yield from (value.values(), value.lengths())
        elif value is not None:
            yield value
