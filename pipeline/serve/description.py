"""bundle.json: what a bundle says of itself, checked before anything else of it is opened."""

import re
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from features.batch import BatchSchema
from features.parameterization import Mapping, Ngrams, Parameterization, Scheme
from features.representation import Kind, Representation
from features.schema import TIMESTAMP
from features.semantic_id import SidContract
from models.config import RankerConfig, Strict

FORMAT = 1
TYPES = {str(kind): kind for kind in (pa.int64(), pa.float32(), TIMESTAMP, pa.list_(pa.int64()), pa.list_(TIMESTAMP))}
Precision = Literal["fp32", "int8"]


class NgramsDescription(Strict):
    """`features.parameterization.Ngrams`."""

    scheme: Scheme
    levels: int
    codebook_size: int
    depth: int
    mapping: Mapping


class RepresentationDescription(Strict):
    """`features.representation.Representation`; a vocabulary of scheme spm lies beside."""

    name: str
    kind: Kind
    rows: int
    target: bool
    history: bool
    source: str | None
    parameterization: NgramsDescription | Literal["spm"] | None
    hashes: int
    trained_unknown: bool

    @classmethod
    def of(cls, r: Representation) -> "RepresentationDescription":
        """What describes a representation."""
        described: NgramsDescription | Literal["spm"] | None = None if r.parameterization is None else "spm"
        if isinstance(r.parameterization, Ngrams):
            described = NgramsDescription(**vars(r.parameterization))
        return cls(**{**vars(r), "parameterization": described})

    def made(self, vocabulary: Parameterization | None) -> Representation:
        """The representation; `vocabulary` is that of scheme spm."""
        chosen = self.parameterization
        ngrams = Ngrams(**vars(chosen)) if isinstance(chosen, NgramsDescription) else vocabulary
        return Representation(**{**vars(self), "parameterization": ngrams})


class CheckpointDescription(Strict):
    """Where the weights come from."""

    run: str = Field(description="name of the run's folder")
    step: int = Field(description="batches trained")
    rows: int = Field(description="impressions trained: an item first impressed later has no trained individual row")
    sha256: str = Field(description="of the checkpoint's meta.json, and so of all its files")
    identity: dict[str, Any] = Field(description="what the weights depend on, as the checkpoint has it")


class Description(Strict):
    """All of bundle.json."""

    format: Literal[1]
    model: RankerConfig
    batch: BatchSchema = Field(description="tables and their rows, dense columns, history length T, tasks")
    inputs: dict[str, str] = Field(description="columns of the impressions that are read, in the order of training, and their Arrow types")
    dense_transformation: Literal["sign(x) ln(1 + |x|)"] = "sign(x) ln(1 + |x|)"
    representations: tuple[RepresentationDescription, ...]
    sid_contracts: dict[str, SidContract] = Field(description="by source")
    shared_source: str | None = Field(description="whose codes the shared depth of target and history item is counted on")
    items: int | None = Field(description="of the dense id map; null where there is none")
    tables: Precision = Field(description="fp32, or int8 with a float32 scale and offset per row")
    checkpoint: CheckpointDescription
    no_program: str | None = Field(description="why there is no torch.export program; null where there is one")

    @model_validator(mode="after")
    def _fits(self) -> "Description":
        for name in (*self.batch.item_tables, *self.batch.context_tables):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"'{name}' cannot be a table's name in a bundle, where it names a file")
        for name, kind in self.inputs.items():
            if kind not in TYPES:
                raise ValueError(f"column '{name}' is {kind}, which no column that the model reads can be")
        for r in self.representations:
            if r.kind == "semantic_id" and (r.source not in self.sid_contracts or r.parameterization is None):
                raise ValueError(f"table '{r.name}' is of source '{r.source}', which has no contract or no keys")
            if r.kind == "individual" and r.rows != self.items:
                raise ValueError(f"table '{r.name}' has {r.rows} rows, and there are {self.items} items")
        return self

    @property
    def input_schema(self) -> pa.Schema:
        """Of the rows that are scored."""
        return pa.schema([pa.field(name, TYPES[kind], nullable=False) for name, kind in self.inputs.items()])


def type_name(kind: pa.DataType) -> str:
    """What `Description.inputs` calls a type, however its list elements are called."""
    return next((name for name, known in TYPES.items() if known == kind), str(kind))
