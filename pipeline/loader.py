"""From a configuration to batches: opens the data, the store and the dense id map, and loads steps of a plan in order."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from features.dataset import Dataset, open_dataset
from features.dense_ids import DenseIdMap
from features.enrich import enrich
from features.errors import InputError
from features.kjt import Batch, BatchBuilder, input_columns
from features.parameterization import Ngrams, Parameterization
from features.reader import BatchPlan, RowReader
from features.representation import Representation
from features.semantic_id import SidContract
from features.sid_pieces import SidPieces
from features.store.snapshot import Snapshot
from features.store.versions import open_snapshot
from models.config import RepresentationConfig
from pipeline.config import RunConfig
from pipeline.pieces import learn, vocabulary_folder
from pipeline.progress import say


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
        return open_dataset(self.config.path(self.config.train.input))

    @cached_property
    def store(self) -> Snapshot:
        """The entity store's snapshot."""
        return open_snapshot(self.config.path(self.config.train.store), self.version)

    @cached_property
    def contract(self) -> SidContract | None:
        """The Semantic ID contract of the input; None where no representation uses Semantic IDs.

        Raises:
            InputError: naming both sides, if the enriched files and the store do not belong together.
        """
        if not self._needs("semantic_id"):
            return None
        if self.config.train.input == "enriched":
            where = str(self.dataset.path)
            enriched = SidContract.from_json(self.dataset.metadata.get("sid_contract", {}), where)
            enriched.require_same(self._store_contract, where, str(self.config.path(self.config.train.store)))
        return self._store_contract

    @property
    def _store_contract(self) -> SidContract:
        return self.store.contract(self.config.sid_source)

    @property
    def looks_up_codes(self) -> bool:
        """Whether codes come from the store while reading, and not from enriched files."""
        return self.contract is not None and self.config.train.input == "impressions"

    @cached_property
    def builder(self) -> BatchBuilder:
        """Makes this run's batches."""
        dense_ids = DenseIdMap.load(self.config.path("dense_ids")) if self._needs("individual") else None
        contract, train = self.contract, self.config.train
        return BatchBuilder(
            representations=tuple(self._representations(contract, dense_ids)),
            columns=tuple(input_columns(self.dataset.schema, self.config.model.tasks, codes=contract is not None)),
            history_length=self.config.ingest.history_length,
            context_rows=self.config.model.context_rows,
            dense_ids=dense_ids,
            tasks=self.config.model.tasks,
            levels=contract.levels if contract else 0,
            id_dropout=train.id_dropout,
            seed=train.seed,
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
        return pa.Table.from_batches([enrich(batch, self.store, self.config.sid_source).batch])

    def batches(self, plan: BatchPlan, first_step: int, *, training: bool, known_before: int | None = None) -> Iterator[Batch]:
        """This rank's batches from `first_step` to the plan's end, in order.

        Args:
            plan: which rows.
            first_step: the first step to load.
            training: apply id dropout.
            known_before: row before which an item's first impression must lie for an individual row; each step's own first row by default.
        """
        steps = _Steps(self, plan, training, known_before)
        workers = self.config.train.workers
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=range(first_step, plan.steps),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )
        return iter(loader)

    def prepare(self) -> str | None:
        """Learn the vocabularies of scheme spm that are not there yet; called on one rank, before any opens `builder`.

        Returns:
            The version of the entity store that all ranks are to read; None where no representation uses Semantic IDs.
        """
        for name, chosen in self.config.model.representations.items():
            if chosen.kind == "semantic_id" and chosen.chosen_scheme == "spm":
                assert self.contract is not None
                try:
                    learn(self._vocabulary(name), self.contract, self.dataset, self._codes_from, **self._learned_from(name))
                except InputError as error:
                    raise InputError(f"model.representations.{name}: {error}") from error
        return self.store.path.name if self.contract is not None else None

    @property
    def pieces(self) -> dict[str, str]:
        """Table name to the hash of its vocabulary, of scheme spm."""
        tables = ((r.name, r.parameterization) for r in self.builder.representations)
        return {name: vocabulary.sha256 for name, vocabulary in tables if isinstance(vocabulary, SidPieces)}

    @property
    def _codes_from(self) -> Snapshot | None:
        return self.store if self.looks_up_codes else None

    def _learned_from(self, name: str) -> dict[str, int]:
        """The stream is judged on its second half and the frozen model after training: a vocabulary knows of neither."""
        budget = self.config.model.rows_of(name)
        assert budget is not None
        return {"stop": int(self.dataset.rows * min(0.5, self.config.train.train_fraction)), "rows": budget}

    def _vocabulary(self, name: str) -> Path:
        assert self.contract is not None
        folder = self.config.path("pieces")
        return vocabulary_folder(folder, self.contract, self.dataset, self._codes_from, **self._learned_from(name))

    def _needs(self, kind: str) -> bool:
        return any(r.kind == kind for r in self.config.model.representations.values())

    def _representations(self, contract: SidContract | None, dense_ids: DenseIdMap | None) -> Iterator[Representation]:
        for name, chosen in self.config.model.representations.items():
            rows, parameterization = self.config.model.rows_of(name), None
            if rows is None:
                assert dense_ids is not None
                rows = len(dense_ids.ids)
            if chosen.kind == "semantic_id":
                assert contract is not None
                parameterization = self._parameterization(name, chosen, contract)
                rows = _table_rows(name, rows, parameterization)
            yield Representation(name, chosen.kind, rows, chosen.target, chosen.history, parameterization)

    def _parameterization(self, name: str, chosen: RepresentationConfig, contract: SidContract) -> Parameterization:
        scheme = chosen.chosen_scheme
        try:
            if scheme == "prefix_ngram":
                return Ngrams(scheme, contract.levels, contract.codebook_size, chosen.chosen_depth, chosen.chosen_mapping)
            if scheme == "spm":
                return SidPieces.load(self._vocabulary(name), contract)
            return Ngrams(scheme, contract.levels, contract.codebook_size)
        except InputError as error:
            raise InputError(f"model.representations.{name}: {error}") from error


def _table_rows(name: str, budget: int, parameterization: Parameterization) -> int:
    """Rows of the table, said once where they exceed the budget, by the training process of rank 0."""
    rows = parameterization.table_rows(budget)
    if rows > budget and get_worker_info() is None:
        say(f"table {name}: a modulo of {budget} rows, which share a factor with K, would lose coarse codes: {rows} rows taken")
    return rows


class _Steps(TorchDataset[Batch]):
    def __init__(self, source: BatchSource, plan: BatchPlan, training: bool, known_before: int | None) -> None:
        self.source, self.plan, self.training, self.known_before = source, plan, training, known_before

    def __getitem__(self, step: int) -> Batch:
        first, stop = self.plan.rank_rows(step)
        step_rows = self.plan.step_rows(step)
        return self.source.builder.build(
            self.source.rows(first, stop),
            first_row=first,
            size=self.plan.local_batch,
            step_rows=step_rows,
            training=self.training,
            known_before=step_rows[0] if self.known_before is None else self.known_before,
        )
