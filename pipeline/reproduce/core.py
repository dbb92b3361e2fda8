"""The variants that every world has, and the ways in which findings build their own."""

from typing import Any

from pipeline.reproduce.world import OWN, Coding, Variant, World

Representations = dict[str, dict[str, Any]]
RANDOM_HASH = "random_hash"  # the baseline
SHUFFLED = {"train.store": "store_shuffled"}


def represented(name: str, representations: Representations, *, coding: Coding = OWN, **settings: Any) -> Variant:
    """A variant with these item tables; `settings` are further overrides, with `__` for the dot."""
    further = {key.replace("__", "."): value for key, value in settings.items()}
    return Variant(name, {"model.representations": representations, **further}, coding)


def core(world: World) -> list[Variant]:
    """No item, random hash, a row per item, Semantic IDs, both, and shuffled Semantic IDs, for target and history alike, at equal rows."""
    semantic_id = {"kind": "semantic_id"}
    return [
        represented("no_item", {"random_hash": {"kind": "random_hash", "target": False}}),
        represented(RANDOM_HASH, {"random_hash": {"kind": "random_hash"}}),
        represented("individual", {"individual": {"kind": "individual"}}),
        represented("semantic_id", {"semantic_id": semantic_id}),
        represented("semantic_id_and_random_hash", {"semantic_id": semantic_id, "random_hash": {"kind": "random_hash"}}),
        represented("shuffled_semantic_id", {"semantic_id": semantic_id}, train__store="store_shuffled"),
    ]


def target_only(name: str, target: dict[str, Any], world: World, *, coding: Coding = OWN, **settings: Any) -> Variant:
    """Paper A's sparse module: the target alone is represented so, the history by hashed ids; each table has the recipe's rows."""
    rows = world.config.model.rows
    tables = {
        "target": {"rows": rows} | target | {"history": False},
        "hashed_history": {"kind": "random_hash", "target": False, "rows": rows},
    }
    if target["kind"] == "individual":
        del tables["target"]["rows"]
    return represented(name, tables, coding=coding, **settings)
