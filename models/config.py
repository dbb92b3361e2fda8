"""What can be set on the quantizer and the ranker; free of torch, so that the command line starts at once."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys; every configuration class derives from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class QuantizerConfig(Strict):
    """RQ-VAE (paper A section 3): encoder, L codebooks of K codes, decoder, and how they are trained."""

    levels: Positive = Field(3, description="L, codes per item")
    codebook_size: Positive = Field(2048, le=65535, description="K, codes per level")
    hidden_dims: tuple[int, ...] = Field((256,), description="widths of the encoder's hidden layers; the decoder mirrors them")
    latent_dim: Positive = Field(96, description="width of the quantized latent vector")
    beta: float = Field(0.5, ge=0, description="weight of the commitment loss")
    learning_rate: float = Field(3e-3, gt=0, description="Adam step size, which falls to zero along a cosine")
    batch_size: Positive = Field(512, description="items per step")
    epochs: Positive = Field(20, description="passes over the items")
    min_usage: Fraction = Field(0.5, description="a level that uses a smaller share of its codes than this fails the stage as collapsed")
    seed: int = Field(0, description="seed of initialisation, batch order and code resets")


class RepresentationConfig(Strict):
    """One way to turn an item into table rows; its name in the recipe is the table's and the feature's name."""

    kind: Literal["individual", "random_hash", "semantic_id"] = Field(description="what the rows stand for")
    rows: Positive | None = Field(None, description="H, table rows; an equal share of model.rows by default")
    depth: Positive = Field(3, description="n of prefix-ngram, semantic_id only: keys per item")
    mapping: Literal["exact_coarse", "modulo"] = Field(
        "exact_coarse",
        description="semantic_id only: level 1 on its own rows, deeper levels hashed into equal shares of the rest; or the paper's modulo",
    )
    target: bool = Field(True, description="used for the target item")
    history: bool = Field(True, description="used for the history items")

    @model_validator(mode="after")
    def _rows_where_needed(self) -> "RepresentationConfig":
        if self.kind == "individual" and self.rows is not None:
            raise ValueError("individual takes no 'rows': it has one per item of the dense id map")
        if not (self.target or self.history):
            raise ValueError("a representation is used for the target, the history or both")
        return self


class RankerConfig(Strict):
    """DLRM with a history arm."""

    embedding_dim: Positive = Field(32, description="D, width of every embedding row; a multiple of 4 on a GPU")
    rows: Positive = Field(
        10_000, description="table rows of all hashed representations together, a third of the items for collision factor 3"
    )
    representations: dict[str, RepresentationConfig] = Field(description="table name to how items become its rows")
    history: Literal["bypass", "transformer", "pma"] = Field("bypass", description="history arm (paper A, appendix)")
    history_heads: Positive = Field(2, description="attention heads, transformer and pma")
    pma_seeds: Positive = Field(32, description="learned queries of pma")
    dense_arch: tuple[int, ...] = Field((64,), description="hidden widths below the last, D, of the dense arch")
    over_arch: tuple[int, ...] = Field((128, 64), description="hidden widths of the over arch; a logit follows")
    context_rows: Positive = Field(10_000, description="rows of each context column's table")

    @model_validator(mode="after")
    def _heads_divide(self) -> "RankerConfig":
        if self.history != "bypass" and self.embedding_dim % self.history_heads:
            raise ValueError(f"'embedding_dim' {self.embedding_dim} is not a multiple of 'history_heads' {self.history_heads}")
        return self

    def rows_of(self, name: str) -> int | None:
        """H of one representation's table: its own `rows`, or an equal share of the model's; None for individual."""
        chosen = self.representations[name]
        if chosen.kind == "individual":
            return None
        hashed = sum(other.kind != "individual" for other in self.representations.values())
        return chosen.rows or self.rows // hashed


class ShardingConfig(Strict):
    """What TorchRec's planner may choose from."""

    types: tuple[Literal["table_wise", "row_wise", "column_wise"], ...] = Field(
        ("table_wise", "row_wise", "column_wise"), description="allowed sharding types; all of them use the fused optimizer"
    )
