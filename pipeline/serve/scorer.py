"""The scorer: rows of impressions to probabilities, by a bundle's model on mapped tables and with training's own features."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from features.batch import Features
from features.enrich import Additions, enrich
from features.entity_store import SemanticIds
from features.errors import InputError
from features.schema import TARGET_CODES, require
from features.semantic_id import UNKNOWN_CODE
from models.ranker import Ranker
from pipeline.serve.bundle import Bundle, bare_ranker, table_parameters
from pipeline.serve.lookup import Int8Tables


class Scores(NamedTuple):
    """Of n rows.

    Attributes:
        probability_NK: float32 [n, K], of each task.
        known_N: bool [n], whether the target has a Semantic ID of some source that the model uses, or a trained row of its own; an
            unknown one is scored by the unknown row. A model that only hashes ids at random cannot tell, and all are True.
    """

    probability_NK: NDArray[np.float32]
    known_N: NDArray[np.bool_]


class Scorer:
    """A bundle's model with what answers it with Semantic IDs. For one thread."""

    def __init__(self, bundle: Bundle, store: SemanticIds) -> None:
        """Put the model together; its tables stay where they are mapped.

        Args:
            bundle: the bundle, opened.
            store: of the Semantic IDs; not asked where the model uses none.

        Raises:
            InputError: naming both sides, where the store's contract is not the bundle's.
        """
        self.bundle, self.store = bundle, store
        self.ranker = ranker_of(bundle)
        self._names = bundle.inputs.names
        self._additions = Additions(tuple(bundle.contracts))
        self._trained_rows = bundle.described.checkpoint.rows
        self.require_contracts()

    def score(self, rows: pa.RecordBatch) -> Scores:
        """Score rows, each by itself: neither their order nor the others change a row's score beyond rounding.

        Args:
            rows: n impressions, with the columns of `bundle.inputs` and maybe others.

        Raises:
            InputError: naming the column that is missing, of another type or null; or both sides, where the store has gone on to Semantic
                IDs of another contract.
        """
        enriched = self.enriched(rows)
        if not rows.num_rows:
            return Scores(np.empty((0, len(self.bundle.builder.tasks)), np.float32), np.empty(0, bool))
        return Scores(torch.sigmoid(self.logits(enriched)).numpy(), self._known(enriched))

    def enriched(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that the model reads, with codes. Raises InputError as `score` does."""
        require(rows.schema, self.bundle.inputs, "rows to score")
        columns = [rows.column(name) for name in self._names]
        for name, column in zip(self._names, columns, strict=True):
            if column.null_count or (pa.types.is_list(column.type) and column.values.null_count and column.flatten().null_count):
                raise InputError(f"rows to score: column '{name}' has a null")
        added = enrich(pa.RecordBatch.from_arrays(columns, schema=self.bundle.inputs), self.store, self._additions).batch
        self.require_contracts()  # after the look-up: contracts only go forward
        return added

    def logits(self, enriched: pa.RecordBatch) -> torch.Tensor:
        """float32 [n, K] of n >= 1 enriched rows."""
        with torch.inference_mode():
            return self.ranker.logits(self.features(enriched))

    def features(self, enriched: pa.RecordBatch) -> Features:
        """The tensors of n >= 1 enriched rows."""
        return self.bundle.builder.features(pa.Table.from_batches([enriched]), enriched.num_rows, self._trained_rows)

    def require_contracts(self) -> None:
        """Raise InputError, naming both sides, where the store's Semantic IDs are not of the bundle's contracts."""
        for source, contract in self.bundle.contracts.items():
            contract.require_same(self.store.contract(source), str(self.bundle.path), "the entity store")

    def _known(self, enriched: pa.RecordBatch) -> NDArray[np.bool_]:
        builder, ways = self.bundle.builder, []
        for r in builder.representations:
            if r.source is not None and r.target:
                codes = enriched.column(TARGET_CODES + r.source)  # made by `enriched`, so that it begins where its values do
                ways.append(codes.values.to_numpy()[: len(codes) * builder.sources[r.source] : builder.sources[r.source]] != UNKNOWN_CODE)
            elif r.kind == "individual" and r.target and builder.dense_ids is not None:
                ways.append(builder.dense_ids.rows(enriched.column("item_id").to_numpy(), self._trained_rows) >= 0)
        return np.logical_or.reduce(ways) if ways else np.ones(enriched.num_rows, bool)


def ranker_of(bundle: Bundle) -> Ranker:
    """A bundle's ranker; its weights are views of the mapped files."""
    ranker = bare_ranker(bundle.described.batch, bundle.described.model)
    weights = dict(bundle.dense)
    if bundle.described.tables == "fp32":
        weights |= {parameter: bundle.tables[name] for name, parameter in table_parameters(ranker).items()}
    else:
        if ranker.item_embeddings is not None:
            ranker.item_embeddings = Int8Tables({name: bundle.tables[name] for name in ranker.item_names})
        if ranker.context_embeddings is not None:
            ranker.context_embeddings = Int8Tables({name: bundle.tables[name] for name in ranker.context_names})
    ranker.load_state_dict(weights, assign=True)
    return ranker.requires_grad_(False)
