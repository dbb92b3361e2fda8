"""From a configuration to batches: opens the data, the store and the dense id map, and loads steps of a plan in order."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import cached_property
from multiprocessing import resource_tracker
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from features.batch import Batch
from features.dataset import Dataset, open_dataset
from features.dense_ids import DenseIdMap
from features.enrich import Additions, enrich
from features.errors import InputError
from features.inputs import input_columns
from features.kjt import BatchBuilder
from features.reader import BatchPlan, RowReader
from features.semantic_id import SidContract
from features.sid_pieces import SidPieces
from features.store.broadcast import open_version
from features.store.snapshot import Snapshot
from pipeline.config import RunConfig
from pipeline.representations import ItemTables, source_of

# Takes rows with codes and the number of the first of them in the log, and gives as many others.
Change = Callable[[pa.Table, int], pa.Table]


class BatchSource:
    """The run's input, opened on first use in each process; made anew from the same arguments in a loader process."""

    def __init__(self, config: RunConfig, version: str | None = None) -> None:
        """Name the input.

        Args:
            config: the run's configuration.
            version: of the entity store, as `prepare` returned it: all ranks and loader processes read one version, whatever is published
                meanwhile. The current one by default.
        """
        self.config, self.version = config, version

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchSource, (self.config, self.version)

    @cached_property
    def dataset(self) -> Dataset:
        """The impressions, with codes (`train.input: enriched`) or without."""
        return open_dataset(self.config.location(self.config.train.input))

    @cached_property
    def store(self) -> Snapshot:
        """The entity store's snapshot."""
        return open_version(self.config.location(self.config.train.store), self.version)

    @cached_property
    def contracts(self) -> dict[str, SidContract]:
        """Source, as `train.store` calls it, to the contract of its Semantic IDs; of the sources that the model uses, in their order.

        Raises:
            InputError: naming both sides, if the enriched files and the store do not belong together.
        """
        model, sources = self.config.model, self.config.sid_sources
        used = {source_of(self.config, chosen) for chosen in model.representations.values() if chosen.kind == "semantic_id"}
        if model.shared_prefix:
            used.add(sources[0])
        contracts = {source: self.store.contract(source) for source in sources if source in used}
        if self.config.train.input == "enriched":
            where, store = str(self.dataset.location), str(self.config.location(self.config.train.store))
            enriched = [SidContract.from_json(each, where) for each in self.dataset.metadata.get("sid_contracts", [])]
            by_source = {contract.source: contract for contract in enriched}
            for source, contract in contracts.items():
                if source not in by_source:
                    there = ", ".join(by_source) or "none"
                    raise InputError(f"{where}: has codes of source {there}, but {store} is read for '{source}'; run stage enrich again")
                by_source[source].require_same(contract, where, store)
        return contracts

    @property
    def looks_up_codes(self) -> bool:
        """Whether codes come from the store while reading, and not from enriched files."""
        return bool(self.contracts) and self.config.train.input == "impressions"

    @cached_property
    def builder(self) -> BatchBuilder:
        """Makes this run's batches."""
        config, train = self.config, self.config.train
        individual = any(chosen.kind == "individual" for chosen in config.model.representations.values())
        dense_ids = DenseIdMap.load(config.path("dense_ids")) if individual else None
        representations = tuple(self._tables.representations(dense_ids))
        shared_source = config.sid_source if config.model.shared_prefix else None
        return BatchBuilder(
            representations=representations,
            columns=tuple(input_columns(self.dataset.schema, config.model.tasks, representations, shared_source)),
            history_length=config.ingest.history_length,
            context_rows=config.model.context_rows,
            dense_ids=dense_ids,
            tasks=config.model.tasks,
            sources={source: contract.levels for source, contract in self.contracts.items()},
            id_dropout=train.id_dropout,
            seed=train.seed,
            shared_source=shared_source,
        )

    @cached_property
    def reader(self) -> RowReader:
        """Reads the columns that the builder needs."""
        return RowReader(self.dataset, self.builder.columns)

    def rows(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop) with codes, looked up here where the input has none."""
        table = self.reader.read(start, stop)
        if not self.looks_up_codes:
            return table
        batch = pa.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)
        return pa.Table.from_batches([enrich(batch, self.store, Additions(tuple(self.contracts))).batch])

    def batches(
        self, plan: BatchPlan, first_step: int, *, training: bool, known_before: int | None = None, change: Change | None = None
    ) -> Iterator[Batch]:
        """This rank's batches from `first_step` to the plan's end, in order.

        Args:
            plan: which rows.
            first_step: the first step to load.
            training: apply id dropout.
            known_before: row before which an item's first impression must lie for an individual row; each step's own first row by default.
            change: what the rows are replaced by, to ask what the model makes of other ones.
        """
        steps = _Steps(self, plan, training, known_before, change)
        workers = self.config.train.workers
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=range(first_step, plan.steps),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_leave_process_group,
            pin_memory=torch.cuda.is_available(),  # without it a copy to the GPU waits for the step before
        )
        if not workers:
            return iter(loader)
        # A worker can leave the group that SIGTERM comes to only once it runs: until then it inherits that the signal waits.
        # The tracker is started before, since its start ends with the signal let through.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def prepare(self) -> str | None:
        """Learn the vocabularies of scheme spm that are not there yet; called on one rank, before any opens `builder`.

        Returns:
            The version of the entity store that all ranks are to read; None where no representation uses Semantic IDs.
        """
        self._tables.learn_vocabularies()
        return self.store.path.name if self.contracts else None

    @property
    def pieces(self) -> dict[str, str]:
        """Table name to the hash of its vocabulary, of scheme spm."""
        tables = ((r.name, r.parameterization) for r in self.builder.representations)
        return {name: vocabulary.sha256 for name, vocabulary in tables if isinstance(vocabulary, SidPieces)}

    @cached_property
    def _tables(self) -> ItemTables:
        return ItemTables(self.config, self.contracts, self.dataset, self.store if self.looks_up_codes else None)


def _leave_process_group(worker: int) -> None:
    """torchrun sends SIGTERM to a rank's whole process group: it is the rank's to heed, which still needs its loader processes then."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which drops one that came before
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Steps(TorchDataset[Batch]):
    def __init__(self, source: BatchSource, plan: BatchPlan, training: bool, known_before: int | None, change: Change | None) -> None:
        self.source, self.plan, self.training, self.known_before, self.change = source, plan, training, known_before, change

    def __getitem__(self, step: int) -> Batch:
        first, stop = self.plan.rank_rows(step)
        step_rows = self.plan.step_rows(step)
        rows = self.source.rows(first, stop)
        return self.source.builder.build(
            rows if self.change is None else self.change(rows, first),
            first_row=first,
            size=self.plan.local_batch,
            step_rows=step_rows,
            training=self.training,
            known_before=step_rows[0] if self.known_before is None else self.known_before,
        )
