"""What can be set on how the tables are spread over the ranks, and on precision; free of torch, so that the command line starts at once."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.config import Strict

ShardingType = Literal[
    "data_parallel", "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid_shard"
]  # TorchRec's
Pipeline = Literal["auto", "base", "sparse_dist", "prefetch"]

SPLITS_ROWS = frozenset({"row_wise", "table_row_wise", "grid_shard"})
SPLITS_COLUMNS = frozenset({"column_wise", "table_column_wise", "grid_shard"})


class ShardingConfig(Strict):
    """What TorchRec's planner may choose from, what it may not, and how the step computes and communicates."""

    types: tuple[ShardingType, ...] = Field(
        ("table_wise", "row_wise", "column_wise"),
        min_length=1,
        description="sharding types the planner chooses from, for a table not named",
    )
    tables: dict[str, ShardingType] = Field({}, description="table name to its sharding type; the others are left to the planner")
    column_width: Annotated[int, Field(gt=0, multiple_of=4)] | None = Field(
        None, description="narrowest column shard of the types that split columns, a multiple of 4; null is TorchRec's 128"
    )
    cached: dict[str, Annotated[float, Field(gt=0.0, lt=1.0)]] = Field(
        {}, description="table name to the share of its rows that a GPU caches, the table itself being in main memory; for one too large"
    )
    device_memory_gb: float | None = Field(
        None, gt=0, description="memory per rank that the planner may fill, in GiB; null is what the device has, or the rank's share of it"
    )
    table_precision: Literal["fp32", "fp16"] = Field("fp32", description="of the tables' weights; their Adagrad moments are fp32")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the dense arithmetic; dense weights and the last layer are fp32")
    communication: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32",
        description="of pooled embeddings between ranks, int8 for types that split no rows; below fp32 their gradients go as bf16, "
        "whose range they need",
    )
    pipeline: Pipeline = Field(
        "auto",
        description="TorchRec's training pipeline: base; sparse_dist, which overlaps a batch's copy and exchange of ids with the step "
        "before; prefetch, which fills the caches too; auto is base on a CPU, prefetch where tables are cached, or else sparse_dist",
    )

    @model_validator(mode="after")
    def _what_excludes_another(self) -> "ShardingConfig":
        chosen = {f"tables.{name}": kind for name, kind in self.tables.items()} | {f"types {kind}": kind for kind in self.types}
        for where, kind in chosen.items():
            if self.table_precision == "fp16" and kind == "data_parallel":
                raise ValueError(f"'{where}' cannot be data_parallel with table_precision fp16: gradients would be summed in fp16")
            if self.communication == "int8" and kind in SPLITS_ROWS:
                raise ValueError(f"'{where}' cannot be {kind} with communication int8: parts of a bag are summed on their way")
        for name in self.cached:
            if self.tables.get(name) == "data_parallel" or (name not in self.tables and "data_parallel" in self.types):
                raise ValueError(f"'cached.{name}': a cached table cannot be data_parallel, which 'tables' or 'types' allows")
        if self.cached and self.pipeline not in ("auto", "prefetch"):
            raise ValueError(f"'pipeline' {self.pipeline} does not fill the caches of {', '.join(self.cached)}: prefetch does")
        return self
