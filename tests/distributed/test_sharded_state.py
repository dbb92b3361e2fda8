"""The state of a sharded model, saved under one plan and number of ranks, is bit for bit the same under another."""

import json
from pathlib import Path

import pytest

from tests.distributed.ranks import run_ranks
from tests.toy_log import toy_recipe, write_enriched_toy_log

TWO_TABLES = "{semantic_id: {kind: semantic_id, rows: 97}, own: {kind: individual}}"
Changes = dict[str, object]


def every_table(kind: str) -> Changes:
    return {"sharding.types": [kind]}


SAVED = {kind: every_table(kind) for kind in ("row_wise", "table_wise", "data_parallel", "column_wise", "table_row_wise")}
SAVED["mixed"] = {"sharding.tables": {"semantic_id": "column_wise", "own": "data_parallel"}, "sharding.types": ["row_wise"]}
ON_TWO_RANKS = [
    ("table_wise", every_table("row_wise")),
    ("data_parallel", every_table("row_wise")),
    ("row_wise", every_table("data_parallel")),
    ("table_row_wise", every_table("table_wise")),
    ("column_wise", every_table("column_wise")),
    ("column_wise", every_table("row_wise")),  # moments per column shard are refused
]
ON_ONE_RANK = [
    ("row_wise", every_table("row_wise")),
    ("row_wise", every_table("data_parallel")),
    ("column_wise", every_table("table_column_wise")),
    ("mixed", SAVED["mixed"]),
]
ON_TWO_NODES_OF_TWO = [
    ("row_wise", every_table("row_wise")),
    ("data_parallel", every_table("table_row_wise")),
    ("column_wise", every_table("grid_shard")),
    ("mixed", {**SAVED["mixed"], "sharding.types": ["table_wise"]}),
    ("table_wise", every_table("grid_shard")),  # refused
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks saved, and on the way loaded under other plans."""
    folder = tmp_path_factory.mktemp("state")
    write_enriched_toy_log(folder / "work", rows=1000)
    run(folder, 2, SAVED, ON_TWO_RANKS)
    return folder


@pytest.mark.parametrize(("world", "loads"), [(1, ON_ONE_RANK), (4, ON_TWO_NODES_OF_TWO)])
def test_what_two_ranks_saved_is_the_same_on_others(folder: Path, world: int, loads: list[tuple[str, Changes]]) -> None:
    run(folder, world, {}, loads)


def run(folder: Path, world: int, plans: dict[str, Changes], loads: list[tuple[str, Changes]]) -> None:
    settings = toy_recipe(folder / "work", **{"model.representations": TWO_TABLES, "sharding.column_width": 4})
    arguments = (str(folder), str(min(world, 2)), json.dumps(plans), json.dumps(loads))
    done = run_ranks(world, "tests.distributed.sharded_state_worker", *arguments, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("loaded on rank") == world * len(loads)
