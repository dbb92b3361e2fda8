"""From the recipe's representations to item tables: their sources, parameterizations, learned vocabularies and rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import get_worker_info

from features.dataset import Dataset
from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.parameterization import Ngrams, Parameterization
from features.representation import Representation
from features.semantic_id import SidContract
from features.sid_pieces import SidPieces
from features.store.snapshot import Snapshot
from models.config import RepresentationConfig
from pipeline.config import RunConfig
from pipeline.pieces import learn, vocabulary_folder
from pipeline.progress import say


def source_of(config: RunConfig, chosen: RepresentationConfig) -> str:
    """The source of a semantic_id, as `train.store` calls it."""
    return config.sid_sources[config.embed.sources.index(chosen.source) if chosen.source else 0]


@dataclass(frozen=True)
class ItemTables:
    """What the tables of a run depend on.

    Attributes:
        config: the run's configuration.
        contracts: source, as `train.store` calls it, to the contract of its Semantic IDs.
        dataset: the impressions, which vocabularies are learned from.
        store: what their codes are looked up in; None where they hold them.
    """

    config: RunConfig
    contracts: dict[str, SidContract]
    dataset: Dataset
    store: Snapshot | None

    def representations(self, dense_ids: DenseIdMap | None) -> Iterator[Representation]:
        """In the recipe's order. Raises InputError naming the table whose scheme does not fit the codes."""
        for name, chosen in self.config.model.representations.items():
            rows = self.config.model.rows_of(name)
            if chosen.kind == "semantic_id":
                assert rows is not None
                yield self._semantic_id(name, chosen, rows)
            elif chosen.kind == "random_hash":
                assert rows is not None
                yield Representation(name, "random_hash", rows, chosen.target, chosen.history, hashes=chosen.hashes or 1)
            else:
                assert dense_ids is not None
                trained = chosen.unknown != "untrained"
                yield Representation(name, "individual", len(dense_ids.ids), chosen.target, chosen.history, trained_unknown=trained)

    def learn_vocabularies(self) -> None:
        """Those of scheme spm that are not there yet. Raises InputError naming the table."""
        for name, chosen in self.config.model.representations.items():
            if chosen.kind == "semantic_id" and chosen.chosen_scheme == "spm":
                contract = self.contracts[source_of(self.config, chosen)]
                try:
                    learn(self._vocabulary(name, contract), contract, self.dataset, self.store, **self._learned_from(name))
                except InputError as error:
                    raise InputError(f"model.representations.{name}: {error}") from error

    def _semantic_id(self, name: str, chosen: RepresentationConfig, budget: int) -> Representation:
        source = source_of(self.config, chosen)
        try:
            parameterization = self._parameterization(name, chosen, self.contracts[source])
        except InputError as error:
            raise InputError(f"model.representations.{name}: {error}") from error
        rows = _table_rows(name, budget, parameterization)
        return Representation(name, "semantic_id", rows, chosen.target, chosen.history, source, parameterization)

    def _parameterization(self, name: str, chosen: RepresentationConfig, contract: SidContract) -> Parameterization:
        scheme = chosen.chosen_scheme
        if scheme == "spm":
            return SidPieces.load(self._vocabulary(name, contract), contract)
        if scheme == "prefix_ngram":
            return Ngrams(scheme, contract.levels, contract.codebook_size, chosen.chosen_depth, chosen.chosen_mapping)
        return Ngrams(scheme, contract.levels, contract.codebook_size)

    def _vocabulary(self, name: str, contract: SidContract) -> Path:
        return vocabulary_folder(self.config.path("pieces"), contract, self.dataset, self.store, **self._learned_from(name))

    def _learned_from(self, name: str) -> dict[str, int]:
        """The stream is judged on its second half and the frozen model after training: a vocabulary knows of neither."""
        budget = self.config.model.rows_of(name)
        assert budget is not None
        return {"stop": int(self.dataset.rows * min(0.5, self.config.train.train_fraction)), "rows": budget}


def _table_rows(name: str, budget: int, parameterization: Parameterization) -> int:
    """Rows of the table, said once where they exceed the budget, by the training process of rank 0."""
    rows = parameterization.table_rows(budget)
    if rows > budget and get_worker_info() is None:
        say(f"table {name}: a modulo of {budget} rows, which share a factor with K, would lose coarse codes: {rows} rows taken")
    return rows
