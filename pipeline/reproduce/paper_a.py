"""Paper A's setting, which tables 2 to 4 share: the target alone is represented so, the history hashed, keys taken modulo the rows."""

from typing import Any

from pipeline.reproduce.core import target_only
from pipeline.reproduce.world import Coding, Variant, World

RANDOM_HASH = "target_random_hash"
SEMANTIC_ID = "target_prefix_3_modulo"
SHUFFLED_SEMANTIC_ID = "target_prefix_3_modulo_shuffled"
INDIVIDUAL = "target_individual_untrained"  # the paper's: an item shown for the first time has its own row, as it was initialised
INDIVIDUAL_UNKNOWN = "target_individual"  # ours: such an item takes the trained unknown row
LEVELS = 3  # L of the paper's experiments
PREFIX_3 = {"depth": 3, "mapping": "modulo"}

SETTING = (
    "Paper A's setting: only the target is represented as the row says, the user's history by hashed ids, and all dense features stay. "
    "Keys of Semantic IDs are taken modulo the table's rows, as in the paper; this project's own default keeps coarse rows exact."
)


def equal_rows(world: World) -> str:
    """What is said of the tables' sizes."""
    return (
        f"Equal table rows: each variant has a table of {world.config.model.rows:,} rows for the target and one for the history. A modulo "
        "is moved up to the next number that shares no factor with K, and a scheme with fewer keys than rows has a row per key."
    )


def scale(world: World) -> str:
    """What K stands for."""
    return f"K = {world.config.quantize.codebook_size}, the recipe's, stands for the paper's 2048."


def semantic_id(name: str, world: World, table: dict[str, Any], *, levels: int = LEVELS, divisor: int = 1, **settings: Any) -> Variant:
    """The target by Semantic IDs of a quantizer with L levels of the recipe's K over `divisor` codes."""
    return target_only(name, {"kind": "semantic_id"} | table, world, coding=_coding(world, levels, divisor), **settings)


def random_hash(world: World) -> Variant:
    """The baseline."""
    return target_only(RANDOM_HASH, {"kind": "random_hash"}, world)


def prefix_3(world: World) -> Variant:
    """The paper's Semantic IDs: prefixes of one to three codes."""
    return semantic_id(SEMANTIC_ID, world, PREFIX_3)


def shuffled(world: World) -> Variant:
    """The same, dealt out to the wrong items."""
    return semantic_id(SHUFFLED_SEMANTIC_ID, world, PREFIX_3, train__store="store_shuffled")


def individual(world: World) -> Variant:
    """A row per item, as in the paper."""
    return target_only(INDIVIDUAL, {"kind": "individual", "unknown": "untrained"}, world)


def individual_unknown(world: World) -> Variant:
    """A row per item, which knows that an item is new."""
    return target_only(INDIVIDUAL_UNKNOWN, {"kind": "individual"}, world)


def _coding(world: World, levels: int, divisor: int) -> Coding:
    """The world's own where that is what it has."""
    own = world.config.quantize
    wanted = {"levels": levels, "codebook_size": own.codebook_size // divisor}
    return Coding.of(**{key: value for key, value in wanted.items() if value != getattr(own, key)})
