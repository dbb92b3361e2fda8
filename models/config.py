"""What can be set on the ranker; free of torch, so that the command line starts at once."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Scheme = Literal["prefix_ngram", "trigram", "fourgram", "all_bigrams", "unigram", "bigram", "spm"]  # see features.parameterization


KEYS_OF_KIND = {"semantic_id": ("scheme", "depth", "mapping", "source"), "random_hash": ("hashes",), "individual": ("unknown",)}


class Strict(BaseModel):
    """A frozen model that refuses unknown keys; every configuration class derives from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RepresentationConfig(Strict):
    """One way to turn an item into table rows; its name in the recipe is the table's and the feature's name."""

    kind: Literal["individual", "random_hash", "semantic_id"] = Field(description="what the rows stand for")
    rows: Positive | None = Field(None, description="H, table rows; an equal share of model.rows by default")
    scheme: Scheme | None = Field(
        None,
        description="semantic_id only, default prefix_ngram: which groups of codes have rows; unigram is the per-level sum, "
        "spm learns SentencePiece pieces from the first half of the rows",
    )
    depth: Positive | None = Field(None, description="n of scheme prefix_ngram alone, default 3: keys per item")
    mapping: Literal["exact_coarse", "nested", "modulo"] | None = Field(
        None,
        description="how keys fit into fewer rows: modulo; or, prefix_ngram alone, exact_coarse, its default: coarse prefixes on their "
        "own rows, deeper ones hashed into equal shares of the rest; or nested: as that, but what collides shares its first code",
    )
    source: str | None = Field(
        None, description="semantic_id only: whose Semantic IDs, one of embed.sources; the first of them, the run's default, if null"
    )
    hashes: Literal[1, 2] | None = Field(None, description="random_hash only, default 1: rows per item; 2 is double hashing")
    unknown: Literal["trained", "untrained"] | None = Field(
        None,
        description="individual only, default trained: an item shown for the first time takes the unknown row, which train.id_dropout "
        "trains; untrained gives it its own row, as it was initialised (paper A)",
    )
    target: bool = Field(True, description="used for the target item")
    history: bool = Field(True, description="used for the history items")

    @model_validator(mode="after")
    def _only_what_the_kind_uses(self) -> "RepresentationConfig":
        for owner, names in KEYS_OF_KIND.items():
            ignored = [name for name in names if getattr(self, name) is not None]
            if owner != self.kind and ignored:
                raise ValueError(f"{self.kind} takes no '{ignored[0]}': it is of {owner} alone")
        return self

    @model_validator(mode="after")
    def _only_what_the_scheme_uses(self) -> "RepresentationConfig":
        scheme = self.chosen_scheme
        if scheme != "prefix_ngram" and self.depth is not None:
            raise ValueError(f"scheme {scheme} takes no 'depth': it is of prefix_ngram alone")
        if scheme == "spm" and self.mapping is not None:
            raise ValueError("scheme spm takes no 'mapping': it has no more pieces than rows")
        if scheme != "prefix_ngram" and self.mapping not in (None, "modulo"):
            raise ValueError(f"mapping {self.mapping} is of prefix_ngram alone: scheme {scheme} takes modulo")
        return self

    @model_validator(mode="after")
    def _rows_where_needed(self) -> "RepresentationConfig":
        if self.kind == "individual" and self.rows is not None:
            raise ValueError("individual takes no 'rows': it has one per item of the dense id map")
        if not (self.target or self.history):
            raise ValueError("a representation is used for the target, the history or both")
        return self

    @property
    def chosen_scheme(self) -> Scheme:
        """The scheme of a semantic_id."""
        return self.scheme or "prefix_ngram"

    @property
    def chosen_depth(self) -> int:
        """n of prefix_ngram."""
        return self.depth or 3

    @property
    def chosen_mapping(self) -> Literal["exact_coarse", "nested", "modulo"]:
        """The mapping of any scheme but spm."""
        return self.mapping or ("exact_coarse" if self.chosen_scheme == "prefix_ngram" else "modulo")

    @property
    def in_words(self) -> str:
        """The scheme of a semantic_id, for reports."""
        if self.chosen_scheme != "prefix_ngram":
            return self.chosen_scheme
        return f"prefixes 1 to {self.chosen_depth}, {self.chosen_mapping.replace('_', ' ')} rows"


class RankerConfig(Strict):
    """DLRM with a history arm."""

    embedding_dim: Positive = Field(32, description="D, width of every embedding row; a multiple of 4 on a GPU")
    rows: Positive = Field(
        10_000, description="table rows of all hashed representations together, a third of the items for collision factor 3"
    )
    representations: dict[str, RepresentationConfig] = Field(description="table name to how items become its rows")
    fusion: Literal["separate", "gate"] = Field(
        "separate",
        description="several representations of an item: separate target vectors, their sum in the history; or one vector for target and "
        "history alike, their mean with weights that a learned gate gives to each item",
    )
    shared_prefix: bool = Field(
        False,
        description="tell the history arm how many leading codes of the default source each history item shares with the target",
    )
    tasks: tuple[str, ...] = Field(
        ("click",), min_length=1, description="what is predicted, from labels label_NAME; stage evaluate judges the first"
    )
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

    @model_validator(mode="after")
    def _gate_has_a_choice(self) -> "RankerConfig":
        if self.fusion == "gate":
            if len(self.representations) < 2:
                raise ValueError("fusion 'gate' weighs several representations, and there is only one")
            for name, chosen in self.representations.items():
                if not (chosen.target and chosen.history):
                    raise ValueError(f"fusion 'gate' weighs representations of target and history, and '{name}' is not of both")
        return self

    def rows_of(self, name: str) -> int | None:
        """H of one representation's table: its own `rows`, or an equal share of the model's; None for individual."""
        chosen = self.representations[name]
        if chosen.kind == "individual":
            return None
        hashed = sum(other.kind != "individual" for other in self.representations.values())
        return chosen.rows or self.rows // hashed
